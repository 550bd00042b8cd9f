"""The motion world: what a keyframe shows must say nothing about motion, and the truth must be true."""

from dataclasses import replace

import pytest
import torch

from dynimg_vl.motion import render as drawing
from dynimg_vl.motion.paths import KINDS
from dynimg_vl.motion.render import match_points, pixel_points, render, truth_at
from dynimg_vl.motion.textures import PictureBank, procedural_pictures
from dynimg_vl.motion.world import CAMERA_KINDS, DIRECTIONS, SHAPES, object_centres, object_distance, sample_scenes
from dynimg_vl.training.motion.heldout import halted_scene

VISIBLE = ("position", "radius", "aspect", "angle", "tint", "shape_id", "colour_id", "textured", "outlined")
OF_THE_CLIP = ("flat", "shade", "gain", "offset", "grain", "centre", "crop", "flip")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank():
    return PictureBank.procedural(12, seeded(3))


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(30_000, 12, seeded(1))


def test_the_same_seed_gives_the_same_clips(bank):
    first, second = (sample_scenes(16, 12, seeded(5)) for _ in range(2))
    times = torch.tensor([[-0.5, 0.0, 0.5]]).expand(16, 3)
    assert torch.equal(render(first, bank, times, (32, 32), seeded()), render(second, bank, times, (32, 32), seeded()))
    assert not torch.equal(first.position, sample_scenes(16, 12, seeded(6)).position)


def test_the_same_seed_gives_the_same_pictures():
    pictures = procedural_pictures(3, seeded(2))
    assert pictures.shape == (3, 3, 288, 384)
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures, procedural_pictures(3, seeded(2)))


def test_the_keyframe_shows_nothing_of_the_motion(bank):
    scenes = sample_scenes(160, 12, seeded(7))
    scenes = scenes.rows(~(scenes.cuts < 0).any(1))  # after a cut the keyframe shows another picture
    assert len(set(scenes.kind_id[scenes.present].tolist())) > 8
    time = torch.zeros(len(scenes), 1)
    stopped = halted_scene(scenes)
    assert torch.equal(render(scenes, bank, time, (24, 32)), render(stopped, bank, time, (24, 32)))
    others = torch.full((len(scenes), 1), 0.4)
    assert not torch.equal(render(scenes, bank, others, (24, 32)), render(stopped, bank, others, (24, 32)))


def check_same(values, rows):
    """Compare the mean and the spread of values (B, ..) on some rows with all: within five standard errors."""
    values = values.double().flatten(1)
    number = int(rows.sum())
    error = values.std(0) / number**0.5 + 1e-9
    assert ((values[rows].mean(0) - values.mean(0)).abs() < 5 * error).all()
    spread = (values - values.mean(0)).square()
    assert ((spread[rows].mean(0) - spread.mean(0)).abs() < 5 * spread.std(0) / number**0.5 + 1e-9).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_seen_of_an_object_is_the_same_for_all_kinds_of_motion(scenes, count):
    alike = (scenes.camera_id == 0) & ~(scenes.cuts < 9).any(1) & (scenes.num_objects == count)
    part = scenes.rows(alike)
    for place in range(count):
        kinds = part.kind_id[:, place]
        assert len(kinds.unique()) >= len(KINDS) - 2 * (count != 2)
        seen = [getattr(part, name)[:, place].reshape(len(part), -1).double() for name in VISIBLE]
        # Kinds as numbers of shapes and colours have no mean that says much: one column for each.
        seen += [torch.nn.functional.one_hot(getattr(part, n)[:, place]).double() for n in ("shape_id", "colour_id")]
        seen += [getattr(part, name).reshape(len(part), -1).double() for name in OF_THE_CLIP]
        table = torch.cat(seen, 1)
        for kind in kinds.unique():
            check_same(table, kinds == kind)
        for direction in range(1, len(DIRECTIONS)):
            check_same(table, part.direction_id[:, place] == direction)


