"""How the objects of the motion world move: kinds of motion, their parameters, and where they lead.

Every path is one formula. The displacement from the keyframe (t = 0, in keyframe gaps) is ``G(t) - G(0)`` with
``G(t) = u1 min(t, k1) + u2 clip(t, k1, k2) + u3 max(t, k2) + a sin(w t + p) + b cos(w t + p)``: three legs of constant
velocity between two knots, and a swing. An object is seen only within its time window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DIRECTIONS = ("still", "left", "right", "up", "down")
"""Directions as they are seen on the screen; the first stands for none."""
KINDS = (
    "still",
    "move",
    "swing",
    "circle",
    "start",
    "stop",
    "turn",
    "appear",
    "disappear",
    "meet",
    "part",
)
"""What an object does: goes one way; back and forth; round; goes from the keyframe on; up to it; one way, then
another; is there from shortly before the keyframe on, or until shortly after it; comes to, or leaves, the other one."""
LABELS = ("still", "left", "right", "up", "down", *KINDS[2:4], *KINDS[6:])
"""What a picture of the path tells: the direction of what goes one way, or the kind; see `motion_labels`."""
SPEEDS = ("", "slow", "fast")
"""Names of speeds in screens per gap: 0.12 to 0.28 and 0.5 to 0.9; what lies between has none."""
UNIT = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])

_NEVER = 9.0  # gaps: further away than any frame
_STILL_KINDS = tuple(KINDS.index(kind) for kind in ("still", "appear", "disappear"))
_SHARES = {"move": 0.42, "swing": 0.11, "circle": 0.11, "start": 0.08, "stop": 0.08, "turn": 0.1, "appear": 0.1}


class Draw:
    """Draw from one generator, with the shapes first."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw floats in low..high."""
        return torch.rand(*shape, generator=self.generator) * (high - low) + low

    def integers(self, high: int, *shape: int) -> Tensor:
        """Draw whole numbers below `high`."""
        return torch.randint(high, shape, generator=self.generator)


@dataclass(frozen=True)
class Paths:
    """Hold the paths of B x S objects.

    kind_id, direction_id (of the first leg), turn_id (of the second, for turns), speed_id: (B, S); knots (B, S, 2)
    gaps, legs (B, S, 3, 2) screens per gap, swing (B, S, 2, 2) screens (sine, cosine), pace (B, S) radians per gap,
    phase (B, S), shown (B, S, 2) gaps: first and last moment at which the object is there.
    """

    kind_id: Tensor
    direction_id: Tensor
    turn_id: Tensor
    speed_id: Tensor
    knots: Tensor
    legs: Tensor
    swing: Tensor
    pace: Tensor
    phase: Tensor
    shown: Tensor


def draw_kinds(draw: Draw, present: Tensor, is_camera: Tensor) -> Tensor:
    """Draw what each object does, from their number alone: (B, S) of `KINDS`.

    A third of the clips with objects are still, else mostly one object moves, sometimes several. Of the clips with two
    or three, some have one that moves first and another that moves then; of those with two, some have both meet or
    part. Under a moving camera, objects move in every fourth clip.
    """
    num, places = present.shape
    count = present.sum(1, keepdim=True)
    shares = torch.tensor(list(_SHARES.values())).cumsum(0)
    own = torch.bucketize(draw.uniform(num, places), shares / shares[-1]).clamp_max(len(_SHARES) - 1)
    drawn = torch.tensor([KINDS.index(kind) for kind in _SHARES])[own]
    vanishes = (drawn == KINDS.index("appear")) & (draw.uniform(num, places) < 0.5)
    drawn = torch.where(vanishes, KINDS.index("disappear"), drawn)
    mode = draw.uniform(num, 1)
    alone = torch.arange(places) == (draw.uniform(num, 1) * count.clamp_min(1)).long()
    free = torch.where(mode < 0.35, False, torch.where(mode < 0.8, alone, draw.uniform(num, places) < 0.8))
    kinds = torch.where(free, drawn, 0)
    story = draw.uniform(num, 1)
    order = torch.where(draw.uniform(num, 1) < 0.5, torch.tensor([0, 1]), torch.tensor([1, 0]))
    early, late = (torch.arange(places) == order[:, i : i + 1] for i in (0, 1))
    in_turn = torch.where(early, KINDS.index("stop"), torch.where(late, KINDS.index("start"), 0))
    kinds = torch.where((story < 0.15) & (count >= 2), in_turn, kinds)
    pair = torch.where(draw.uniform(num, 1) < 0.5, KINDS.index("meet"), KINDS.index("part"))
    kinds = torch.where((story > 0.8) & (count == 2), pair, kinds)
    joined = is_camera[:, None] & ((draw.uniform(num, 1) > 0.25) | (kinds > KINDS.index("move")))
    return torch.where(joined | ~present, 0, kinds)


