"""How sure a score is, and whether two runs differ: questions on one video are not independent, so videos are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

NUM_RESAMPLES = 2000
SEED = 0
LEVEL = 95.0

# At most so many numbers at a time, whatever the number of videos.
_MAX_WEIGHTS = 4_000_000

Average = Literal["pooled", "strata"]


@dataclass(frozen=True)
class Scored:
    """Hold one value that counts in a score.

    Args:
        id: pairs it with the same question in another run.
        stratum: subtask or dimension.
        cluster: the video.
        value: 0 or 100 of an accuracy, 0 to 5 of a score.
    """

    id: str
    stratum: str
    cluster: str
    value: float


@dataclass(frozen=True)
class Estimate:
    """Hold a mean with the bounds of its confidence interval (None where there is one video, or none)."""

    value: float
    low: float | None
    high: float | None
    num_values: int
    num_clusters: int


@dataclass(frozen=True)
class Comparison:
    """Hold how a second run differs from a first on the questions that both have an answer to.

    `difference` is second minus first, with a bootstrap interval over videos and its p-value; `mcnemar_p` is that of
    the exact test, which takes questions as independent, None for values other than 0 and 100; `num_only_first` and
    `num_only_second` count the questions that one run alone got right.
    """

    difference: Estimate
    bootstrap_p: float | None
    mcnemar_p: float | None
    num_only_first: int | None
    num_only_second: int | None


def estimate(values: Sequence[Scored], average: Average = "pooled") -> Estimate | None:
    """Give the mean of values ("pooled") or the mean of the means of their strata ("strata"), and how sure it is.

    The interval is the percentile interval of a bootstrap that draws videos with replacement, `NUM_RESAMPLES` times,
    always with the same seed. The order of the values changes nothing. None where there is no value.
    """
    if not values:
        return None
    sums, counts = _by_cluster(values)
    value = float(_statistic(np.ones((1, len(sums))), sums, counts, average)[0])
    low = high = None
    if len(sums) > 1:
        low, high = _interval(_resampled(sums, counts, average))
    return Estimate(value, low, high, len(values), len(sums))


def compare(first: Sequence[Scored], second: Sequence[Scored], average: Average = "pooled") -> Comparison | None:
    """Compare two runs on the questions that both have; None where they share none."""
    others = {scored.id: scored for scored in second}
    pairs = [(scored, others[scored.id]) for scored in first if scored.id in others]
    if not pairs:
        return None
    gains = [Scored(a.id, a.stratum, a.cluster, b.value - a.value) for a, b in pairs]
    difference = estimate(gains, average)
    assert difference is not None
    bootstrap_p = None
    if difference.num_clusters > 1:
        drawn = _resampled(*_by_cluster(gains), average)
        drawn = drawn[~np.isnan(drawn)]
        tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
        # Never 0: so many resamples cannot show more.
        bootstrap_p = float(min(1.0, 2 * (tail + 1) / (len(drawn) + 1)))
    if any(scored.value not in (0, 100) for pair in pairs for scored in pair):
        return Comparison(difference, bootstrap_p, None, None, None)
    only_first = sum(a.value > b.value for a, b in pairs)
    only_second = sum(b.value > a.value for a, b in pairs)
    return Comparison(difference, bootstrap_p, mcnemar_p(only_first, only_second), only_first, only_second)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Give the two-sided p-value of the exact test of McNemar: the discordant pairs as tosses of a fair coin."""
    total = only_first + only_second
    ways = tail = 1
    for rank in range(min(only_first, only_second)):
        ways = ways * (total - rank) // (rank + 1)  # binomial coefficients, exact whatever their size
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def _by_cluster(values: Sequence[Scored]) -> tuple[np.ndarray, np.ndarray]:
    """Sum values and count them: (clusters, strata) each, in the order of the names."""
    clusters = {name: rank for rank, name in enumerate(sorted({scored.cluster for scored in values}))}
    strata = {name: rank for rank, name in enumerate(sorted({scored.stratum for scored in values}))}
    rows = np.array([clusters[scored.cluster] for scored in values])
    columns = np.array([strata[scored.stratum] for scored in values])
    sums, counts = np.zeros((2, len(clusters), len(strata)))
    np.add.at(sums, (rows, columns), [scored.value for scored in values])
    np.add.at(counts, (rows, columns), 1)
    return sums, counts


def _resampled(sums: np.ndarray, counts: np.ndarray, average: Average) -> np.ndarray:
    generator = np.random.default_rng(SEED)
    num_clusters = len(sums)
    at_once = max(1, min(NUM_RESAMPLES, _MAX_WEIGHTS // num_clusters))
    chances = np.full(num_clusters, 1 / num_clusters)
    parts = []
    for first in range(0, NUM_RESAMPLES, at_once):
        weights = generator.multinomial(num_clusters, chances, size=min(at_once, NUM_RESAMPLES - first))
        parts.append(_statistic(weights, sums, counts, average))
    return np.concatenate(parts)


def _statistic(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray, average: Average) -> np.ndarray:
    total, number = weights @ sums, weights @ counts
    with np.errstate(invalid="ignore", divide="ignore"):
        if average == "pooled":
            return total.sum(axis=1) / number.sum(axis=1)
        means = total / number
        # A stratum of which no video was drawn has no mean, and leaves the others theirs.
        return np.nansum(means, axis=1) / (~np.isnan(means)).sum(axis=1)


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
