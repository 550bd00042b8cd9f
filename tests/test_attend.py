"""The attention of a patch is that of transformers' own eager attention, and the picture shows it where it is."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from dynimg_vl import InputError
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.loading import load_dynimgs
from dynimg_vl.model.attention import PatchAttention, head_weights, keyframe_patches, patch_attention
from dynimg_vl.model.tile_encoding import frame_of_patches
from dynimg_vl.render import attention
from dynimg_vl.render.attention_map import MARK
from test_cli import assert_refused, run  # noqa: F401  (a fixture)
from tiny import save_tiny, tiny_model, tiny_processor

PATCH = (2, 5)


def noise(num_frames=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    for layer in model.model.vision_tower.encoder.layers:  # far from an even spread
        layer.self_attn.q_proj.weight.data *= 8
        layer.self_attn.k_proj.weight.data *= 8
    return model


@pytest.fixture(scope="module")
def processor(model):
    return tiny_processor(model.config)


@pytest.fixture(scope="module")
def dynimgs(processor):
    return processor.video_processor.load(noise(), fps=4, num_dynimgs=2)


@pytest.fixture(scope="module")
def eager(model, processor, dynimgs):
    """Give transformers' own weights of both DynImgs, layer by layer: (G, H, P, P)."""
    tower = model.model.vision_tower
    chosen = tower.config._attn_implementation
    pixels = processor.video_processor.normalise(torch.as_tensor(dynimgs.pixels))
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        weights = tower(pixels, interpolate_pos_encoding=True, output_attentions=True).attentions
    tower.set_attn_implementation(chosen)
    return weights


def masked_eager(model, processor, dynimgs):
    """Run the layers of the tower with a mask that lets no patch see another frame; returns weights by layer."""
    tower = model.model.vision_tower
    frames = frame_of_patches(model.config.layout)
    mask = torch.where(frames[:, None] == frames, 0.0, -torch.inf)[None, None]
    chosen = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    found = []
    with torch.no_grad():
        states = tower.embeddings(processor.video_processor.normalise(torch.as_tensor(dynimgs.pixels)))
        for layer in tower.encoder.layers:
            found.append(layer.self_attn(layer.layer_norm1(states), attention_mask=mask)[1])
            states = layer(states, mask)
    tower.set_attn_implementation(chosen)
    return found


def test_weights_of_every_head_are_those_of_eager_attention(model, processor, dynimgs, eager):
    pixels = processor.video_processor.normalise(torch.as_tensor(dynimgs.pixels))
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    queries = torch.tensor([3, 17, 40])
    seen = 0
    with torch.no_grad():
        for layer, head, weights in head_weights(model.model.vision_tower, pixels, 3, queries=queries):
            torch.testing.assert_close(weights, eager[layer][:, head][:, queries], atol=2e-6, rtol=1e-4)
            seen += 1
    assert seen == 3 * 2
    assert float(eager[0].max()) > 0.1  # 64 patches: not an even spread, which any formula would give


@pytest.mark.parametrize("dynimg", [1, 2])
@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("head", [None, 1, 2])
def test_the_row_of_a_patch(model, processor, dynimgs, eager, dynimg, layer, head):
    found = patch_attention(model, processor, dynimgs, PATCH, dynimg=dynimg, layer=layer, head=head)
    number = PATCH[0] * 8 + PATCH[1]  # the keyframe is as wide as the grid
    wanted = eager[layer - 1][dynimg - 1, :, number]
    wanted = wanted.mean(0) if head is None else wanted[head - 1]
    np.testing.assert_allclose(found.shares.ravel(), wanted, atol=2e-6)
    assert found.num_layers == 2  # of the three layers of the tower, the last is never read
    assert sum(found.frame_shares()) == pytest.approx(1, abs=1e-5)
    assert found.frame_shares()[1] == pytest.approx(float(wanted.view(8, 8)[4:, :4].sum()), abs=1e-5)


def test_rollout_is_the_product_of_the_mixed_layers(model, processor, dynimgs, eager):
    found = patch_attention(model, processor, dynimgs, PATCH, rollout=True)
    product = torch.eye(64)
    for layer in eager[:2]:
        product = (0.5 * layer[0].mean(0) + 0.5 * torch.eye(64)) @ product
    np.testing.assert_allclose(found.shares.ravel(), product[PATCH[0] * 8 + PATCH[1]], atol=2e-6)