def test_what_is_seen_of_the_background_is_the_same_for_all_camera_motions(scenes):
    moving = scenes.rows((scenes.camera_id > 0) | (~scenes.flat & (scenes.num_objects == 0)))
    table = torch.cat([getattr(moving, name).reshape(len(moving), -1).double() for name in OF_THE_CLIP], 1)
    for kind in range(len(CAMERA_KINDS)):
        check_same(table, moving.camera_id == kind)


def test_objects_lie_anywhere_and_do_not_overlap(scenes):
    alone = scenes.rows(scenes.num_objects == 1)
    for axis in range(2):
        shares = torch.histc(alone.position[:, 0, axis], 4, 0.1, 0.9) / len(alone)
        assert ((shares - 0.25).abs() < 0.02).all()
    two = scenes.rows(scenes.num_objects == 2)
    apart = (two.position[:, 0] - two.position[:, 1]).norm(dim=-1) - 1.25 * (two.radius[:, 0] + two.radius[:, 1])
    assert float((apart < 0).float().mean()) < 0.01


def test_camera_kinds_are_equally_frequent_whatever_is_in_the_picture(scenes):
    for number in range(3):
        rows = (scenes.camera_id > 0) & (scenes.num_objects == number)
        shares = torch.bincount(scenes.camera_id[rows], minlength=len(CAMERA_KINDS))[1:] / rows.sum()
        assert ((shares - 1 / 7).abs() < 0.03).all()


@pytest.mark.parametrize(("name", "axis", "sign"), [("left", 0, 1), ("right", 0, -1), ("up", 1, 1), ("down", 1, -1)])
def test_what_is_seen_goes_against_the_camera(scenes, name, axis, sign):
    still = (scenes.kind_id == 0).all(1)
    part = scenes.rows(scenes.present[:, 0] & still & (scenes.camera_id == CAMERA_KINDS.index(name)))
    centres = object_centres(part, torch.tensor([[0.0, 0.5]]).expand(len(part), 2))
    shift = centres[:, 1, 0] - centres[:, 0, 0]
    assert (shift[:, axis] * sign > 0).all()
    assert (shift[:, axis].abs() > 2 * shift[:, 1 - axis].abs()).all()


def test_zooming_in_drives_things_apart(scenes):
    for name, grows in (("in", True), ("out", False)):
        part = scenes.rows((scenes.num_objects == 2) & (scenes.camera_id == CAMERA_KINDS.index(name)))
        part = part.rows((part.kind_id == 0).all(1))
        centres = object_centres(part, torch.tensor([[-0.5, 0.5]]).expand(len(part), 2))
        before, after = (centres[:, t, 0] - centres[:, t, 1] for t in (0, 1))
        assert ((after.norm(dim=-1) > before.norm(dim=-1)) == grows).all()


def test_matches_show_the_same_colour(bank):
    scenes = sample_scenes(30, 12, seeded(9))
    scenes = scenes.rows(~(scenes.cuts < torch.inf).any(1))
    num = len(scenes)
    times, others = torch.full((num, 1), -0.3), torch.full((num, 1), 0.25)
    size = (96, 128)
    points = pixel_points((12, 16))
    found, visible = match_points(scenes, times, others, points)
    before, after = (render(scenes, bank, at, size)[:, 0] for at in (times, others))
    grid = (points * 2 - 1).expand(num, 1, -1, -1)
    here = torch.nn.functional.grid_sample(before, grid, align_corners=False)[:, :, 0]
    there = torch.nn.functional.grid_sample(after, found * 2 - 1, align_corners=False)[:, :, 0]
    error = (here - there).abs().mean(1)[visible[:, 0]]
    # Nearly all agree; the rest lie on edges, where half a pixel decides.
    assert float(error.median()) < 0.01
    assert float((error > 0.1).float().mean()) < 0.05
    assert 0.3 < float(visible.float().mean()) < 0.98


