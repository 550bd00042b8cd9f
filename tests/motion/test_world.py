"""The motion world: what a keyframe shows must say nothing about motion, and the truth must be true."""

from dataclasses import replace

import pytest
import torch

from dynimg_vl.motion.render import match_points, pixel_points, render, truth_at
from dynimg_vl.motion.textures import PictureBank, procedural_pictures
from dynimg_vl.motion.world import CAMERA_KINDS, DIRECTIONS, object_centres, sample_scenes


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def bank():
    return PictureBank.procedural(12, seeded(3))


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(20_000, 12, seeded(1))


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


def test_the_keyframe_does_not_change_with_the_motion(bank):
    scenes = sample_scenes(24, 12, seeded(7))
    still = replace(
        scenes,
        camera=torch.zeros_like(scenes.camera),
        zoom=torch.zeros_like(scenes.zoom),
        velocity=torch.zeros_like(scenes.velocity),
        cuts=torch.full_like(scenes.cuts, torch.inf),
    )
    unbroken = scenes.rows(~(scenes.cuts < 0).any(1))  # after a cut the keyframe shows another picture
    still = still.rows(~(scenes.cuts < 0).any(1))
    time = torch.zeros(len(still), 1)
    assert torch.equal(render(unbroken, bank, time, (96, 128)), render(still, bank, time, (96, 128)))


def test_position_size_and_number_are_independent_of_the_motion(scenes):
    moves = scenes.moves[:, 0]
    alone = scenes.present[:, 0] & (scenes.camera_id == 0) & (scenes.num_objects == 1)
    overall = scenes.position[alone, 0].mean(0)
    for direction in range(len(DIRECTIONS)):
        rows = alone & (scenes.direction_id[:, 0] == direction)
        error = 4 * scenes.position[alone, 0].std(0) / rows.sum().sqrt()
        assert ((scenes.position[rows, 0].mean(0) - overall).abs() < error).all()
        assert abs(float(scenes.radius[rows, 0].mean()) - 0.12) < 0.006
    # Uniform over the middle four fifths of the screen, whatever the kind.
    there = scenes.position[alone & moves, 0]
    shares = torch.histc(there[:, 0], 4, 0.1, 0.9) / len(there)
    assert ((shares - 0.25).abs() < 0.04).all()


def test_camera_kinds_are_equally_frequent_whatever_is_in_the_picture(scenes):
    for number in range(3):
        rows = (scenes.camera_id > 0) & (scenes.num_objects == number)
        shares = torch.bincount(scenes.camera_id[rows], minlength=len(CAMERA_KINDS))[1:] / rows.sum()
        assert ((shares - 1 / 7).abs() < 0.03).all()


def test_objects_move_as_they_are_said_to(scenes):
    times = torch.tensor([[-0.5, 0.5]]).expand(len(scenes), 2)
    centres = object_centres(scenes, times)
    shift = centres[:, 1, 0] - centres[:, 0, 0]
    own = scenes.moves[:, 0]
    for name, axis, sign in (("left", 0, -1), ("right", 0, 1), ("up", 1, -1), ("down", 1, 1)):
        rows = own & (scenes.direction_id[:, 0] == DIRECTIONS.index(name))
        assert (shift[rows, axis] * sign > 2 * shift[rows, 1 - axis].abs()).all()
    still = scenes.present[:, 0] & ~own & (scenes.camera_id == 0)
    assert (shift[still] == 0).all()


def test_a_camera_that_pans_left_shows_things_going_right(scenes):
    rows = scenes.present[:, 0] & (scenes.camera_id == CAMERA_KINDS.index("left"))
    part = scenes.rows(rows)
    centres = object_centres(part, torch.tensor([[0.0, 0.5]]).expand(len(part), 2))
    assert (centres[:, 1, 0, 0] > centres[:, 0, 0, 0]).all()


def test_matches_show_the_same_colour(bank):
    scenes = sample_scenes(60, 12, seeded(9))
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


def test_velocity_is_the_derivative_of_the_match():
    scenes = sample_scenes(200, 12, seeded(11))
    times = torch.full((200, 1), 0.2)
    points = pixel_points((4, 4))
    truth = truth_at(scenes, times, points)
    step = 1e-3
    ahead, visible = match_points(scenes, times, times + step, points)
    slope = (ahead - points) / step
    assert torch.allclose(slope[visible], truth.velocity[visible], atol=5e-3)


def test_frames_before_and_after_a_cut_have_no_match():
    scenes = sample_scenes(4_000, 12, seeded(13))
    scenes = scenes.rows((scenes.camera_id == CAMERA_KINDS.index("change")) & (scenes.num_objects == 0))
    times, others = torch.full((len(scenes), 1), -0.9), torch.full((len(scenes), 1), 0.9)
    _, visible = match_points(scenes, times, others, pixel_points((4, 4)))
    assert not visible.any()


def test_refreshing_a_bank_changes_both_sizes():
    bank = PictureBank.procedural(4, seeded(1))
    large, small = bank.large.clone(), bank.small.clone()
    bank.refresh(2, seeded(8))
    changed = (bank.large != large).flatten(1).any(1)
    assert 1 <= int(changed.sum()) <= 2
    assert torch.equal(changed, (bank.small != small).flatten(1).any(1))
