"""Kinds of motion: each does what its name says, and velocity is the slope of displacement."""

import pytest
import torch

from dynimg_vl.motion.paths import (
    DIRECTIONS,
    KINDS,
    LABELS,
    SPEEDS,
    UNIT,
    displacement,
    is_shown,
    motion_labels,
    moves,
    velocities,
)
from dynimg_vl.motion.world import object_centres, sample_scenes


@pytest.fixture(scope="module")
def scenes():
    scenes = sample_scenes(20_000, 4, torch.Generator().manual_seed(21))
    return scenes.rows((scenes.camera_id == 0) & scenes.present[:, 0])


def of_kind(scenes, kind):
    return scenes.rows(scenes.kind_id[:, 0] == KINDS.index(kind))


def shifts(scenes, *times):
    """Give the displacement of the first object at times: (B, T, 2)."""
    return displacement(scenes.paths, torch.tensor([times]).expand(len(scenes), -1))[:, :, 0]


def speeds(scenes, *times):
    return velocities(scenes.paths, torch.tensor([times]).expand(len(scenes), -1))[:, :, 0]


def test_velocity_is_the_slope_of_displacement(scenes):
    some = scenes.rows(slice(0, 4000))
    times = torch.linspace(-0.97, 0.97, 13, dtype=torch.float64).expand(len(some), -1)
    step = 1e-4
    slope = (displacement(some.paths, times + step) - displacement(some.paths, times - step)) / (2 * step)
    wrong = ((slope - velocities(some.paths, times)).abs() > 2e-3).any(-1)
    assert float(wrong.float().mean()) < 1e-3  # those with a knot within the step


def test_displacement_is_the_formula_written_out(scenes):
    one = scenes.rows(slice(0, 300)).paths
    for time in (-0.8, -0.03, 0.0, 0.05, 0.7):
        found = displacement(one, torch.full((300, 1), time))[:, 0, 0]
        for row in range(300):
            k1, k2 = one.knots[row, 0].tolist()

            def place(t, row=row, k1=k1, k2=k2):
                u1, u2, u3 = one.legs[row, 0]
                sine, cosine = one.swing[row, 0]
                angle = torch.as_tensor(float(one.pace[row, 0]) * t + float(one.phase[row, 0]))
                straight = u1 * min(t, k1) + u2 * min(max(t, k1), k2) + u3 * max(t, k2)
                return straight + sine * angle.sin() + cosine * angle.cos()

            assert torch.allclose(found[row], place(time) - place(0.0), atol=1e-5)


def test_nothing_has_moved_at_the_keyframe_and_all_are_there(scenes):
    assert (shifts(scenes, 0.0) == 0).all()
    assert is_shown(scenes.paths, torch.zeros(len(scenes), 1)).all()


def test_what_is_still_stays_still(scenes):
    for kind in ("still", "appear", "disappear"):
        assert (shifts(of_kind(scenes, kind), -1.0, -0.3, 0.5, 1.0) == 0).all()
    assert [name for number, name in enumerate(KINDS) if not moves(torch.tensor(number))] == [
        "still",
        "appear",
        "disappear",
    ]


def test_what_goes_one_way_never_turns_and_its_speed_is_named_right(scenes):
    part = of_kind(scenes, "move")
    heading = UNIT[part.direction_id[:, 0]]
    speed = speeds(part, *torch.linspace(-1, 1, 9).tolist())
    along = (speed * heading[:, None]).sum(-1)
    across = (speed * heading.flip(-1)[:, None]).sum(-1).abs()
    assert (along > 0).all()
    assert (across < 0.26 * along).all()
    middle = along[:, 4]
    for name, low, high in (("slow", 0.12, 0.28), ("", 0.28, 0.5), ("fast", 0.5, 0.9)):
        rows = part.speed_id[:, 0] == SPEEDS.index(name)
        assert rows.any()
        assert ((middle[rows] >= low - 1e-6) & (middle[rows] <= high + 1e-6)).all()


def test_directions_are_equally_frequent(scenes):
    for kind in ("move", "start", "stop", "turn"):
        part = of_kind(scenes, kind)
        shares = torch.bincount(part.direction_id[:, 0], minlength=5)[1:] / len(part)
        assert ((shares - 0.25).abs() < 5 * (0.1875 / len(part)) ** 0.5).all()


def test_what_starts_is_at_rest_until_the_keyframe_and_what_stops_after_it(scenes):
    start, stop = of_kind(scenes, "start"), of_kind(scenes, "stop")
    assert (shifts(start, -1.0, -0.5) == 0).all()
    assert (shifts(start, 0.5).norm(dim=-1) > 0.1).all()
    assert (shifts(stop, 0.5, 1.0) == 0).all()
    assert (shifts(stop, -0.5).norm(dim=-1) > 0.1).all()
    for part in (start, stop):
        heading = UNIT[part.direction_id[:, 0]]
        gone = shifts(part, 1.0)[:, 0] - shifts(part, -1.0)[:, 0]
        assert ((gone * heading).sum(-1) > 0.3).all()


def test_what_turns_goes_one_way_then_another(scenes):
    part = of_kind(scenes, "turn")
    first, second = UNIT[part.direction_id[:, 0]], UNIT[part.turn_id[:, 0]]
    speed = speeds(part, -0.5, 0.5)
    assert ((speed[:, 0] * first).sum(-1) > 0.3).all()
    assert ((speed[:, 1] * second).sum(-1) > 0.3).all()
    assert (part.direction_id[:, 0] != part.turn_id[:, 0]).all()