@pytest.mark.parametrize("num", [1, 3])
def test_only_points_near_an_object_are_asked_about_it_and_no_pixel_changes(num, bank, monkeypatch):
    asked = []

    def watch(part, times, points):
        asked.append(points.shape[2])
        return object_distance(part, times, points)

    monkeypatch.setattr(drawing, "object_distance", watch)
    few = [sample_scenes(num, len(bank), seeded(seed), 0.5) for seed in range(20)]
    times = torch.linspace(-1, 1, 6).expand(num, 6)
    fast = [render(scene, bank, times, (45, 60), seeded(1)) for scene in few]
    assert min(asked) < 45 * 60 / 4
    monkeypatch.setattr(drawing, "_points_near", lambda part, times, points, edge: torch.arange(len(points)))
    for scene, drawn in zip(few, fast, strict=True):
        assert torch.equal(render(scene, bank, times, (45, 60), seeded(1)), drawn)


def test_velocity_is_the_derivative_of_the_match():
    scenes = sample_scenes(400, 12, seeded(11))
    times = torch.full((400, 1), 0.2)
    points = pixel_points((4, 4))
    truth = truth_at(scenes, times, points)
    step = 1e-3
    ahead, visible = match_points(scenes, times, times + step, points)
    slope = (ahead - points) / step
    # An object may set out or vanish within the step; one in a thousand does.
    wrong = ((slope - truth.velocity).abs() > 2e-2).any(-1) & visible
    assert float(wrong.float().mean()) < 2e-3
    assert visible.float().mean() > 0.8


def test_what_is_not_there_matches_nothing():
    scenes = sample_scenes(6_000, 12, seeded(12))
    kind = KINDS.index("appear")
    scenes = scenes.rows((scenes.kind_id[:, 0] == kind) & scenes.present[:, 0] & (scenes.camera_id == 0))
    now, before = torch.zeros(len(scenes), 1), torch.full((len(scenes), 1), -0.5)
    for row in range(8):
        one = scenes.rows(slice(row, row + 1))
        centre = one.position[0, :1]
        assert truth_at(one, now[:1], centre).layer[0, 0, 0] == 0
        assert truth_at(one, before[:1], centre).layer[0, 0, 0] != 0
        _, visible = match_points(one, now[:1], before[:1], centre)
        assert not visible.any()


def test_frames_before_and_after_a_cut_have_no_match():
    scenes = sample_scenes(4_000, 12, seeded(13))
    scenes = scenes.rows((scenes.camera_id == CAMERA_KINDS.index("change")) & (scenes.num_objects == 0))
    times, others = torch.full((len(scenes), 1), -0.9), torch.full((len(scenes), 1), 0.9)
    _, visible = match_points(scenes, times, others, pixel_points((4, 4)))
    assert not visible.any()


def test_one_place_and_some_rows_are_what_they_were():
    scenes = sample_scenes(20, 12, seeded(14))
    part = scenes.rows(slice(3, 9)).places(1)
    assert len(part) == 6
    assert torch.equal(part.position[:, 0], scenes.position[3:9, 1])
    assert torch.equal(part.paths.legs[:, 0], scenes.legs[3:9, 1])
    assert torch.equal(replace(scenes).to("cpu").radius, scenes.radius)


@pytest.mark.parametrize(
    ("shape", "inside"), [("circle", "nyy"), ("square", "ynn"), ("triangle", "nny"), ("bar", "nyn")]
)
def test_shapes_look_as_they_are_called(shape, inside):
    scenes = sample_scenes(100, 4, seeded(15))
    scenes = scenes.rows((scenes.num_objects == 1) & (scenes.camera_id == 0))
    scenes = replace(
        scenes,
        shape_id=torch.full_like(scenes.shape_id, SHAPES.index(shape)),
        angle=torch.zeros_like(scenes.angle),
        aspect=torch.ones_like(scenes.aspect),
    )
    # A corner, right, below; the frame is 4 wide and 3 high.
    probes = torch.tensor([[0.8, 0.8], [0.95, 0.0], [0.0, 0.9]]) / torch.tensor([1.0, 0.75])
    points = scenes.position[:, None, :1] + scenes.radius[:, None, :1, None] * probes
    found = object_distance(scenes, torch.zeros(len(scenes), 1), points)[:, 0, :, 0] < 0
    assert len(scenes) > 5
    assert (found == torch.tensor([each == "y" for each in inside])).all()
