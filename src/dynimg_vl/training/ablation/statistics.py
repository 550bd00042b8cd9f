"""How sure a difference between two arms is, over initial weights that both share; and the rule that labels it.

All scores are in points, 0 to 100. The unit of repetition is the initial weights with their data order: a question more
does not make a result surer than a seed more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Literal

Label = Literal["held", "refuted", "undecided"]

MIN_SEEDS = 3
"""With fewer initial weights, nothing is decided."""
MIN_ERRORS = 2.0
"""A difference counts from more than so many standard errors ..."""
MIN_POINTS = 2.0
"""... and more than so many points."""
LEVEL = 0.95

Counts = Mapping[str, Mapping[str, tuple[int, int]]]
"""Right answers and all questions, by family, by what the right answer is."""


@dataclass(frozen=True)
class Estimate:
    """Hold a mean over seeds, its standard error, and the bounds of its interval (None where there is one seed)."""

    mean: float
    error: float | None
    low: float | None
    high: float | None
    num_seeds: int


def macro(counts: Counts, families: Sequence[str]) -> float | None:
    """Average: the share of right answers for each right answer, over these within a family, over families; points.

    A guess that does not depend on the truth gets one over the number of answers in each family, whatever it prefers.
    None where nothing of the families was asked.
    """
    means = [
        fmean(right / total for right, total in answers.values() if total)
        for family, answers in counts.items()
        if family in families and any(total for _, total in answers.values())
    ]
    return 100 * fmean(means) if means else None


def sampling_error(counts: Counts, families: Sequence[str]) -> float | None:
    """Give the standard error of `macro` that comes from asking so many questions and no more, in points.

    Shares of none and all are drawn in by one question of each kind (Laplace), since neither is certain.
    """
    asked = [
        [(right, total) for right, total in answers.values() if total]
        for family, answers in counts.items()
        if family in families
    ]
    variances = []
    for answers in filter(None, asked):
        shares = [((right + 1) / (total + 2), total) for right, total in answers]
        variances.append(sum(share * (1 - share) / total for share, total in shares) / len(answers) ** 2)
    return 100 * math.sqrt(sum(variances)) / len(variances) if variances else None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Give the mean of one value for each seed, with the interval of Student's t; None without values."""
    if not values:
        return None
    mean = fmean(values)
    if len(values) == 1:
        return Estimate(mean, None, None, None, 1)
    error = stdev(values) / math.sqrt(len(values))
    reach = t_quantile((1 + LEVEL) / 2, len(values) - 1) * error
    return Estimate(mean, error, mean - reach, mean + reach, len(values))


def paired(better: Mapping[int, float], worse: Mapping[int, float]) -> Estimate | None:
    """Estimate by how much one arm is above another, seed by seed; seeds that only one of them has are left out."""
    return estimate([better[seed] - worse[seed] for seed in sorted(better) if seed in worse])


def decide(difference: Estimate | None) -> Label:
    """Label the claim that a difference is positive, by the rule above: held, refuted (it is negative), undecided."""
    if difference is None or difference.error is None or difference.num_seeds < MIN_SEEDS:
        return "undecided"
    if abs(difference.mean) <= max(MIN_POINTS, MIN_ERRORS * difference.error):
        return "undecided"
    return "held" if difference.mean > 0 else "refuted"


def is_above_bound(scores: Sequence[float], errors: Sequence[float], bound: float) -> bool:
    """Tell whether an arm that cannot see motion knows more of it than it can: the world has a leak.

    Args:
        scores: one for each seed.
        errors: their sampling errors. The larger of the two kinds of error counts, so that one seed is enough.
        bound: what a guess can get.
    """
    found = estimate(scores)
    if found is None:
        return False
    sampled = math.sqrt(sum(error**2 for error in errors)) / len(scores)
    error = max(sampled, found.error or 0.0)
    return found.mean - bound > max(MIN_POINTS, MIN_ERRORS * error)


@cache
def t_quantile(share: float, freedom: int) -> float:
    """Give the value below which so large a share of Student's t lies, for a whole number of degrees of freedom.

    Raises:
        ValueError: where the share is not between a half and one, or there is no freedom.
    """
    if not 0.5 <= share < 1 or freedom < 1:
        raise ValueError(f"no quantile for a share of {share} with {freedom} degrees of freedom")
    low, high = 0.0, 1.0
    while _t_share(high, freedom) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_share(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _t_share(value: float, freedom: int) -> float:
    # The distribution function in closed form (Abramowitz and Stegun 26.7.3 and 26.7.4).
    angle = math.atan2(value, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for number in range(3, freedom + 1, 2):
            total += term
            term *= cosine**2 * (number - 1) / number
        inner = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 0.0
        for number in range(2, freedom + 1, 2):
            total += term
            term *= cosine**2 * (number - 1) / number
        inner = sine * total
    return 0.5 + inner / 2