def draw_paths(draw: Draw, kind_id: Tensor, position: Tensor, radius: Tensor) -> Paths:
    """Draw the paths of objects of which it is known what they do, where they are at the keyframe and how large."""
    num, places = kind_id.shape

    def is_kind(*kinds: str) -> Tensor:
        return torch.isin(kind_id, torch.tensor([KINDS.index(kind) for kind in kinds]))

    one_way = is_kind("move", "start", "stop", "turn")
    direction = torch.where(one_way, 1 + draw.integers(4, num, places), 0)
    second = (direction - 1 + 1 + draw.integers(3, num, places)) % 4 + 1
    turn = torch.where(is_kind("turn"), second, 0)
    speed_id = torch.bucketize(draw.uniform(num, places), torch.tensor([0.2, 0.6]))
    low, high = torch.tensor([0.28, 0.12, 0.5])[speed_id], torch.tensor([0.5, 0.28, 0.9])[speed_id]
    speed = torch.where(is_kind("move"), low + (high - low) * draw.uniform(num, places), 0.0)
    speed = torch.where(one_way & ~is_kind("move"), draw.uniform(num, places, low=0.35, high=0.9), speed)
    legs = _heading(draw, direction)[:, :, None] * speed[..., None, None] * torch.ones(3, 1)
    ease = draw.uniform(num, places, 2, low=0.75, high=1.25)
    even = is_kind("move")[..., None]
    legs[:, :, 0] *= torch.where(is_kind("start")[..., None], 0.0, torch.where(even, ease[..., :1], 1.0))
    legs[:, :, 2] *= torch.where(is_kind("stop")[..., None], 0.0, torch.where(even, ease[..., 1:], 1.0))
    legs[:, :, 2] = torch.where(is_kind("turn")[..., None], _heading(draw, turn) * speed[..., None], legs[:, :, 2])
    moment = draw.uniform(num, places, 1, low=-0.08, high=0.08)
    knots = torch.where(even, torch.tensor([-0.35, 0.35]), moment.expand(-1, -1, 2))
    # Whoever moves second begins when the first has come to rest.
    knots = torch.where(is_kind("start")[..., None], knots.abs(), torch.where(even, knots, -knots.abs()))
    legs, knots = _bring_together(draw, is_kind("meet"), is_kind("part"), position, radius, legs, knots)
    swing, pace = _draw_swing(draw, is_kind("swing"), is_kind("circle"))
    shown = torch.tensor([-torch.inf, torch.inf]).repeat(num, places, 1)
    # Files have their keyframe up to a tenth of a gap beside the middle; the object has to be there all the same.
    moment = draw.uniform(num, places, low=0.1, high=0.22)
    shown[..., 0] = torch.where(is_kind("appear"), -moment, shown[..., 0])
    shown[..., 1] = torch.where(is_kind("disappear"), moment, shown[..., 1])
    speed_id = torch.where(is_kind("move"), speed_id, 0)
    phase = draw.uniform(num, places, high=6.2832)
    return Paths(kind_id, direction, turn, speed_id, knots, legs, swing, pace, phase, shown)


def _heading(draw: Draw, direction_id: Tensor) -> Tensor:
    # Mostly along one axis, with up to a quarter of slant.
    heading = UNIT[direction_id]
    return heading + heading.flip(-1) * draw.uniform(*direction_id.shape, 1, low=-0.25, high=0.25)


def _bring_together(
    draw: Draw, meet: Tensor, part: Tensor, position: Tensor, radius: Tensor, legs: Tensor, knots: Tensor
) -> tuple[Tensor, Tensor]:
    # The first two objects go towards each other until they touch, or away from where they touched.
    both = (meet | part).any(1)[:, None]
    moment = draw.uniform(len(meet), 1, low=0.35, high=0.6).expand_as(both)
    apart = position[:, 1] - position[:, 0]
    distance = apart.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-3)
    reach = (distance - 0.9 * (radius[:, :1] + radius[:, 1:2])).clamp_min(0.05) / 2
    towards = apart / distance * reach / moment
    towards = torch.where(part.any(1)[:, None], -towards, towards)
    legs, knots = legs.clone(), knots.clone()
    for place, sign in ((0, 1.0), (1, -1.0)):
        legs[:, place] = torch.where(both[..., None], (sign * towards)[:, None], legs[:, place])
        legs[:, place, 0] = torch.where(part[:, place, None], 0.0, legs[:, place, 0])
        legs[:, place, 2] = torch.where(meet[:, place, None], 0.0, legs[:, place, 2])
        ends = torch.where(meet[:, place, None], moment, torch.full_like(moment, _NEVER))
        starts = torch.where(part[:, place, None], -moment, torch.full_like(moment, -_NEVER))
        knots[:, place] = torch.where(both, torch.cat((starts, ends), 1), knots[:, place])
    return legs, knots


