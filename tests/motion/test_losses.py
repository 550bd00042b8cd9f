"""The training-only losses against literal formulas."""

import math

import pytest
import torch

from dynimg_vl.layout import DynImgLayout
from dynimg_vl.motion.paths import DIRECTIONS, KINDS, LABELS, motion_labels
from dynimg_vl.motion.render import pixel_points
from dynimg_vl.motion.world import CAMERA_KINDS, COLOURS, SHAPES, object_centres, sample_scenes
from dynimg_vl.training.motion.data import choose_tokens, draw_dynimgs, prompt_times, tile_tokens
from dynimg_vl.training.motion.losses import (
    MotionHeads,
    attention_loss,
    bilinear_neighbours,
    flow_loss,
    track_loss,
    watch_attention,
    where_loss,
)
from dynimg_vl.training.motion.step import frame_patches
from dynimg_vl.training.motion.targets import IGNORE, frame_grids, motion_targets
from tiny import tiny_model

LAYOUT = DynImgLayout(num_prompt_frames=4, token_grid=8, patch_grid=16, patch_size=8)


@pytest.fixture(scope="module")
def clips():
    generator = torch.Generator().manual_seed(2)
    scenes = sample_scenes(12, 4, generator)
    times = torch.cat((torch.zeros(12, 1), prompt_times(12, generator)), 1)
    return scenes, times, motion_targets(scenes, times, LAYOUT)


def test_bilinear_weights_are_those_of_interpolation():
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(50, 2, generator=generator)
    picture = torch.rand(1, 1, 3, 5, generator=generator)
    index, weight = bilinear_neighbours(places, (3, 5))
    assert torch.allclose(weight.sum(-1), torch.ones(50))
    found = (picture.flatten()[index] * weight).sum(-1)
    sampled = torch.nn.functional.grid_sample(
        picture, (places * 2 - 1)[None, None], padding_mode="border", align_corners=False
    )
    assert torch.allclose(found, sampled.flatten(), atol=1e-6)


def literal_attention_loss(logits, targets, keep):
    total = amount = 0.0
    keep = keep.tolist()
    for clip in range(len(logits)):
        for side in range(2):
            for row, patch in enumerate(keep):
                weight = float(targets.match_weight[side, clip, patch])
                if weight == 0:
                    continue
                scores = [float(x) for x in logits[clip, side, row]]
                norm = math.log(sum(math.exp(x) for x in scores))
                x, y = (float(v) * 4 - 0.5 for v in targets.match[side, clip, patch])
                x, y = min(max(x, 0), 3), min(max(y, 0), 3)
                first = 192 + 16 * int(targets.frame[side, patch])
                loss = 0.0
                for r in range(4):
                    for c in range(4):
                        share = max(0.0, 1 - abs(r - y)) * max(0.0, 1 - abs(c - x))
                        if share:
                            loss -= share * (scores[keep.index(first + 4 * r + c)] - norm)
                total += weight * loss
                amount += weight
    return total / amount


