"""Mixtures: the paper's own, and what is refused."""

from pathlib import Path

import pytest
import yaml

from dynimg_vl import InputError
from dynimg_vl.training.data.mixture import read_mixture
from entries import entry

PAPER = Path(__file__).parents[2] / "recipes" / "data" / "dynimg_737k.yaml"


def write(tmp_path, values):
    path = tmp_path / "mixture.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_the_paper_s_mixture_has_its_counts():
    mixture = read_mixture(PAPER)
    # Section 4.1, in its order.
    assert [source.expected // 1000 for source in mixture.sources] == [39, 8, 7, 400, 40, 40, 9, 13, 4, 34, 43, 8, 92]
    assert sum(source.expected for source in mixture.sources) == 737_000
    assert len(mixture.active) == 13
    assert all(source.accepts(source.expected + 999) and not source.accepts(37) for source in mixture.sources)
    text = PAPER.read_text()
    assert "WITHDRAWN" in text
    assert mixture.sources[0].videos == PAPER.parent / "videos" / "TextVR"


def test_roots_can_be_given(tmp_path):
    mixture = read_mixture(PAPER, annotation_root=tmp_path / "a", video_root=tmp_path / "v")
    source = mixture.sources[-1]
    assert source.annotations[0] == tmp_path / "a" / "vqa/tgif_frame_qa/train.json"
    assert source.videos == tmp_path / "v" / "tgif"
    with pytest.raises(InputError, match=r"textvr: the folder of videos .* does not exist"):
        mixture.require_roots()


def test_entries_count_on_from_file_to_file(tmp_path, write_mixture, clips):
    recipe = write_mixture(one=[entry("clip0.mp4", ("", "q", "a"))] * 3)
    values = yaml.safe_load(recipe.read_text())
    values["sources"]["one"]["annotations"] = ["one.json", "one.json"]
    recipe.write_text(yaml.safe_dump(values))
    samples = list(read_mixture(recipe).sources[0].read())
    assert [sample.entry for sample in samples] == [1, 2, 3, 4, 5, 6]
    assert samples[0].clips[0].path == str(clips / "clip0.mp4")


SOURCE = {"annotations": "a.json"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "must have keys: annotation_root"),
        ({"sources": {}}, "the mixture is empty"),
        ({}, "the mixture is empty"),
        ({"sources": {"a": {**SOURCE, "weight": 0}}}, "the mixture is empty"),
        ({"source": {"a": SOURCE}}, "unknown keys: source; known are annotation_root"),
        ({"sources": {"a": {**SOURCE, "wieght": 1}}}, "source a has unknown keys: wieght"),
        ({"sources": {"a": {**SOURCE, "weight": "much"}}}, "source a: weight must be a number, got 'much'"),
        ({"sources": {"a": {**SOURCE, "weight": -1}}}, "must not be negative"),
        ({"sources": {"a": {**SOURCE, "weight": 10**400}}}, "must not be negative"),
        ({"sources": {"a": {**SOURCE, "weight": float("nan")}}}, "must not be negative"),
        ({"sources": {"a": {**SOURCE, "expected": 1.5}}}, "expected must be a whole number, got 1.5"),
        ({"sources": {"a": {}}}, "lacks annotations"),
        ({"sources": {"a": None}}, "source a must have keys"),
        ({"sources": {"a": SOURCE}, "allowed_share": 2}, "allowed_share must lie between 0 and 1"),
    ],
)
def test_broken_recipes_are_told_in_one_line(tmp_path, values, message):
    with pytest.raises(InputError, match=message) as error:
        read_mixture(write(tmp_path, values))
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot read the mixture"):
        read_mixture(tmp_path / "none.yaml")