def test_a_swing_comes_back_and_keeps_to_a_line(scenes):
    part = of_kind(scenes, "swing")
    period = 6.2832 / part.pace[:, 0]
    assert ((period > 0.79) & (period < 1.31)).all()
    times = torch.stack((torch.zeros_like(period), period / 4, period / 2, period), 1)
    found = displacement(part.paths, times)[:, :, 0]
    assert torch.allclose(found[:, 3], torch.zeros(len(part), 2), atol=1e-3)
    flat = found[:, 1, 0] * found[:, 2, 1] - found[:, 1, 1] * found[:, 2, 0]
    assert (flat.abs() < 1e-4).all()
    assert (shifts(part, *torch.linspace(-1, 1, 41).tolist()).norm(dim=-1).amax(1) > 0.11).all()


def test_a_circle_is_round_and_closes(scenes):
    part = of_kind(scenes, "circle")
    period = 6.2832 / part.pace[:, 0]
    assert ((period > 0.99) & (period < 1.71)).all()
    assert torch.allclose(displacement(part.paths, period[:, None])[:, 0, 0], torch.zeros(len(part), 2), atol=1e-3)
    times = period[:, None] * torch.linspace(0, 1, 13)[:12]
    pixels = displacement(part.paths, times)[:, :, 0] * torch.tensor([1.0, 0.75])  # of a 4:3 picture
    radius = (pixels - pixels.mean(1, keepdim=True)).norm(dim=-1)
    assert torch.allclose(radius, radius[:, :1].expand_as(radius), rtol=1e-3)
    assert 0.4 < float((part.swing[:, 0, 1, 1] > 0).float().mean()) < 0.6  # both ways round


def test_what_appears_and_disappears_does_so_near_the_keyframe(scenes):
    for kind, before, after in (("appear", False, True), ("disappear", True, False)):
        part = of_kind(scenes, kind)
        shown = is_shown(part.paths, torch.tensor([[-1.0, -0.23, 0.0, 0.23, 1.0]]).expand(len(part), 5))[:, :, 0]
        assert (shown == torch.tensor([before, before, True, after, after])).all()
        edge = part.shown[:, 0, 0 if kind == "appear" else 1]
        assert is_shown(part.paths, edge[:, None])[:, 0, 0].all()
        assert not is_shown(part.paths, (edge + (-1e-4 if kind == "appear" else 1e-4))[:, None])[:, 0, 0].any()
    always = of_kind(scenes, "circle")
    assert is_shown(always.paths, torch.tensor([[-9.0, 9.0]]).expand(len(always), 2))[:, :, 0].all()


@pytest.mark.parametrize(("kind", "ends"), [("meet", 1), ("part", -1)])
def test_two_that_meet_touch_in_the_end_and_two_that_part_in_the_beginning(scenes, kind, ends):
    part = of_kind(scenes, kind)
    assert (part.kind_id[:, 1] == KINDS.index(kind)).all()
    assert (part.num_objects == 2).all()
    apart = part.rows((part.position[:, 0] - part.position[:, 1]).norm(dim=-1) > part.radius[:, :2].sum(1))
    times = torch.tensor([[-0.65, 0.0, 0.65, 1.0]]).expand(len(apart), 4) * ends
    centres = object_centres(apart, times)
    distance = (centres[:, :, 0] - centres[:, :, 1]).norm(dim=-1)
    touch = 0.9 * apart.radius[:, :2].sum(1)
    assert torch.allclose(distance[:, 2], touch, atol=1e-4)
    assert torch.allclose(distance[:, 3], touch, atol=1e-4)
    assert (distance[:, 0] > distance[:, 1]).all()
    assert (distance[:, 1] > distance[:, 2]).all()
    at_rest = velocities(apart.paths, times[:, 3:])[:, 0, :2]
    assert (at_rest == 0).all()
    going = velocities(apart.paths, times[:, 1:2])[:, 0]
    assert torch.allclose(going[:, 0], -going[:, 1])


def test_labels_name_what_is_seen():
    kinds = torch.tensor([KINDS.index(kind) for kind in ("still", "move", "start", "stop", "swing", "turn", "meet")])
    left = torch.full_like(kinds, DIRECTIONS.index("left"))
    names = [LABELS[label] for label in motion_labels(kinds, left)]
    assert names == ["still", "left", "left", "left", "swing", "turn", "meet"]


def test_a_moving_camera_has_simple_objects_only():
    scenes = sample_scenes(6_000, 4, torch.Generator().manual_seed(22))
    kinds = scenes.kind_id[(scenes.camera_id > 0)]
    assert set(kinds.unique().tolist()) == {KINDS.index("still"), KINDS.index("move")}


def test_stories_have_one_that_stops_and_one_that_starts_after(scenes):
    stops, starts = KINDS.index("stop"), KINDS.index("start")
    first = (scenes.kind_id[:, :2] == torch.tensor([stops, starts])).all(1)
    second = (scenes.kind_id[:, :2] == torch.tensor([starts, stops])).all(1)
    both = int(first.sum()) + int(second.sum())
    assert abs(int(first.sum()) / both - 0.5) < 5 * 0.5 / both**0.5
    part = scenes.rows(first)
    assert (part.knots[:, 0, 0] <= 0).all()
    assert (part.knots[:, 1, 0] >= 0).all()
