"""Which option a free answer means: exactly one, or none.

An answer is read in every way that the rules below allow; it counts where all readings agree on one option. What is
accepted, by way of example for an option B "to the left":

- the letter alone, also in brackets, lower case or with a full stop: B, b, (B), [b], B., **B**;
- the letter, set off by a bracket, full stop, colon, comma or the end of its line, and something after it:
  (B) to the left, B. It moved; but not where what follows names another option (A or B), is the text of another, or
  denies it;
- the letter and the option's own text, also with a dash or brackets between: B to the left, B - to the left;
- the option's own text, whatever its case and final stop; a text that is also another option's letter is not;
- any of these after words such as "Answer:", "The best option is" or "Option", and "B is correct";
- a statement of that kind within a longer text, where all such statements agree.

Not accepted: an empty answer, a bracket alone, letters that are no option, a word that begins like an option
("A man runs"), two options, a denied one. Letters of other scripts are none, their full-width forms are.
"""

import re
import unicodedata
from collections.abc import Sequence

from .prompts import letter_of

_LONGEST = 20_000
"""Characters of an answer that are read; generation stops long before."""

_NAMES = r"(?:answer|option|choice)"
_WORTH = r"(?:best|correct|right|final|most likely)"
_LEAD = re.compile(
    rf"(?:(?:so|thus|therefore|hence)\b[ ,]*)?(?:(?:the|my)\s+)?(?:{_WORTH}\s+)?{_NAMES}"
    rf"\s*(?:is\s*:|is\b|:|=|-|)\s*(?:{_NAMES}\s+)?",
    re.IGNORECASE,
)
_STATED = re.compile(rf"\b{_NAMES}\s*(?:is\s*:|is\b|:)\s*(?:{_NAMES}\s+)?", re.IGNORECASE)
# The opening bracket may stand alone: the prompt may have given it, and a short answer may not close it.
_SET_OFF = re.compile(r"[(\[{]?\s*([A-Za-z])\s*[)\]}.:;,!?]")
# A letter that has a line to itself; within prose a small one is rather the article.
_OWN_LINE = re.compile(r"^([ \t]*[(\[{]?[A-Z][)\]}]?)[ \t]*$(?=\s*\S)", re.MULTILINE)
_BARE = re.compile(r"[(\[{]?\s*([A-Za-z])(?=\s|$)")
_BRACKETED = re.compile(r"[(\[{]\s*([A-Za-z])\s*[)\]}]")
_APPROVED = re.compile(rf"is\s+(?:the\s+)?{_WORTH}(?:\s+{_NAMES}|\s+one)?\W*", re.IGNORECASE)
# A letter that goes on like this is the subject or one part of a sentence, not an answer.
_GOES_ON = re.compile(
    r"(?:is|isn't|are|was|were|will|would|can|cannot|can't|does|doesn't|do|seems|looks|or|and|nor|not|but|vs|versus|to)\b"
    r"|[/&|+-]",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"(?:\b(?:or|and|nor|not|than|versus|vs)|[,/&|+])\s*(?:\boption\s+)?[(\[]?"
    r"([A-Zb-hj-z]|[ai](?!\s+\w))\b(?!')",  # a man, i see: no letters
)
_ALONE = re.compile(r"(?<![\w'])([B-HJ-Z]|[AI](?=\W*$|\s+(?:is|was|and|or)\b))(?![\w'])")  # not: A man, I see
_MARKS = str.maketrans("", "", '*_`"')
_DASHES = " -\u2013\u2014()"
_STOPS = " \t.!?,;:'\u2019\u2018\u201c\u201d"


def parse_letter(text: str, choices: Sequence[str]) -> int | None:
    """Give the index of the one option that an answer means; None where it means none or several.

    Args:
        text: the raw answer; where the prompt gave the opening bracket of a letter, with that bracket.
        choices: the texts of the options, the first of which has the letter A.
    """
    # Other scripts' full-width letters and brackets become plain ones; emphasis and quotation marks are no words.
    whole = unicodedata.normalize("NFKC", text[:_LONGEST]).translate(_MARKS)
    plain = _squeezed(_OWN_LINE.sub(r"\1.", whole))
    if not plain:
        return None
    options = [_plain_text(choice) for choice in choices]
    found = _read(plain, options)
    lead = _LEAD.match(plain)
    if lead is not None:
        found |= _read(plain[lead.end() :], options)
    if not found:
        statements = list(_STATED.finditer(plain))
        ends = [statement.start() for statement in statements[1:]]
        for statement, end in zip(statements, [*ends, len(plain)], strict=False):
            said = plain[statement.end() : end]
            if _is_one_of_several(said, len(options)):
                return None
            found |= _read(said, options, is_within=True)
    return found.pop() if len(found) == 1 else None


def _read(text: str, options: Sequence[str], is_within: bool = False) -> set[int]:
    """Read what stands at the beginning of a text, in all ways; `is_within` a longer one, bare letters must end."""
    found = set()
    said = _plain_text(text)
    if said and said in options:
        found.add(options.index(said))
    for pattern, is_bare in ((_SET_OFF, False), (_BARE, True)):
        match = pattern.match(text)
        if match is None:
            continue
        letter = match[1].upper()
        index = ord(letter) - ord("A")
        # Within prose a small letter is rather the article a, or the pronoun.
        is_option = index < len(options) and not (is_within and is_bare and match[1].islower())
        if is_option and _agrees(text[match.end() :], text[match.end(1) :], index, options, is_bare):
            found.add(index)
        break
    return found


def _is_one_of_several(text: str, count: int) -> bool:
    """Tell whether a statement begins with an option that it does not leave alone: "A or", "(A) is wrong"."""
    match = _SET_OFF.match(text) or _BARE.match(text)
    if match is None or not match[1].isupper() or ord(match[1]) - ord("A") >= count:
        return False
    return bool(_GOES_ON.match(text[match.end() :].strip())) and not _APPROVED.fullmatch(text[match.end() :].strip())


def _agrees(rest: str, whole: str, index: int, options: Sequence[str], is_bare: bool) -> bool:
    """Tell whether what follows a letter leaves it the one answer; `whole` has what sets it off as well."""
    rest = rest.strip()
    said = _plain_text(rest)
    if not said or said == options[index] or _APPROVED.fullmatch(rest):
        return True
    if said in options:
        return False
    is_own = _plain_text(rest.strip(_DASHES)) == options[index]  # B - to the left, B (to the left)
    if is_bare or is_own:
        return is_own
    own, tail = options[index], rest.lstrip(_STOPS)
    if own and tail.casefold().startswith(own):
        rest = whole = tail[len(own) :].strip()
    if _GOES_ON.match(rest):
        return False
    return not any(_is_other(mention[1], index, len(options)) for mention in _mentions(whole))


def _mentions(text: str) -> list[re.Match[str]]:
    return [match for pattern in (_BRACKETED, _JOINED, _ALONE) for match in pattern.finditer(text)]


def _is_other(letter: str, index: int, count: int) -> bool:
    return letter.upper() != letter_of(index) and letter.upper() in map(letter_of, range(count))


def _plain_text(text: str) -> str:
    normal = unicodedata.normalize("NFKC", text).translate(_MARKS)
    return _squeezed(normal).casefold().strip(_STOPS)


def _squeezed(text: str) -> str:
    return " ".join(text.split())