@pytest.mark.parametrize("rollout", [False, True])
def test_without_prompt_frames_is_attention_masked_in_every_layer(model, processor, dynimgs, rollout):
    found = patch_attention(model, processor, dynimgs, PATCH, rollout=rollout)
    layers = [weights[0].mean(0) for weights in masked_eager(model, processor, dynimgs)[:2]]
    mixed = [(weights + torch.eye(64)) / 2 for weights in layers]
    wanted = mixed[1] @ mixed[0] if rollout else layers[1]
    np.testing.assert_allclose(found.alone.ravel(), wanted[PATCH[0] * 8 + PATCH[1]], atol=2e-6)
    assert (found.alone[4:] == 0).all()


def test_other_prompt_frames_change_only_what_sees_them(model, processor, dynimgs):
    other = processor.video_processor.load(noise(), fps=4, num_dynimgs=2)
    other.pixels[:, :, 32:] = 255 - other.pixels[:, :, 32:]
    first, second = (patch_attention(model, processor, each, PATCH) for each in (dynimgs, other))
    assert np.array_equal(first.alone, second.alone)
    assert np.abs(first.shares - second.shares).max() > 1e-3


def test_no_prompt_frames_no_comparison():
    model = tiny_model(prompt_stage="none")
    processor = tiny_processor(model.config)
    dynimgs = processor.video_processor.load(noise(), fps=4, num_dynimgs=1)
    found = patch_attention(model, processor, dynimgs, (7, 7))
    assert found.alone is None
    assert found.frame_shares() == pytest.approx((1.0,), abs=1e-5)
    with_strip = tiny_model()
    processor = tiny_processor(with_strip.config)
    more = processor.video_processor.load(noise(), fps=4, num_dynimgs=1)
    wide = attention(more, patch_attention(with_strip, processor, more, PATCH))
    assert attention(dynimgs, found).width < wide.width


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch": (4, 0)}, "rows go from 0 to 3"),
        ({"patch": (0, 8)}, "columns from 0 to 7"),
        ({"patch": (-1, 0)}, "outside of the keyframe"),
        ({"layer": 0}, "numbered 1 to 2"),
        ({"layer": 3}, "layers that this model reads"),
        ({"head": 3}, "numbered 1 to 2"),
        ({"dynimg": 3}, "DynImgs of this video"),
        ({"rollout": True, "head": 1}, "mean of all heads"),
    ],
)
def test_what_does_not_exist_is_refused(model, processor, dynimgs, options, words):
    with pytest.raises(InputError, match=words) as refusal:
        patch_attention(model, processor, dynimgs, **{"patch": PATCH, **options})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("stage", ["after", "tiles"])
def test_a_model_that_encodes_frames_alone_is_refused(stage):
    model = tiny_model(prompt_stage=stage)
    processor = tiny_processor(model.config)
    dynimgs = processor.video_processor.load(noise(), fps=4)
    with pytest.raises(InputError, match="every frame alone"):
        patch_attention(model, processor, dynimgs, PATCH)


# --- the picture ---------------------------------------------------------------------------------------------------


def made_up(layout, bright, patch=(1, 1)):
    """Put all attention on one patch (row, column of the grid)."""
    shares = np.full((layout.patch_grid, layout.patch_grid), 1e-4, np.float32)
    shares[bright] = 1
    alone = np.zeros_like(shares)
    alone[0, 0] = 1
    return PatchAttention(shares, alone, layout, 1, patch, 1, 2, None, 2, False)


def panel_corners(picture, layout):
    """Find the panels: the mark is drawn into each at the same place."""
    rows, columns = np.nonzero((np.asarray(picture) == MARK).all(-1))
    return rows.min(), [int(group.min()) for group in np.split(columns_of(columns), gaps(columns_of(columns)))]


def columns_of(columns):
    return np.unique(columns)


def gaps(columns):
    return np.nonzero(np.diff(columns) > 50)[0] + 1


