"""The statistics of ablations on results whose answer is known, and what a report makes of them."""

import math
import random
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynimg_vl.training.ablation.figure import Row, draw_curves, draw_figure
from dynimg_vl.training.ablation.protocol import Experiment
from dynimg_vl.training.ablation.report import summarise, write_report
from dynimg_vl.training.ablation.statistics import (
    decide,
    estimate,
    is_above_bound,
    macro,
    paired,
    sampling_error,
    t_quantile,
)
from dynimg_vl.training.ablation.tables import KEYFRAMES, TABLES

FLAT = {"dx": {"left": (3, 4), "right": (1, 4)}, "colour": {"red": (1, 1)}, "place": {"Top.": (0, 9)}}


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.30265),
        (0.975, 3, 3.18245),
        (0.975, 9, 2.26216),
        (0.95, 4, 2.13185),
        (0.975, 30, 2.04227),
        (0.975, 1001, 1.96234),
        (0.5, 5, 0.0),
    ],
)
def test_quantiles_are_those_of_the_tables(share, freedom, value):
    assert t_quantile(share, freedom) == pytest.approx(value, abs=2e-5)


def test_there_is_no_quantile_without_freedom():
    for share, freedom in ((0.975, 0), (1.0, 3), (0.2, 3)):
        with pytest.raises(ValueError, match="no quantile"):
            t_quantile(share, freedom)


def test_the_macro_average_is_over_answers_then_families():
    assert macro(FLAT, ("dx", "colour")) == pytest.approx(75.0)
    assert macro(FLAT, ("dx",)) == pytest.approx(50.0)
    assert macro(FLAT, ("unknown",)) is None
    assert macro({"dx": {"left": (0, 0), "right": (1, 2)}}, ("dx",)) == pytest.approx(50.0)
    assert sampling_error(FLAT, ("unknown",)) is None


@given(st.lists(st.integers(1, 500), min_size=2, max_size=9), st.data())
def test_a_constant_answer_gets_one_over_the_number_of_answers_however_frequent_they_are(totals, data):
    chosen = data.draw(st.integers(0, len(totals) - 1))
    counts = {"f": {str(n): (total if n == chosen else 0, total) for n, total in enumerate(totals)}}
    assert macro(counts, ("f",)) == pytest.approx(100 / len(totals))


def test_the_sampling_error_is_that_of_repeated_experiments():
    rng = random.Random(0)
    shares, total = {"left": 0.9, "right": 0.3}, 40

    def draw():
        return {"f": {name: (sum(rng.random() < share for _ in range(total)), total) for name, share in shares.items()}}

    scores = [macro(draw(), ("f",)) for _ in range(600)]
    mean = sum(scores) / len(scores)
    spread = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
    said = sum(sampling_error(draw(), ("f",)) for _ in range(200)) / 200
    assert said == pytest.approx(spread, rel=0.1)


def test_an_estimate_is_mean_error_and_interval():
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.num_seeds) == (2.0, 3)
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert found.high - found.mean == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)
    assert estimate([]) is None
    one = estimate([7.0])
    assert (one.mean, one.error, one.low, one.high, one.num_seeds) == (7.0, None, None, None, 1)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = random.Random(1)
    found = [estimate([rng.gauss(50, 4) for _ in range(4)]) for _ in range(3000)]
    share = sum(each.low <= 50 <= each.high for each in found) / len(found)
    assert share == pytest.approx(0.95, abs=0.015)


def test_differences_are_taken_seed_by_seed():
    bases = {0: 20.0, 1: 50.0, 2: 90.0}  # initial weights differ by far more than arms do
    found = paired({seed: value + 3 for seed, value in bases.items()}, {**bases, 3: 1.0})
    assert (found.mean, found.error, found.num_seeds) == (3.0, 0.0, 3)
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("differences", "label"),
    [
        ([5.0, 5.1, 4.9], "held"),
        ([-5.0, -5.1, -4.9], "refuted"),
        ([3.0, 3.0, 3.0], "held"),
        ([2.0, 2.0, 2.0], "undecided"),  # not more than 2 points
        ([1.5, 1.6, 1.4], "undecided"),  # sure, and too small
        ([12.0, -5.0, 8.0], "undecided"),  # large, and not sure
        ([0.0, 0.0, 0.0, 0.0], "undecided"),
        ([50.0], "undecided"),  # one seed decides nothing
        ([50.0, 50.0], "undecided"),
        ([], "undecided"),
    ],
    ids=str,
)
def test_the_rule(differences, label):
    assert decide(estimate(differences)) == label


@given(st.lists(st.floats(-100, 100), max_size=6))
def test_the_rule_has_no_favourite(differences):
    opposite = {"held": "refuted", "refuted": "held", "undecided": "undecided"}
    turned = decide(estimate([-value for value in differences]))
    assert decide(estimate(differences)) == opposite[turned]


