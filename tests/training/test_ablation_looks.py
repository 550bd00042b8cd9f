"""Where arms look, over seeds: numbers that a person can check by hand."""

import pytest

from dynimg_vl.training.ablation.looks import looks_section, summarise_looks


def row(layer, match, still=0.1, strip=0.3):
    def shares(match):
        values = {"match": match, "chance": 0.05, "place": 0.02, "strip": strip}
        return {name: {"mean": value, "standard_error": 0.0, "num_clips": 9} for name, value in values.items()}

    return {"layer": layer, "moving": shares(match), "still": shares(still)}


def result(before, after):
    return {"looks_before": [row(1, 0.05), row(2, before)], "looks": [row(1, 0.05), row(2, after)]}


def test_the_layer_is_the_one_that_finds_moving_content():
    found = summarise_looks([result(0.1, 0.3), result(0.1, 0.4), result(0.1, 0.5)])
    assert found["layer"] == 2
    assert found["before"]["moving"]["match"]["mean"] == pytest.approx(10)
    after = found["after"]["moving"]
    assert after["match"]["mean"] == pytest.approx(40)
    assert after["times_its_area"]["mean"] == pytest.approx(8)
    assert after["match"]["high"] == pytest.approx(40 + 4.303 * 10 / 3**0.5, abs=0.01)
    assert found["after"]["still"]["times_its_area"]["mean"] == pytest.approx(2)
    lines = looks_section({"x": "The arm"}, {"x": found})
    assert lines[-2].startswith("| The arm | 2 | 30.0 → 30.0 (30.0 to 30.0) | 10.0 → 40.0 (15.2 to 64.8) | 2.0 → 8.0")
    assert len({line.count("|") for line in lines[2:5]}) == 1


def test_what_is_not_known_is_left_out():
    assert summarise_looks([{"looks": None, "looks_before": None}]) is None
    assert summarise_looks([{}]) is None
    found = summarise_looks([{**result(0.1, 0.3), "looks_before": None}])
    assert found["before"] is None
    assert "| 30.0 |" in looks_section({"x": "The arm"}, {"x": found})[-2]
    assert looks_section({}, {}) == []
