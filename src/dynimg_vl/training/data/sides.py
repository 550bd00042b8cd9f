"""Words for left and right and for senses of rotation: what a mirrored picture would make a lie.

Beginnings of words, so that inflections count too. A word too many costs a flip, one too few a wrong label: where a
language has one word for right, law and straight on, it stands here all the same.
"""

import re

_BEGINNINGS = {
    "en": r"left|right|clockwise|(?:counter|anti)-?\s?clockwise|mirror",
    "de": r"link[es]|recht|spiegel|uhrzeiger|(?:gegen)?uhrzeigersinn",
    "fr": r"gauche|droit|aiguilles d.une montre|(?:anti-?)?horaire|miroir",
    "es": r"izquierd|derech|diestr|zurd|(?:anti)?horari|agujas del reloj|espejo",
    "it": r"sinistr|destr|orari|antiorari|specchi",
    "pt": r"esquerd|direit|(?:anti-?)?horári|ponteiros do rel|espelh",
    "ru": r"лев|прав|слева|справа|влево|вправо|налево|направо|по часовой|против часовой|зеркал",
}
# Written without spaces, or with prefixes: anywhere in a word.
_ANYWHERE = {
    "zh, ja": r"左|右|顺时针|逆时针|順時針|逆時針|時計回り|反時計|镜|鏡",
    "ko": r"왼|오른|좌측|우측|좌회|우회|시계\s?방향|거울",
}
_SIDES = re.compile(rf"\b(?:{'|'.join(_BEGINNINGS.values())})|{'|'.join(_ANYWHERE.values())}", re.IGNORECASE)


def speaks_of_sides(text: str) -> bool:
    """Tell whether a text speaks of left, right or a sense of rotation, in one of ten languages."""
    return _SIDES.search(text) is not None