@pytest.mark.parametrize("layout", [DynImgLayout(), DynImgLayout(2, 4, 8, 8), DynImgLayout(12), DynImgLayout(1)])
def test_the_bright_patch_is_where_the_attention_is(layout):
    dynimgs = load_dynimgs(np.full((60, 24, 24, 3), 90, np.uint8), fps=10, layout=layout, num_dynimgs=1)
    bright = (layout.patch_grid - 1, layout.patch_grid // 2)
    picture = attention(dynimgs, made_up(layout, bright), title="clip.mp4")
    scale = max(1, round(384 / layout.image_size))
    cell = layout.patch_size * scale
    top, lefts = panel_corners(picture, layout)
    assert len(lefts) == 3
    origin = top + 2 - cell, [left + 2 - cell for left in lefts]  # the patch is one cell down and one to the right
    luminance = np.asarray(picture.convert("L"), int)

    def light(panel, row, column):
        return luminance[origin[0] + int((row + 0.5) * cell), origin[1][panel] + int((column + 0.5) * cell)]

    assert light(1, *bright) > light(1, bright[0], bright[1] - 2) + 60
    assert light(2, 0, 0) > light(2, 0, 3) + 60
    assert light(0, *bright) == light(0, bright[0], bright[1] - 2)  # the first panel shows the video only


def test_the_mark_is_around_the_patch_of_the_keyframe():
    layout = DynImgLayout()
    dynimgs = load_dynimgs(np.full((60, 24, 24, 3), 90, np.uint8), fps=10, layout=layout, num_dynimgs=1)
    places = [panel_corners(attention(dynimgs, made_up(layout, (0, 0), patch)), layout) for patch in ((1, 1), (5, 9))]
    (top, lefts), (lower, righter) = places
    assert lower - top == 4 * layout.patch_size
    assert [b - a for a, b in zip(lefts, righter, strict=True)] == [8 * layout.patch_size] * 3
    assert keyframe_patches(layout) == (18, 24)


# --- the verb ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


def test_attend_draws_and_tells(run, ball_video, tiny_folder, tmp_path):  # noqa: F811
    picture = tmp_path / "attention.png"
    code, out, err = run("attend", ball_video, "--patch", "1,6", "-m", tiny_folder, "-o", picture, "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert (facts["patch"], facts["layer"], facts["num_layers"], facts["head"]) == ([1, 6], 2, 2, None)
    shares = [facts["keyframe"]["share"], *(frame["share"] for frame in facts["prompt_frames"])]
    assert sum(shares) == pytest.approx(1, abs=1e-4)
    assert len(facts["prompt_frames"]) == 2
    grid = np.array(facts["attention"]["with_prompts"])
    assert grid[4:, :4].sum() == pytest.approx(shares[1], abs=1e-4)
    assert Image.open(picture).width > 1000
    code, out, _ = run("attend", ball_video, "--patch", "1,6", "--rollout", "-m", tiny_folder, "-o", picture)
    assert (code, len(out.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--patch", "1"), "row and column"),
        (("--patch", "1,2,3"), "row and column"),
        (("--patch", "1,99"), "outside of the keyframe"),
        (("--patch", "1,1", "--layer", "9"), "there is no layer 9"),
        (("--patch", "1,1", "--head", "0"), "there is no head 0"),
        (("--patch", "1,1", "--dynimg", "9"), "there is no DynImg 9"),
        (("--patch", "1,1", "--head", "1", "--rollout"), "rollout"),
        ((), "--patch"),
    ],
)
def test_attend_refuses_in_one_line(run, ball_video, tiny_folder, tmp_path, options, words):  # noqa: F811
    picture = tmp_path / "attention.png"
    assert_refused(run("attend", ball_video, "-m", tiny_folder, "-o", picture, *options), words)
    assert list(tmp_path.iterdir()) == []


def test_attend_refuses_a_wrong_name_before_anything_is_loaded(run, ball_video, tmp_path):  # noqa: F811
    assert_refused(run("attend", "none.mp4", "--patch", "1,1", "-o", tmp_path / "a.png"), "no such file")
    assert_refused(run("attend", ball_video, "--patch", "1,1", "-o", tmp_path / "a.txt"), ".png")
