"""Read a judge's reply: strictly, by literals only; what can mean two things means nothing."""

import ast
import json
import math
import re
from dataclasses import dataclass
from typing import Any

MAX_SCORE = 5

_MAX_LENGTH = 20_000
_THOUGHT = re.compile(
    r"\A\s*<think>.*?</think>", re.DOTALL
)  # of models that think aloud first; only what follows counts
_BRACES = re.compile(r"\{[^{}]{1,500}\}")
_NUMBER = r"([+-]?\d+(?:\.\d+)?)(?:\s*/\s*5(?:\.0)?\b|\s+out\s+of\s+(?:5|five)\b)?"
_GAP = r"[\s:=\"'*`]{1,6}"
_KEYED_PRED = re.compile(rf"\b(?:pred|prediction|correct)\b{_GAP}(yes|no)\b", re.IGNORECASE)
_KEYED_SCORE = re.compile(rf"\b(?:score|rating)\b(?:\s+is|\s+of)?{_GAP}{_NUMBER}(?![\d.]*\d)", re.IGNORECASE)
_BARE_BOTH = re.compile(rf"\W*(yes|no)\W+(?:score\W+)?(?<![-+]){_NUMBER}\W*", re.IGNORECASE)
_BARE_SCORE = re.compile(rf"[\s\"'*`(]*{_NUMBER}[\s\"'*`).]*", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """Hold what a judge decided: right or wrong (None where that was not asked), and a score of 0 to 5 (None: none)."""

    is_correct: bool | None
    score: int | None


def parse_verdict(text: str, *, with_decision: bool) -> Verdict | None:
    """Read a verdict out of a reply; None where it holds none, or more than one.

    Three forms are taken: a dictionary (Python or JSON) anywhere in the text; `pred: yes` and `score: 4` anywhere; and
    the bare `yes 4` (`4` where no decision is asked for) as the whole text. Scores are whole numbers from 0 to 5.

    Args:
        text: the reply.
        with_decision: whether yes or no was asked for beside the score.
    """
    if len(text) > _MAX_LENGTH:
        return None
    text = _THOUGHT.sub("", text)
    found = [value for value in map(_literal, _BRACES.findall(text)) if isinstance(value, dict)]
    verdicts = [verdict for verdict in (_from_dict(value, with_decision) for value in found) if verdict is not None]
    if found:
        # Several dictionaries: a judge that thinks aloud may repeat itself, but not contradict itself.
        return verdicts[0] if verdicts and len(verdicts) == len(found) and len(set(verdicts)) == 1 else None
    return _from_keys(text, with_decision) or _from_bare(text, with_decision)


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def _from_dict(value: dict[Any, Any], with_decision: bool) -> Verdict | None:
    named = {str(key).strip().lower(): entry for key, entry in value.items()}
    score = _score(named.get("score"))
    decision = _decision(named.get("pred", named.get("prediction"))) if with_decision else None
    if score is None or (with_decision and decision is None):
        return None
    return Verdict(decision, score)


def _from_keys(text: str, with_decision: bool) -> Verdict | None:
    scores = {_score(number) for number in _KEYED_SCORE.findall(text)}
    decisions = {word.lower() for word in _KEYED_PRED.findall(text)} if with_decision else {""}
    if len(scores) != 1 or len(decisions) != 1:
        return None
    score = scores.pop()
    return None if score is None else Verdict(_decision(decisions.pop()) if with_decision else None, score)


def _from_bare(text: str, with_decision: bool) -> Verdict | None:
    found = (_BARE_BOTH if with_decision else _BARE_SCORE).fullmatch(text)
    if found is None:
        return None
    score = _score(found[2] if with_decision else found[1])
    return None if score is None else Verdict(_decision(found[1]) if with_decision else None, score)


def _decision(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    word = value.strip().strip(".").lower() if isinstance(value, str) else None
    return {"yes": True, "no": False}.get(word) if word else None


def _score(value: Any) -> int | None:
    """Take a whole number from 0 to 5, also as text; 4.8 is not 4: whoever cuts it off changes the result."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return int(number) if math.isfinite(number) and number == int(number) and 0 <= number <= MAX_SCORE else None