def test_the_rule_finds_what_is_there_and_rarely_what_is_not():
    rng = random.Random(2)
    there = [decide(estimate([rng.gauss(10, 1.5) for _ in range(3)])) for _ in range(1000)]
    nothing = [decide(estimate([rng.gauss(0, 3) for _ in range(3)])) for _ in range(1000)]
    assert there.count("held") > 970
    assert nothing.count("undecided") > 800


def test_who_is_above_a_bound():
    assert is_above_bound([30.0], [2.0], 14.3)
    assert not is_above_bound([17.0], [2.0], 14.3)
    assert not is_above_bound([15.5], [0.1], 14.3)
    assert not is_above_bound([10.0, 60.0], [0.1, 0.1], 14.3)  # seeds do not agree
    assert not is_above_bound([], [], 14.3)


# --- reports ---------------------------------------------------------------------------------------------------------


def result(arm, seed, score, budget="clips", world="single", **fields):
    controls = {} if arm == KEYFRAMES else {"shuffled": 20.0, "repeated": 15.0, "grey": 14.0}
    own = {"arm": arm, "seed": seed, "score": score, "budget": budget, "world": world, "controls": controls}
    fixed = {"sampling_error": 1.5, "keyframe_score": 40.0, "clips": 100, "flops_per_clip": 2e6}
    return {**own, **fixed, "date": "2026-11-21", "machine": "a machine", **fields}


def experiment(worlds=("single",), arms=(KEYFRAMES, "after", "before_1d", "before_4d")):
    return Experiment("table3", "smoke", 3, worlds, arms)


def results(**fields):
    noise = (0.0, 0.4, -0.4)
    rows = [result(KEYFRAMES, seed, 14.3 + noise[seed], **fields) for seed in range(3)]
    rows += [result("after", seed, 60 + 5 * noise[seed], **fields) for seed in range(3)]
    rows += [result("after", seed, 40 + noise[seed], "compute", **fields) for seed in range(3)]
    rows += [result("before_1d", seed, 55 + noise[seed], **fields) for seed in range(3)]
    rows += [result("before_4d", seed, 55.5 - noise[seed], **fields) for seed in range(3)]
    return rows


def test_claims_are_labelled_at_both_budgets():
    found = summarise(experiment(), "single", results())
    labels = {name: (each["clips"]["label"], each["compute"]["label"]) for name, each in found["claims"].items()}
    assert labels == {
        "after > keyframes": ("held", "held"),
        "before_1d > after": ("refuted", "held"),
        "before_4d > before_1d": ("undecided", "undecided"),
        "before_1d > keyframes": ("held", "held"),
    }
    assert found["bound"] == pytest.approx(100 / 7)
    assert found["leaks"] == []
    assert found["arms"]["after"]["seeds"] == {0: 60.0, 1: 62.0, 2: 58.0}


def test_without_the_reference_nothing_is_known_at_equal_compute():
    # after costs twice as much, but twice as much as what is not known.
    rows = [row | {"flops_per_clip": 4e6 if row["arm"] == "after" else 2e6} for row in results()]
    rows = [row for row in rows if row["budget"] == "clips" and row["arm"] in ("after", KEYFRAMES)]
    without = experiment(arms=("after", KEYFRAMES))
    assert without.table.reference not in without.arms
    claims = summarise(without, "single", rows)["claims"]
    assert claims["after > keyframes"]["clips"]["label"] == "held"
    assert claims["after > keyframes"]["compute"] == {"difference": None, "label": "undecided"}


def test_several_keyframes_show_motion_and_are_no_leak():
    table5 = Experiment("table5", "smoke", 3, ("single",))
    grey = {"controls": {"shuffled": 60.0, "repeated": 60.0, "grey": 60.0}}
    rows = [result("g4", seed, 70.0, **grey) for seed in range(3)]
    assert summarise(table5, "single", rows)["leaks"] == []
    rows += [result("g1", seed, 70.0, **grey) for seed in range(3)]
    (leak,) = summarise(table5, "single", rows)["leaks"]
    assert leak.startswith("g1 with a grey strip: 60.0")


def test_a_control_is_judged_by_its_own_error():
    rows = [result("after", 0, 98.0, sampling_error=0.2, controls={"grey": 17.0}, control_errors={"grey": 1.5})]
    assert summarise(experiment(), "single", rows)["leaks"] == []
    del rows[0]["control_errors"]
    assert len(summarise(experiment(), "single", rows)["leaks"]) == 1