@pytest.mark.parametrize("num_keyframe_tokens", [0, 6])
def test_attention_loss_is_the_literal_formula(clips, num_keyframe_tokens):
    _, _, targets = clips
    generator = torch.Generator().manual_seed(1)
    order = frame_patches(LAYOUT)
    rank = torch.empty(256, dtype=torch.long)
    rank[order] = torch.arange(256)
    tokens = choose_tokens(LAYOUT, num_keyframe_tokens, generator)
    patches = torch.cat([torch.tensor([0, 1, 16, 17]) + t // 8 * 32 + t % 8 * 2 for t in tokens.tolist()])
    keep = rank[patches]
    logits = torch.randn(12, 2, len(keep), len(keep), generator=generator)
    loss = attention_loss(logits, targets, LAYOUT, keep)
    assert float(loss) == pytest.approx(literal_attention_loss(logits, targets, keep), rel=1e-4)


def test_the_first_and_last_prompt_frames_have_no_neighbour_outside(clips):
    _, _, targets = clips
    assert (targets.match_weight[1][:, 192:208] == 0).all()
    assert (targets.match_weight[0][:, 240:256] == 0).all()
    assert (targets.frame[0, :192] == 2).all()  # the keyframe looks ahead to the third prompt frame
    assert (targets.frame[1, :192] == 1).all()


def test_flow_loss_is_zero_for_the_truth(clips):
    _, _, targets = clips
    keep = torch.arange(256)
    assert float(flow_loss(targets.flow / 0.3, targets, keep)) == 0
    assert float(flow_loss(targets.flow / 0.3 + 1, targets, keep)) > 0.5


def test_watching_changes_nothing_and_gives_the_real_scores():
    model = tiny_model()
    block = model.model.vision_tower.encoder.layers[1]
    states = torch.randn(2, 10, 32)
    plain = block(states, None)
    with watch_attention(block) as scores:
        assert torch.equal(block(states, None), plain)
    attention = block.self_attn
    normed = block.layer_norm1(states)
    queries, keys = (part(normed).view(2, 10, 2, 16).transpose(1, 2) for part in (attention.q_proj, attention.k_proj))
    assert torch.allclose(scores[0], queries @ keys.transpose(-1, -2) * 16**-0.5, atol=1e-5)
    assert len(attention._forward_pre_hooks) == 0


def test_frames_are_listed_in_order():
    order = frame_patches(LAYOUT)
    assert sorted(order.tolist()) == list(range(256))
    assert frame_grids(LAYOUT) == [(12, 16)] + [(4, 4)] * 4
    assert order[192:196].tolist() == [192, 193, 194, 195]
    assert order[208:212].tolist() == [196, 197, 198, 199]


def test_tokens_that_are_not_kept_stay_black(clips):
    from dynimg_vl.motion.textures import PictureBank

    scenes, times, _ = clips
    generator = torch.Generator().manual_seed(0)
    bank = PictureBank.procedural(4, generator)
    everything = torch.arange(64)
    full = draw_dynimgs(scenes, bank, times, LAYOUT, everything, torch.Generator().manual_seed(0))
    kept = choose_tokens(LAYOUT, 5, generator)
    part = draw_dynimgs(scenes, bank, times, LAYOUT, kept, torch.Generator().manual_seed(0))
    assert full.shape == (12, 3, 128, 128)
    # Without grain the kept tokens are the same pixels.
    scenes.grain.zero_()
    full, part = (draw_dynimgs(scenes, bank, times, LAYOUT, keep, generator) for keep in (everything, kept))
    for token in tile_tokens(LAYOUT, 0).tolist():
        rows, columns = slice(token // 8 * 16, token // 8 * 16 + 16), slice(token % 8 * 16, token % 8 * 16 + 16)
        if token in kept:
            assert torch.equal(part[..., rows, columns], full[..., rows, columns])
        else:
            assert (part[..., rows, columns] == 0).all()
    assert torch.equal(part[..., 96:, :], full[..., 96:, :])


def test_targets_name_what_covers_each_patch():
    scenes = sample_scenes(200, 4, torch.Generator().manual_seed(5))
    times = torch.cat((torch.zeros(200, 1), prompt_times(200, torch.Generator().manual_seed(6))), 1)
    targets = motion_targets(scenes, times, LAYOUT)
    assert torch.equal(targets.kind > 0, targets.covered)
    assert torch.equal(targets.shape > 0, targets.covered)
    for clip in range(200):
        for frame, (first, rows, columns) in enumerate([(0, 12, 16), *((192 + 16 * rank, 4, 4) for rank in range(4))]):
            wanted = set()
            for place in range(int(scenes.num_objects[clip])):
                seen = scenes.shown[clip, place, 0] <= times[clip, frame] <= scenes.shown[clip, place, 1]
                x, y = object_centres(scenes.rows(slice(clip, clip + 1)), times[clip : clip + 1])[
                    0, frame, place
                ].tolist()
                if seen and 0 <= x < 1 and 0 <= y < 1:
                    wanted.add(first + int(y * rows) * columns + int(x * columns))
            part = targets.centre[clip, first : first + rows * columns]
            assert set((part.nonzero().flatten() + first).tolist()) == wanted


def test_patches_say_where_the_middle_of_their_object_is():
    scenes = sample_scenes(100, 4, torch.Generator().manual_seed(5))
    times = torch.cat((torch.zeros(100, 1), prompt_times(100, torch.Generator().manual_seed(6))), 1)
    targets = motion_targets(scenes, times, LAYOUT)
    middles = object_centres(scenes, times)  # (B, 1 + N, S, 2)
    named = covered = 0
    for clip in range(100):
        for frame, first, rows, columns in [(0, 0, 12, 16), *((1 + rank, 192 + 16 * rank, 4, 4) for rank in range(4))]:
            for patch in range(rows * columns):
                if not (targets.covered[clip, first + patch] or targets.centre[clip, first + patch]):
                    continue
                found = targets.where[clip, first + patch]
                distance, place = (middles[clip, frame] - found).abs().sum(-1).min(0)
                assert float(distance) == 0
                if targets.covered[clip, first + patch] and not scenes.textured[clip, place]:
                    assert int(targets.kind[clip, first + patch]) == 2 + int(scenes.colour_id[clip, place])
                    covered += 1
                if targets.centre[clip, first + patch] and not targets.covered[clip, first + patch]:
                    x, y = found.tolist()
                    assert patch == int(y * rows) * columns + int(x * columns)
                    named += 1
    assert covered > 500
    assert named > 5


def test_the_loss_on_places_is_the_mean_over_patches_of_objects(clips):
    _, _, targets = clips
    keep = torch.arange(0, 256, 3)
    predicted = torch.rand(12, len(keep), 2, generator=torch.Generator().manual_seed(1))
    errors = []
    for clip in range(12):
        for row, patch in enumerate(keep.tolist()):
            if targets.covered[clip, patch] or targets.centre[clip, patch]:
                gaps = [
                    abs(float(a - b)) for a, b in zip(predicted[clip, row], targets.where[clip, patch], strict=True)
                ]
                errors.append(sum(gap**2 / 0.2 if gap < 0.1 else gap - 0.05 for gap in gaps) / 2)
    assert float(where_loss(predicted, targets, keep)) == pytest.approx(sum(errors) / len(errors), rel=1e-5)


def test_tracks_and_paths_are_those_of_the_scene():
    num = 600
    scenes = sample_scenes(num, 4, torch.Generator().manual_seed(15), camera_share=0.5)
    times = torch.cat((torch.zeros(num, 1), prompt_times(num, torch.Generator().manual_seed(16))), 1)
    targets = motion_targets(scenes, times, LAYOUT)
    labels = motion_labels(scenes.kind_id, scenes.direction_id)
    centres = object_centres(scenes, times)
    kinds = set()
    for clip in range(num):
        # A background point p of the keyframe is at 0.5 + (p - 0.5 - c t) / exp(zoom t).
        t, zoom, camera = times[clip, 1:, None], scenes.zoom[clip], scenes.camera[clip]
        point = torch.tensor([0.5 / 16, 0.5 / 12])  # the first patch of 12 rows of 16
        if not targets.covered[clip, 0]:
            moved = 0.5 + (point - 0.5 - camera * t) / (zoom * t).exp() - point
            assert torch.allclose(targets.track[clip, 0], moved.clamp(-1, 1), atol=1e-5)
            assert targets.path[clip, 0] == IGNORE
        if int(scenes.num_objects[clip]) == 1 and scenes.camera_id[clip] == 0 and targets.centre[clip, :192].any():
            (patch,) = targets.centre[clip, :192].nonzero().flatten()
            away = (centres[clip, 1:, 0] - centres[clip, 0, 0]).clamp(-1, 1)
            if targets.covered[clip, patch]:  # not between the arms of a triangle
                assert torch.allclose(targets.track[clip, patch], away, atol=1e-5)
                assert targets.path[clip, patch] == labels[clip, 0]
                first, then = int(scenes.direction_id[clip, 0]), int(scenes.turn_id[clip, 0])
                ways = {"start": [0, first], "stop": [first, 0], "turn": [first, then], "move": [first, first]}
                ways |= {name: [0, 0] for name in ("still", "appear", "disappear")}
                kind = KINDS[int(scenes.kind_id[clip, 0])]
                assert targets.ways[clip, patch].tolist() == ways.get(kind, [IGNORE, IGNORE])
                kinds.add(kind)
        # Content is where it is in its own frame: patches of prompt frame k are 0 away in column k.
        for rank in range(4):
            assert targets.track[clip, 192 + 16 * rank : 208 + 16 * rank, rank].abs().max() < 1e-5
    assert kinds == set(KINDS) - {"meet", "part"}
    assert (targets.track_weight[~scenes.cuts.isinf().all(1)] == 0).all()


def test_the_loss_on_tracks_is_the_weighted_mean_over_patches(clips):
    _, _, targets = clips
    keep = torch.arange(1, 256, 5)
    predicted = torch.rand(12, len(keep), 8, generator=torch.Generator().manual_seed(1)) - 0.5
    total = amount = 0.0
    for clip in range(12):
        for row, patch in enumerate(keep.tolist()):
            wanted = (targets.track[clip, patch] / 0.3).flatten().tolist()
            gaps = [abs(float(a) - b) for a, b in zip(predicted[clip, row], wanted, strict=True)]
            weight = float(targets.track_weight[clip, patch])
            total += weight * sum(gap**2 / 0.6 if gap < 0.3 else gap - 0.15 for gap in gaps) / 8
            amount += weight
    assert float(track_loss(predicted, targets, keep)) == pytest.approx(total / amount, rel=1e-5)


def test_heads_name_every_motion_camera_colour_and_shape():
    found = MotionHeads(16)(torch.zeros(2, 5, 16))
    assert {name: tuple(part.shape) for name, part in found.items()} == {
        "flow": (2, 5, 2),
        "covered": (2, 5),
        "kind": (2, 5, 2 + len(COLOURS)),
        "shape": (2, 5, 1 + len(SHAPES)),
        "centre": (2, 5),
        "where": (2, 5, 2),
        "path": (2, 5, len(LABELS)),
        "ways": (2, 5, 2, len(DIRECTIONS)),
        "track": (2, 5, 8),
        "camera": (2, len(CAMERA_KINDS)),
        "direction": (2, len(LABELS)),
    }


def test_matches_are_where_the_tracks_lead(clips):
    _, _, targets = clips
    points = torch.cat([pixel_points(grid) for grid in frame_grids(LAYOUT)])
    for side in range(2):
        track = targets.track[:, torch.arange(256), targets.frame[side]]
        seen = targets.match_weight[side] > 0
        assert seen.any()
        torch.testing.assert_close((targets.match[side] - points)[seen], track[seen], rtol=0, atol=1e-5)
