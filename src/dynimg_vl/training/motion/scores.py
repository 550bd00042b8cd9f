"""From answers to numbers: exact match and its baselines, by family, motion, camera speed and kind of file."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Any

MOTION_KINDS = (
    "still",
    *(f"{speed} {direction}" for speed in ("slow", "fast") for direction in ("left", "right", "up", "down")),
    "swing",
    "circle",
)
"""The kinds of a single object's motion that the macro average is over."""
SPEED_EDGES = (0.1, 0.2, 0.4, 0.6, 0.8)
"""Bounds of the buckets of camera speed: screens per keyframe gap, or growth (natural logarithm) for zooms."""
LEAST_SPEED = 0.2
"""The camera speed from which the promise about cameras holds."""

BINDING = ("colour", "direction_of", "first", "moves", "moving_shape")
"""Families about one of several objects: what the named one does, or which one does it."""

Numbers = dict[str, float]
_LETTER = re.compile(r"\(?([A-E])\)")


@dataclass(frozen=True)
class Answer:
    """Hold one answer with all that it is counted by.

    `clip` and `question` number it, `num_objects` are in the clip, `kind` is the motion of the only one ("" where
    several), `group` what the keyframe could betray, `camera` and `speed` are those of the camera.
    """

    clip: int
    question: int
    family: str
    is_choice: bool
    is_single: bool
    num_objects: int
    kind: str
    group: str
    camera: str
    speed: float
    wanted: str
    given: str
    is_right: bool


def is_right(wanted: str, given: str, is_choice: bool) -> bool:
    """Compare whole answers; of multiple-choice answers the letters, however they are introduced."""
    if not is_choice:
        return given == wanted
    letter = _letter(wanted)
    return letter is not None and letter == _letter(given)


def _letter(text: str) -> str | None:
    found = _LETTER.search(text)
    return None if found is None else found[1]


def score(answers: Sequence[Answer]) -> Numbers:
    """Count: exact answers as a share, its standard error, and the number of questions."""
    total = len(answers)
    if not total:
        return {"questions": 0}
    exact = sum(each.is_right for each in answers) / total
    return {"exact": round(exact, 4), "error": round(sqrt(exact * (1 - exact) / total), 4), "questions": total}


def baselines(answers: Sequence[Answer]) -> Numbers:
    """Count what constant answers would get, compared as `is_right` compares.

    `majority` answers what is wanted most often in each family, `group_majority` so for each thing that a keyframe can
    show; both are fitted to these very questions, so that few of them flatter it.
    """

    def best(key: Callable[[Answer], Hashable]) -> float:
        groups = _grouped(answers, key).values()
        # Nothing is right where a letter is wanted and none is named.
        wanted = (Counter(_heard(each) for each in group if _heard(each)[1] is not None) for group in groups)
        return round(sum(max(counts.values(), default=0) for counts in wanted) / len(answers), 4)

    return {"majority": best(lambda each: each.family), "group_majority": best(lambda each: (each.family, each.group))}


def _heard(answer: Answer) -> tuple[bool, str | None]:
    return answer.is_choice, _letter(answer.wanted) if answer.is_choice else answer.wanted


def by_family(answers: Sequence[Answer]) -> dict[str, Numbers]:
    """Score each family, and all of them: their questions together, and their mean."""
    if not answers:
        return {}
    groups = {**dict(sorted(_grouped(answers, lambda each: each.family).items())), "all": answers}
    scores = {name: {**score(group), **baselines(group)} for name, group in groups.items()}
    return {**scores, "mean of families": _mean([scores[name] for name in groups if name != "all"])}


def by_kind(answers: Sequence[Answer]) -> dict[str, Numbers]:
    """Score which way a single object goes, by what it does; the mean and the total are over `MOTION_KINDS`."""
    asked = [each for each in answers if each.family == "direction" and each.kind and not each.is_choice]
    groups = _grouped(asked, lambda each: each.kind)
    names = [*MOTION_KINDS, *sorted(set(groups) - set(MOTION_KINDS))]
    scores = {name: score(groups[name]) for name in names if name in groups}
    promised = [each for each in asked if each.kind in MOTION_KINDS]
    mean = _mean([scores[name] for name in MOTION_KINDS if name in scores])
    return {**scores, "all of these kinds": score(promised), "mean of these kinds": mean}


def by_binding(answers: Sequence[Answer], num_objects: int = 2) -> dict[str, Numbers]:
    """Score the open questions of `BINDING` about clips of so many objects, as `by_family` does."""
    return by_family([a for a in answers if a.num_objects == num_objects and a.family in BINDING and not a.is_choice])


def by_camera(answers: Sequence[Answer]) -> dict[str, Numbers]:
    """Score how the camera moves, by kind and speed, and all that move at `LEAST_SPEED` or more."""
    asked = [each for each in answers if each.family == "camera" and not each.is_choice]
    scores = {f"camera {name}": score(group) for name, group in sorted(_grouped(asked, lambda a: a.camera).items())}
    moving = [each for each in asked if each.camera not in ("still", "change")]
    for low, high in pairwise(SPEED_EDGES):
        bucket = [each for each in moving if low <= each.speed < high]
        if bucket:
            scores[f"speed {low:g} to {high:g}"] = score(bucket)
    scores[f"moves, {LEAST_SPEED:g} or more"] = score([each for each in moving if each.speed >= LEAST_SPEED])
    rest = [each for each in asked if each not in moving or each.speed >= LEAST_SPEED]
    scores[f"{LEAST_SPEED:g} or more, still and changing"] = score(rest)
    return scores


def paired_loss(before: Sequence[Answer], after: Sequence[Answer]) -> Numbers:
    """Give what is lost from one condition to another on the questions asked in both: a share of them.

    `error` is the standard error of the mean difference; `lost` and `won` count answers that turned wrong and right.
    """
    first = {(each.clip, each.question): each.is_right for each in before}
    pairs = [(first[key], each.is_right) for each in after if (key := (each.clip, each.question)) in first]
    total = len(pairs)
    if not total:
        return {"questions": 0}
    lost, won = (sum(pair == turn for pair in pairs) for turn in ((True, False), (False, True)))
    loss = (lost - won) / total
    error = sqrt(max((lost + won) / total - loss**2, 0.0) / total)
    return {"loss": round(loss, 4), "error": round(error, 4), "lost": lost, "won": won, "questions": total}


def as_table(scores: dict[str, Numbers], title: str) -> str:
    """Write scores as a Markdown table, the names of the rows under `title`."""
    columns = list(dict.fromkeys(name for numbers in scores.values() for name in numbers))
    lines = [
        f"| {title} | {' | '.join(name.replace('_', ' ') for name in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, numbers in scores.items():
        cells = [_cell(numbers.get(column)) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _mean(scores: Sequence[Numbers]) -> Numbers:
    asked = [numbers for numbers in scores if numbers["questions"]]
    if not asked:
        return {"questions": 0}
    exact = sum(numbers["exact"] for numbers in asked) / len(asked)
    return {"exact": round(exact, 4), "questions": sum(numbers["questions"] for numbers in asked)}


def _grouped(answers: Sequence[Answer], key: Callable[[Answer], Hashable]) -> dict[Any, list[Answer]]:
    groups: dict[Any, list[Answer]] = defaultdict(list)
    for each in answers:
        groups[key(each)].append(each)
    return groups