def test_a_report_of_what_is_there_so_far_says_so_and_decides_nothing_by_half(tmp_path):
    # A third seed of the reference is missing, and the runs for equal compute of an arm that costs twice as much.
    rows = [
        {**row, "flops_per_clip": 4e6} if row["arm"] == "after" else row
        for row in results()
        if row["budget"] == "clips"
    ]
    summary = write_report(experiment(), rows[:-1], tmp_path, "a command", 15)
    assert "**Under way: 11 of 15 runs." in (tmp_path / "report.md").read_text()
    assert summary["runs"] == {"done": 11, "total": 15}
    claims = summary["worlds"]["single"]["claims"]
    assert claims["before_1d > after"]["clips"]["label"] == "refuted"
    assert claims["before_1d > after"]["compute"] == {"difference": None, "label": "undecided"}
    assert claims["before_1d > keyframes"]["compute"]["label"] == "held"  # these cost the same: one run is both
    assert claims["before_4d > before_1d"]["clips"]["difference"]["num_seeds"] == 2
    early = summarise(experiment(), "single", [row for row in rows if row["arm"] != "before_4d"])["claims"]
    assert early["before_1d > keyframes"]["clips"]["label"] == "held"
    assert early["before_1d > keyframes"]["compute"]["label"] == "undecided"  # what equal compute is, nobody knows
    whole = write_report(experiment(), rows, tmp_path, "a command")
    assert whole["runs"] == {"done": 12, "total": 12}
    assert "Under way" not in (tmp_path / "report.md").read_text()


def test_a_leak_is_named_and_voids_the_table(tmp_path):
    rows = results()
    rows[0]["score"] = rows[1]["score"] = rows[2]["score"] = 41.0
    for row in rows[-3:]:
        row["controls"]["grey"] = 37.0
    found = summarise(experiment(), "single", rows)
    assert [leak.split(":")[0] for leak in found["leaks"]] == ["keyframes only", "before_4d with a grey strip"]
    write_report(experiment(), rows, tmp_path, "a command")
    assert "**Leak: this world tells its answers without motion" in (tmp_path / "report.md").read_text()


def test_several_keyframes_have_no_bound():
    found = summarise(experiment(("long",)), "long", results(world="long"))
    assert found["bound"] is None
    assert found["leaks"] == []


def test_the_report_has_the_papers_numbers_ours_and_a_figure(tmp_path):
    write_report(experiment(), results(), tmp_path, "dynimg-vl ablate ...")
    text = (tmp_path / "report.md").read_text()
    assert "Smoke scale" in text
    assert "| before the encoder, 1-D | 77.3 | 55.0 (54.0 to 56.0) |" in text
    assert "| after the encoder, 1-D | 75.2 | 60.0 (55.0 to 65.0) | 40.0 (39.0 to 41.0) |" in text
    assert "| before_1d > after | -5.0 (-9.0 to -1.0) | refuted | 15.0 (15.0 to 15.0) | held |" in text
    assert "no control is above it" in text
    figure = ElementTree.fromstring((tmp_path / "table3_single.svg").read_text())
    words = " ".join(each.text or "" for each in figure.iter())
    assert "before the encoder, 4-D" in words


def test_a_figure_keeps_to_its_scale_and_escapes_its_words():
    row = Row("<script>", estimate([99.0, 100.0, 40.0]), (99.0, 100.0, 40.0), 50.0)
    figure = ElementTree.fromstring(draw_figure("a & b", [row], None))
    width = float(figure.get("width"))
    assert all(0 <= float(each.get(name, 0)) <= width for each in figure.iter() for name in ("x1", "x2", "cx"))
    assert "<script>" in {each.text for each in figure.iter()}


def test_curves_are_over_clips_and_the_mean_of_the_seeds(tmp_path):
    def row(step, share):
        return {"step": step, "eval_exact_direction": share, "eval_exact_place": 1.0}

    seeds = [(row(5, 0.2), row(10, 0.4)), (row(5, 0.4), {"step": 7, "eval_loss": 1.0})]
    rows = [result("after", seed, 60.0, steps=10, curve=list(curve)) for seed, curve in enumerate(seeds)]
    found = summarise(experiment(), "single", rows)
    assert found["curves"] == {"after": [(50.0, pytest.approx(30.0)), (100.0, pytest.approx(40.0))]}
    write_report(experiment(), rows, tmp_path, "a command")
    assert "(table3_single_curves.svg)" in (tmp_path / "report.md").read_text()


def test_a_curve_rises_where_accuracy_does():
    figure = ElementTree.fromstring(draw_curves("a", {"<b>": [(0.0, 10.0), (50.0, 20.0), (100.0, 90.0)], "none": []}))
    line = next(each for each in figure.iter() if each.tag.endswith("polyline"))
    points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert "<b>" in {each.text for each in figure.iter()}


@pytest.mark.parametrize("name", TABLES)
def test_claims_of_the_paper_are_what_its_numbers_say(name):
    table = TABLES[name]
    assert table.reference in table.arms
    assert KEYFRAMES in table.arms
    for claim in table.claims:
        better, worse = table.arms[claim.better].paper, table.arms[claim.worse].paper
        assert claim.is_ours or better > worse
