"""Intervals and tests against literal references, and what must not change them."""

import random
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynimg_vl.evaluation.report.statistics import SEED, Scored, compare, estimate, mcnemar_p

rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 6), st.sampled_from([0.0, 100.0])), min_size=1, max_size=40
)  # fmt: skip


def scored(table):
    return [Scored(str(n), f"s{stratum}", f"v{video}", value) for n, (stratum, video, value) in enumerate(table)]


@settings(max_examples=40, deadline=None)
@given(rows, st.randoms())
def test_shuffling_changes_nothing_and_the_means_are_literal(table, shuffler):
    values = scored(table)
    shuffled = values.copy()
    shuffler.shuffle(shuffled)
    by_stratum = {}
    for stratum, _, value in table:
        by_stratum.setdefault(stratum, []).append(value)
    means = [sum(group) / len(group) for group in by_stratum.values()]
    expected = {"pooled": sum(value for _, _, value in table) / len(table), "strata": sum(means) / len(means)}
    for average, value in expected.items():
        found = estimate(values, average)
        assert found == estimate(shuffled, average)
        assert found.value == pytest.approx(value)
        assert found.num_clusters == len({video for _, video, _ in table})
        if found.low is not None:
            assert 0 <= found.low <= found.high <= 100


@pytest.mark.parametrize("average", ["pooled", "strata"])
def test_the_interval_is_that_of_drawing_videos_one_by_one(average):
    """A bootstrap written out: draw videos, put their questions together, take the mean."""
    source = random.Random(1)
    values = scored([(n % 2, source.randrange(30), source.choice([0.0, 100.0])) for n in range(200)])
    by_video = {}
    for one in values:
        by_video.setdefault(one.cluster, []).append(one)
    videos, drawn = sorted(by_video), []
    for _ in range(3000):
        sample = [one for video in source.choices(videos, k=len(videos)) for one in by_video[video]]
        if average == "pooled":
            drawn.append(sum(one.value for one in sample) / len(sample))
        else:
            groups = [[one.value for one in sample if one.stratum == name] for name in ("s0", "s1")]
            drawn.append(sum(sum(group) / len(group) for group in groups) / 2)
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = estimate(values, average)
    assert found.low == pytest.approx(low, abs=1.0)
    assert found.high == pytest.approx(high, abs=1.0)


def test_questions_on_one_video_count_as_one_draw():
    """A hundred copies of each question on its own video tell no more than one."""
    few = [Scored(f"{n}", "s", f"v{n}", 100.0 * (n % 2)) for n in range(20)]
    many = [Scored(f"{n}/{copy}", "s", f"v{n}", 100.0 * (n % 2)) for n in range(20) for copy in range(100)]
    apart = [Scored(f"{n}/{copy}", "s", f"v{n}/{copy}", 100.0 * (n % 2)) for n in range(20) for copy in range(100)]
    width = [found.high - found.low for found in map(estimate, (few, many, apart))]
    assert width[0] == pytest.approx(width[1])
    assert width[2] < width[0] / 5


def test_one_video_has_no_interval_and_nothing_has_no_estimate():
    found = estimate([Scored("1", "s", "v", 3.0), Scored("2", "s", "v", 4.0)])
    assert (found.value, found.low, found.high) == (3.5, None, None)
    assert estimate([]) is None


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_tail(first, second):
    total = first + second
    tail = sum(Fraction(comb(total, k), 2**total) for k in range(min(first, second) + 1))
    assert mcnemar_p(first, second) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-12)
    assert mcnemar_p(first, second) == mcnemar_p(second, first)


def test_mcnemar_of_known_cases():
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(1, 9) == pytest.approx(22 / 1024)  # 2 * (1 + 10) / 2 ** 10
    assert mcnemar_p(5_000, 5_000) == 1.0
    assert 0 <= mcnemar_p(1_000, 4_000) < 1e-300


def test_a_comparison_pairs_by_question_and_leaves_the_rest_out():
    first = [Scored(str(n), "s", f"v{n}", 100.0 * (n < 4)) for n in range(10)]
    second = [Scored(str(n), "s", f"v{n}", 100.0 * (n >= 2)) for n in range(2, 14)]
    found = compare(first, second)
    assert found.difference.num_values == 8
    assert (found.num_only_first, found.num_only_second) == (0, 6)
    assert found.difference.value == pytest.approx(75.0)
    assert found.mcnemar_p == pytest.approx(2 / 2**6)
    assert compare(first, [Scored("other", "s", "v", 0.0)]) is None
    back = compare(second, first)
    assert back.difference.value == -found.difference.value
    assert back.mcnemar_p == found.mcnemar_p


def test_equal_runs_do_not_differ_and_clear_ones_do():
    same = [Scored(str(n), "s", f"v{n % 20}", 100.0 * (n % 3 == 0)) for n in range(100)]
    worse = [Scored(one.id, one.stratum, one.cluster, 0.0) for one in same]
    found = compare(same, same)
    assert (found.bootstrap_p, found.mcnemar_p) == (1.0, 1.0)
    assert (found.difference.low, found.difference.high) == (0.0, 0.0)
    found = compare(same, worse)
    assert found.bootstrap_p < 0.01
    assert found.mcnemar_p < 1e-6
    assert found.difference.high < 0


def test_a_false_alarm_is_as_rare_as_the_p_value_says():
    """Two runs that do not differ: p-values below 0.1 in about a tenth of 60 trials."""
    generator = np.random.default_rng(SEED)
    alarms = 0
    for _ in range(60):
        drift = generator.normal(0, 1, (30, 1)) + generator.normal(0, 0.3, (30, 4))
        first = [Scored(f"{v}/{q}", "s", f"v{v}", 0.0) for v in range(30) for q in range(4)]
        second = [Scored(f"{v}/{q}", "s", f"v{v}", drift[v, q]) for v in range(30) for q in range(4)]
        alarms += compare(first, second).bootstrap_p < 0.1
    assert 1 <= alarms <= 14


def test_a_comparison_averages_as_its_scores_do():
    first = [Scored(f"{n}", "ab"[n == 3], f"v{n}", 0.0) for n in range(4)]
    second = [Scored(one.id, one.stratum, one.cluster, 100.0 * (one.stratum == "b")) for one in first]
    assert compare(first, second).difference.value == pytest.approx(25)
    assert compare(first, second, "strata").difference.value == pytest.approx(50)
