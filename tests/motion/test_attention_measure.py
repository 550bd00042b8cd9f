"""The measure of attention knows the truth: made-up attention has the score that it must have."""

import numpy as np
import pytest
import torch

from dynimg_vl import InputError
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.motion.paths import displacement
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.world import object_distance
from dynimg_vl.training.motion.attention_measure import (
    GROUPS,
    METRICS,
    AttentionMeasure,
    as_table,
    draw_clip,
    measure_attention,
    patch_truth,
    score_attention,
)
from dynimg_vl.training.motion.data import View
from tiny import tiny_model, tiny_processor

LAYOUT = DynImgLayout(num_prompt_frames=4, token_grid=8, patch_grid=16, patch_size=8)
NUM_KEYFRAME, NUM_PATCHES = 192, 256


@pytest.fixture(scope="module")
def bank():
    return PictureBank.procedural(4, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def clips(bank):
    return [draw_clip(number, View(LAYOUT), bank, seed=3) for number in range(40)]


@pytest.fixture(scope="module")
def truths(clips):
    return [patch_truth(scenes, times, LAYOUT) for scenes, times, _ in clips]


def of_group(truth, group):
    return truth.asked[group].any(-1)


@pytest.mark.parametrize("group", GROUPS)
def test_attention_on_the_content_alone_scores_one(truths, group):
    seen = 0
    for truth in truths:
        weights = torch.zeros(1, NUM_KEYFRAME, NUM_PATCHES).scatter_add(-1, truth.match, truth.asked[group].float())
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1)
        scores = score_attention(weights, truth, group)
        wanted = of_group(truth, group).float()
        for metric in ("match", "strip", "frames"):
            torch.testing.assert_close(scores[metric], wanted)
        if group.startswith("moving"):
            assert float(scores["place"].abs().max()) == 0
        seen += int(wanted.sum())
    assert seen > 30


@pytest.mark.parametrize("group", GROUPS)
def test_an_even_spread_scores_its_area(truths, group):
    weights = torch.full((1, NUM_KEYFRAME, NUM_PATCHES), 1 / NUM_PATCHES)
    for truth in truths:
        scores = score_attention(weights, truth, group)
        torch.testing.assert_close(scores["match"], scores["chance"])
        torch.testing.assert_close(scores["place"], scores["chance"])
        torch.testing.assert_close(scores["strip"], 0.25 * of_group(truth, group))
        torch.testing.assert_close(scores["frames"], truth.asked[group].sum(-1) / 16)  # of 256 patches, 16 are a frame
        torch.testing.assert_close(scores["chance"], truth.asked[group].sum(-1) / 256)


def test_attention_to_a_fixed_place_finds_what_is_still_only(truths):
    for truth in truths:
        weights = torch.zeros(1, NUM_KEYFRAME, NUM_PATCHES).scatter_add(
            -1, truth.place[None], torch.full((1, NUM_KEYFRAME, 4), 0.25)
        )
        moving, still = (score_attention(weights, truth, group) for group in ("moving", "still"))
        assert float(moving["match"].sum()) == 0
        torch.testing.assert_close(moving["place"], truth.asked["moving"].sum(-1) / 4)
        torch.testing.assert_close(still["match"], truth.asked["still"].sum(-1) / 4)