def _draw_swing(draw: Draw, swings: Tensor, circles: Tensor) -> tuple[Tensor, Tensor]:
    num, places = swings.shape
    amplitude = draw.uniform(num, places, low=0.12, high=0.22)
    # Along one of the axes, with some slant; a circle has both, as round as on a 4:3 picture.
    axis = _heading(draw, 1 + draw.integers(4, num, places)) * amplitude[..., None]
    sense = 1.0 - 2.0 * draw.integers(2, num, places).float()
    none = torch.zeros_like(axis)
    across = torch.stack((torch.zeros_like(sense), sense * amplitude * 4 / 3), -1)
    along = torch.stack((amplitude, torch.zeros_like(sense)), -1)
    sine = torch.where(swings[..., None], axis, torch.where(circles[..., None], along, none))
    cosine = torch.where(circles[..., None], across, none)
    period = torch.where(circles, draw.uniform(num, places, low=1.0, high=1.7), draw.uniform(num, places) * 0.5 + 0.8)
    return torch.stack((sine, cosine), 2), 6.2832 / period


def displacement(paths: Paths, times: Tensor) -> Tensor:
    """Give each object's own displacement since the keyframe at times (B, T): (B, T, S, 2) screens."""
    return _progress(paths, times) - _progress(paths, torch.zeros_like(times[:, :1]))


def _progress(paths: Paths, times: Tensor) -> Tensor:
    time = times[:, :, None]
    first, last = paths.knots[:, None, :, 0], paths.knots[:, None, :, 1]
    spans = torch.stack((torch.minimum(time, first), time.clamp(first, last), torch.maximum(time, last)), -1)
    angle = paths.pace[:, None] * time + paths.phase[:, None]
    waves = torch.stack((angle.sin(), angle.cos()), -1)
    return (spans[..., None] * paths.legs[:, None]).sum(3) + (waves[..., None] * paths.swing[:, None]).sum(3)


def velocities(paths: Paths, times: Tensor) -> Tensor:
    """Give each object's own velocity at times (B, T): (B, T, S, 2) screens per gap."""
    time = times[:, :, None]
    leg = (time >= paths.knots[:, None, :, 0]).long() + (time >= paths.knots[:, None, :, 1]).long()
    index = leg[..., None, None].expand(*leg.shape, 1, 2)
    straight = paths.legs[:, None].expand(*leg.shape, 3, 2).gather(3, index).squeeze(3)
    angle = paths.pace[:, None] * time + paths.phase[:, None]
    waves = torch.stack((angle.cos(), -angle.sin()), -1) * paths.pace[:, None, :, None]
    return straight + (waves[..., None] * paths.swing[:, None]).sum(3)


def is_shown(paths: Paths, times: Tensor) -> Tensor:
    """Tell which objects are there at times (B, T): (B, T, S) bool."""
    time = times[:, :, None]
    return (time >= paths.shown[:, None, :, 0]) & (time <= paths.shown[:, None, :, 1])


def moves(kind_id: Tensor) -> Tensor:
    """Tell which kinds change place: bool, of the same shape."""
    return ~torch.isin(kind_id, torch.tensor(_STILL_KINDS, device=kind_id.device))


def motion_labels(kind_id: Tensor, direction_id: Tensor) -> Tensor:
    """Name what is to be seen of each path, as an index into `LABELS`."""
    kinds = torch.tensor([LABELS.index(kind) if kind in LABELS else 0 for kind in KINDS], device=kind_id.device)
    one_way = torch.tensor([kind in ("move", "start", "stop") for kind in KINDS], device=kind_id.device)[kind_id]
    return torch.where(one_way, direction_id, kinds[kind_id])


def way_labels(kind_id: Tensor, direction_id: Tensor, turn_id: Tensor) -> Tensor:
    """Name where each object goes before and after the keyframe: (..., 2), of `DIRECTIONS`; -1 where no name fits."""

    def is_kind(*kinds: str) -> Tensor:
        return torch.isin(kind_id, torch.tensor([KINDS.index(kind) for kind in kinds], device=kind_id.device))

    before = torch.where(is_kind("start"), 0, direction_id)
    after = torch.where(is_kind("stop"), 0, torch.where(is_kind("turn"), turn_id, direction_id))
    ways = torch.stack((before, after), -1)
    return torch.where(is_kind("swing", "circle", "meet", "part")[..., None], -1, ways)
