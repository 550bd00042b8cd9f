"""Judges without a network: exact match and containment of normalised words."""

import re
import unicodedata

from .verdicts import Verdict

_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {name: str(number) for number, name in enumerate(_NUMBER_WORDS)}


def normalised_words(text: str) -> list[str]:
    """Split a text into words that compare: lower case, no punctuation, no articles, number words to ten as digits."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = re.findall(r"\w+", re.sub(r"(?<=\w)['\u2019](?=\w)", "", plain))
    return [_DIGITS.get(word, word) for word in words if word not in _ARTICLES]


def judge_exact(answer: str, prediction: str) -> Verdict:
    """Call a prediction right where it is the reference answer, word for word."""
    words = normalised_words(answer)
    return Verdict(bool(words) and words == normalised_words(prediction), None)


def judge_containment(answer: str, prediction: str) -> Verdict:
    """Call a prediction right where the words of the reference answer stand in it, together and in order."""
    wanted, words = normalised_words(answer), normalised_words(prediction)
    starts = range(len(words) - len(wanted) + 1) if wanted else range(0)
    return Verdict(any(words[start : start + len(wanted)] == wanted for start in starts), None)


RULES = {"exact": judge_exact, "containment": judge_containment}