def test_the_truth_is_that_of_the_objects_paths(clips, truths):
    """Follow the middle of each patch by hand, through the object's own displacement."""
    seen = 0
    for (scenes, times, _), truth in zip(clips, truths, strict=True):
        moved = displacement(scenes.paths, times)[0]  # (1 + N, S, 2)
        for patch, rank in truth.asked["moving"][0].nonzero().tolist():
            middle = torch.tensor([(patch % 16 + 0.5) / 16, (patch // 16 + 0.5) / 12])
            inside = (object_distance(scenes, times[:, :1], middle[None, None, None])[0, 0, 0] < 0).nonzero()[:, 0]
            place = int(inside.max())  # the last one drawn lies on top
            assert bool(scenes.moves[0, place])
            x, y = (middle + moved[1 + rank, place] - moved[0, place]).tolist()
            assert 0 <= x <= 1
            assert 0 <= y <= 1
            row, column = 12 + min(int(y * 4), 3), 4 * rank + min(int(x * 4), 3)
            assert int(truth.match[0, patch, rank]) == row * 16 + column
            assert int(truth.match[0, patch, rank]) != int(truth.place[patch, rank])
            seen += 1
    assert seen > 100


def test_the_pixels_agree(clips, truths):
    """Where the truth says that the content of a plain object is, its colour is found in the drawn DynImg."""
    found = away = 0
    for (scenes, times, pixels), truth in zip(clips, truths, strict=True):
        for patch, rank in truth.asked["moving"][0].nonzero().tolist():
            middle = torch.tensor([(patch % 16 + 0.5) / 16, (patch // 16 + 0.5) / 12])
            distance = object_distance(scenes, times[:, :1], middle[None, None, None])[0, 0, 0]
            place = int((distance < 0).nonzero()[:, 0].max())
            if scenes.textured[0, place]:
                continue
            error = (pixels[0].float() / 255 - scenes.tint[0, place][:, None, None]).abs().amax(0)
            cells = error.unfold(0, 8, 8).unfold(1, 8, 8).flatten(2).amin(-1).flatten()
            found += float(cells[truth.match[0, patch, rank]]) < 0.15
            away += 1
    assert away > 50
    assert found / away > 0.97  # the point may lie on a last sliver of the object


def test_still_ground_is_not_plain_and_not_covered(clips, truths):
    for (scenes, _, _), truth in zip(clips, truths, strict=True):
        if bool(scenes.flat[0]):
            assert not truth.asked["still"].any()
        assert not (truth.asked["still"].any(-1) & truth.asked["moving"].any(-1)).any()
        assert (
            truth.match[truth.asked["still"]] == truth.place[None].expand_as(truth.match)[truth.asked["still"]]
        ).all()
    assert any(truth.asked["still"].any() for truth in truths)


def test_near_frames_are_those_beside_the_keyframe(truths):
    for truth in truths:
        for group in ("moving", "still"):
            assert torch.equal(truth.asked[f"{group}_near"][..., 1:3], truth.asked[group][..., 1:3])
            assert not truth.asked[f"{group}_near"][..., [0, 3]].any()


@pytest.mark.parametrize("layout", [DynImgLayout(2, 4, 8, 8), DynImgLayout(4, 12, 27, 2), DynImgLayout(1, 4, 8, 8)])
def test_any_geometry(bank, layout):
    scenes, times, pixels = draw_clip(0, View(layout, num_dynimgs=2), bank, seed=1)
    assert pixels.shape == (2, 3, layout.image_size, layout.image_size)
    truth = patch_truth(scenes, times, layout)
    for rank in range(layout.num_prompt_frames):
        assert (truth.frames[truth.match[..., rank]] == 1 + rank).all()
        assert (truth.frames[truth.place[..., rank]] == 1 + rank).all()


def measured(model, **options):
    *counts, measure = measure_attention(model, tiny_processor(model.config), **options)
    assert counts[-1] == options["num_clips"]
    return measure


def test_a_model_is_measured_on_clips_that_depend_on_the_seed_alone(bank):
    model = tiny_model()
    few = measured(model, bank=bank, num_clips=7, batch_size=3)
    more = measured(model, bank=bank, num_clips=9, batch_size=9)
    other = measured(model, bank=bank, num_clips=7, batch_size=7, seed=5)
    for group in GROUPS:
        for metric in METRICS:
            assert few.values[group][metric].shape == (7, 2, 2)
            np.testing.assert_allclose(few.values[group][metric], more.values[group][metric][:7], atol=1e-6)
    strips = few.values["still"]["strip"], other.values["still"]["strip"]
    assert not np.allclose(*strips, equal_nan=True, atol=1e-6)
    assert np.nanmax(strips[0]) < 1


def test_a_model_that_looks_everywhere_alike_scores_the_area(bank):
    model = tiny_model()
    for layer in model.model.vision_tower.encoder.layers:
        layer.self_attn.q_proj.weight.data.zero_()
        layer.self_attn.q_proj.bias.data.zero_()
    measure = measured(model, bank=bank, num_clips=12)
    for group in GROUPS:
        values = measure.values[group]
        np.testing.assert_allclose(values["match"], values["chance"], atol=1e-6)
        strip = values["strip"][~np.isnan(values["strip"])]
        np.testing.assert_allclose(strip, 0.5, atol=1e-6)  # two prompt frames of 4 x 4 patches among 64


def test_the_clip_is_the_unit():
    rng = np.random.default_rng(0)
    values = {group: {metric: rng.random((5, 2, 3)) for metric in METRICS} for group in GROUPS}
    values["moving"]["match"][2] = np.nan
    measure = AttentionMeasure(values)
    found = measure.estimate("moving", "match", 1, 2)
    kept = values["moving"]["match"][[0, 1, 3, 4], 1, 2]
    assert found["num_clips"] == 4
    assert found["mean"] == pytest.approx(kept.mean())
    assert found["standard_error"] == pytest.approx(kept.std(ddof=1) / 2)
    kept = (values["moving"]["match"] - values["still"]["match"])[[0, 1, 3, 4], 0].mean(1)
    assert measure.estimate("difference", "match", 0)["mean"] == pytest.approx(kept.mean())
    rows = measure.as_json()
    assert [(row["layer"], row["head"]) for row in rows] == [(n, h) for n in (1, 2) for h in (None, 1, 2, 3)]
    lines = as_table(rows).splitlines()
    assert len(lines) == 2 + 2 + 3
    assert len({line.count("|") for line in lines}) == 1


def test_no_clip_tells_nothing():
    empty = {group: {metric: np.full((1, 1, 1), np.nan) for metric in METRICS} for group in GROUPS}
    found = AttentionMeasure(empty).estimate("moving", "match", 0)
    assert found["num_clips"] == 0
    assert np.isnan(found["mean"])


@pytest.mark.parametrize("fields", [{"prompt_stage": "tiles"}, {"prompt_stage": "after"}, {"num_prompt_frames": 0}])
def test_a_tower_that_never_sees_both_is_refused(bank, fields):
    model = tiny_model(**fields)
    with pytest.raises(InputError, match="no attention between them"):
        next(measure_attention(model, tiny_processor(model.config), bank=bank, num_clips=1))
