"""Score tasks with options: no judge, only the rules of `letters`, or likelihoods.

What was asked and could not be read as one option, or failed, is wrong; it is never dropped. Items whose video is
missing are not asked: `accuracy` is over those that were, `if_missing_are_wrong` over all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..errors import InputError
from .items import Answered
from .letters import parse_letter
from .tasks import Task

# "unparsed": an answer that means no option, or several.
STATES = ("correct", "wrong", "unparsed", "failed", "missing", "pending")


@dataclass(frozen=True)
class Verdict:
    """Hold what became of one item: a state of `STATES`, and the index of the option that was chosen."""

    id: str
    subtask: str
    state: str
    chosen: int | None
    answer_index: int | None
    num_choices: int

    @property
    def is_asked(self) -> bool:
        """Tell whether it counts in `accuracy`."""
        return self.state not in ("missing", "pending")


def give_verdict(answered: Answered, prefix: str = "") -> Verdict:
    """Judge one item with options by what was answered.

    Args:
        answered: item and prediction.
        prefix: what the prompt made the answer begin with; the bracket it ends with is part of the answer.

    Raises:
        InputError: where the answer is an option that the item has not.
    """
    item, (prediction, *_) = answered.item, answered.predictions
    state, chosen = answered.state, None
    if state == "answered" and prediction is not None:
        chosen = prediction.choice
        if chosen is not None and not 0 <= chosen < len(item.choices):
            raise InputError(f"the answer to {item.id} is option {chosen} of {len(item.choices)}; answer it anew")
        if chosen is None:
            chosen = _read_answer(prediction.text, prefix.rstrip()[-1:], item.choices)
        state = "unparsed" if chosen is None else "wrong"
        # By its text: an option may stand in a list twice.
        if chosen is not None and item.choices[chosen] == item.answer:
            state = "correct"
    return Verdict(item.id, item.subtask, state, chosen, item.answer_index, len(item.choices))


def _read_answer(text: str, opening: str, choices: Sequence[str]) -> int | None:
    """Read an answer with the bracket that the prompt gave, and as one that does not go on from it."""
    readings = {parse_letter(text, choices)}
    if opening in ("(", "["):
        readings.add(parse_letter(opening + text, choices))
    readings.discard(None)
    return readings.pop() if len(readings) == 1 else None


def score_choices(task: Task, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Sum up a task with options: per subtask, their mean, and over all questions; shares are from 0 to 1, or None."""
    subtasks = {name: _count([v for v in verdicts if v.subtask == name]) for name in _names(task, verdicts)}
    overall = _count(verdicts)
    asked = [rows for rows in subtasks.values() if rows["accuracy"] is not None]
    means: dict[str, float | None] = {"accuracy": None, "if_missing_are_wrong": None}
    if asked:
        means = {
            "accuracy": fmean(rows["accuracy"] for rows in asked),
            "if_missing_are_wrong": fmean(rows["if_missing_are_wrong"] for rows in subtasks.values()),
        }
    headline = means if task.headline == "mean_of_subtasks" else overall
    return {
        "accuracy": headline["accuracy"],
        "headline": task.headline,
        "mean_of_subtasks": means,
        "overall": overall,
        "subtasks": subtasks,
    }


def _names(task: Task, verdicts: Iterable[Verdict]) -> list[str]:
    """List the subtasks that occur, in the official order."""
    found = dict.fromkeys(verdict.subtask for verdict in verdicts)
    return [name for name in task.counts if name in found] + sorted(name for name in found if name not in task.counts)


def _count(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    states = {state: sum(verdict.state == state for verdict in verdicts) for state in STATES}
    num_asked = sum(verdict.is_asked for verdict in verdicts)
    return {
        "accuracy": states["correct"] / num_asked if num_asked else None,
        "if_missing_are_wrong": states["correct"] / len(verdicts) if verdicts else None,
        "chance": fmean(1 / verdict.num_choices for verdict in verdicts) if verdicts else None,
        "num_items": len(verdicts),
        **{f"num_{state}": number for state, number in states.items()},
    }
