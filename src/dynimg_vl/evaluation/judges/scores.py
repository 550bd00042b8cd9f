"""Add judgements up: accuracy and score of open-ended answers, the five dimensions and both of their averages."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .cases import Judgement
from .prompts import DIMENSIONS, QA


def summarise(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Give the scores of a task, with what they rest on; a case without a verdict counts in no score.

    Open-ended answers: `accuracy` in percent (yes among those judged), between `accuracy_bounds` (all others wrong, all
    others right), and `score`, the mean of 0 to 5 (None where the judge gives none). The Video-ChatGPT benchmark: one
    mean for each dimension, `mean_of_five` of these, and `sample_weighted`, the mean of all scores. Publications use
    either average without saying which.
    """
    aspects = {judgement.aspect for judgement in judgements}
    metrics = _open_metrics(judgements) if aspects <= {QA} else _dialogue_metrics(judgements)
    by_aspect = {
        aspect: _counts(judgement for judgement in judgements if judgement.aspect == aspect)
        for aspect in (QA, *DIMENSIONS)
        if aspect in aspects
    }
    return {"metrics": metrics, "counts": _counts(judgements), "counts_by_aspect": by_aspect}


def _open_metrics(judgements: Sequence[Judgement]) -> dict[str, Any]:
    judged = [judgement for judgement in judgements if judgement.state == "judged"]
    num_right = sum(judgement.is_correct is True for judgement in judged)
    num_open = len(judgements) - len(judged)
    bounds = [_percent(num_right, len(judgements)), _percent(num_right + num_open, len(judgements))]
    return {
        "accuracy": _percent(num_right, len(judged)),
        "accuracy_bounds": bounds,
        "score": _mean(judgement.score for judgement in judged),
    }


def _dialogue_metrics(judgements: Sequence[Judgement]) -> dict[str, Any]:
    scores = {name: _scores(judgements, name) for name in DIMENSIONS}
    means = {name: _mean(values) for name, values in scores.items()}
    known = [mean for mean in means.values() if mean is not None]
    is_whole = len(known) == len(DIMENSIONS)
    return {
        **means,
        "mean_of_five": _mean(known) if is_whole else None,
        "sample_weighted": _mean(score for values in scores.values() for score in values) if is_whole else None,
    }


def _scores(judgements: Sequence[Judgement], aspect: str) -> list[int]:
    found = (judgement.score for judgement in judgements if judgement.aspect == aspect and judgement.state == "judged")
    return [score for score in found if score is not None]


def _counts(judgements: Iterable[Judgement]) -> dict[str, int]:
    states = Counter(judgement.state for judgement in judgements)
    return {"total": states.total(), "judged": states.pop("judged", 0), **dict(sorted(states.items()))}


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _mean(values: Iterable[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
