"""Draw the motion world: scenes and times in, pixels out; and the dense truth that training-only losses use."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .paths import velocities
from .textures import SMALL_SIZE, PictureBank
from .world import Scenes, object_centres, object_distance, picture_points, segments, travel

_EXPOSURE_PARTS = (-0.5, -0.25, 0.0, 0.25, 0.5)
"""The moments that a blurred frame is the mean of, in shares of its exposure."""


def pixel_points(size: tuple[int, int]) -> Tensor:
    """Give the centres of H x W cells of a screen as (H * W, 2) in x, y."""
    rows = (torch.arange(size[0]) + 0.5) / size[0]
    columns = (torch.arange(size[1]) + 0.5) / size[1]
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((grid[1], grid[0]), -1).flatten(0, 1)


def render(
    scenes: Scenes, bank: PictureBank, times: Tensor, size: tuple[int, int], generator: torch.Generator | None = None
) -> Tensor:
    """Draw frames at times (B, T) in H x W: (B, T, 3, H, W) float in 0..1, with grain where a generator is given."""
    pictures = bank.small if size[0] * 3 <= SMALL_SIZE[0] else bank.large
    drawn = render_points(scenes, pictures, times, pixel_points(size).to(times.device), size[1], generator)
    return drawn.view(*times.shape, *size, 3).permute(0, 1, 4, 2, 3)


def render_points(
    scenes: Scenes,
    pictures: Tensor,
    times: Tensor,
    points: Tensor,
    width: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw only the pixels centred at `points` (P, 2) of frames `width` pixels wide: (B, T, P, 3) in 0..1."""
    if bool(scenes.exposure.any()):
        moments = [times + scenes.exposure[:, None] * part for part in _EXPOSURE_PARTS]
        seen = torch.stack([_at_once(scenes, pictures, moment, points, width) for moment in moments]).mean(0)
    else:
        seen = _at_once(scenes, pictures, times, points, width)
    if generator is not None:
        noise = torch.randn(seen.shape, generator=generator, device=generator.device).to(seen.device)
        seen += noise * scenes.grain[:, None, None, None]
    return seen.clamp_(0, 1)


def _at_once(scenes: Scenes, pictures: Tensor, times: Tensor, points: Tensor, width: int) -> Tensor:
    seen = _background(scenes, pictures, times, points.expand(*times.shape, -1, -1))
    edge = 0.7 / width
    for place in range(scenes.present.shape[1]):
        here = scenes.present[:, place].nonzero().squeeze(1)
        if len(here) == 0:
            continue
        part = scenes.rows(here).places(place)
        near = _points_near(part, times[here], points, edge)
        if len(near) == 0:
            continue
        whole: Any = here
        if len(near) < len(points):
            whole = here[:, None, None], torch.arange(times.shape[1], device=times.device)[:, None], near
        spread = points[near].expand(len(here), times.shape[1], -1, -1)
        distance = object_distance(part, times[here], spread)[..., 0]
        cover = (0.5 - distance / (2 * edge)).clamp(0, 1)
        colour = _surface(part, pictures, times[here], spread, distance)
        seen[whole] += (colour - seen[whole]) * cover[..., None]
    return seen


def _points_near(part: Scenes, times: Tensor, points: Tensor, edge: float) -> Tensor:
    # The numbers of the points (P, 2) in one box around the only objects of all clips at all times. For the few frames
    # of one clip that are drawn together, most of the picture lies outside.
    stretch = part.aspect.sqrt()
    # A shape ends within 1.2 radii of its middle; at a corner its edge reaches twice its width further.
    reach = 1.25 * part.radius * torch.maximum(stretch, 1 / stretch) + 4 * edge
    reach = (reach / (part.zoom[:, None] * times).exp().clamp_max(1))[..., None]
    reach = torch.stack((reach, reach / 0.75), -1)
    centres = object_centres(part, times)
    low, high = (centres - reach).amin((0, 1, 2)), (centres + reach).amax((0, 1, 2))
    return ((points >= low) & (points <= high)).all(-1).nonzero().squeeze(1)


def _background(scenes: Scenes, pictures: Tensor, times: Tensor, points: Tensor) -> Tensor:
    where = picture_points(scenes, times, points)
    behind = _look_up(pictures[scenes.picture_id[:, 0]], where)
    segment = segments(scenes, times)
    for later in range(1, scenes.picture_id.shape[1]):
        rows = (segment == later).any(1).nonzero().squeeze(1)
        if len(rows):
            other = _look_up(pictures[scenes.picture_id[rows, later]], where[rows])
            behind[rows] = torch.where((segment[rows] == later)[:, :, None, None], other, behind[rows])
    behind = behind * scenes.gain[:, None, None] + scenes.offset[:, None, None]
    return torch.where(scenes.flat[:, None, None, None], scenes.shade[:, None, None], behind)


def _look_up(pictures: Tensor, where: Tensor) -> Tensor:
    # (B, 3, h, w) uint8 at (B, T, P, 2) -> (B, T, P, 3) in 0..1. At the border the picture is mirrored.
    found = F.grid_sample(pictures.float() / 255, where, padding_mode="reflection", align_corners=False)
    return found.permute(0, 2, 3, 1).contiguous()


def _surface(part: Scenes, pictures: Tensor, times: Tensor, points: Tensor, distance: Tensor) -> Tensor:
    # The colour of the only object of each clip at all points (R, T, P, 3): pure, or a picture that moves along, with a
    # rim of a third of the radius where it is outlined.
    colour = part.tint[:, None].expand(*points.shape[:3], 3)
    rows = part.textured[:, 0].nonzero().squeeze(1)
    if len(rows) == 0:
        return colour
    part, times, points, distance = part.rows(rows), times[rows], points[rows], distance[rows]
    scale = (part.zoom[:, None] * times).exp()[:, :, None, None]
    local = (points - object_centres(part, times)) * scale
    found = _look_up(pictures[part.surface_id[:, 0]], local * 1.4)
    # More contrast than a background has: without a rim it could otherwise not be seen on its like.
    found = (found - 0.5) * 1.2 + 0.5 + part.offset[:, None, None]
    rim = (distance > -0.25 * part.radius[:, None]) & part.outlined[:, None]
    return colour.clone().index_copy_(0, rows, torch.where(rim[..., None], part.tint[:, None], found))


@dataclass
class Truth:
    """Hold what is known of points (B, T, P) of frames: the object on top (-1: background) and the seen velocity."""

    layer: Tensor
    velocity: Tensor


def truth_at(scenes: Scenes, times: Tensor, points: Tensor) -> Truth:
    """Tell for points (P, 2) of the frames at (B, T) what is there and how fast it moves (screens per gap)."""
    num, num_frames = times.shape
    spread = points.expand(num, num_frames, -1, -1)
    layer = _top_layer(scenes, times, spread)
    own = _of_layer(velocities(scenes.paths, times), layer)
    scale = (scenes.zoom[:, None] * times).exp()[:, :, None, None]
    velocity = (own - scenes.camera[:, None, None]) / scale - scenes.zoom[:, None, None, None] * (spread - 0.5)
    return Truth(layer, velocity)


def match_points(
    scenes: Scenes, times: Tensor, others: Tensor, points: Tensor, layer: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Follow points (P, 2) from the frames at `times` (B, T) to those at `others` (B, T).

    Args:
        scenes: the clips.
        times: of the frames that the points are in.
        others: of the frames that are looked at.
        points: on the screen.
        layer: what lies on top at the points, (B, T, P), as `truth_at` has it, where that is known.

    Returns:
        Where the same content is, (B, T, P, 2) screens, and whether it is visible there, (B, T, P) bool: inside the
        frame, not covered, and of the same picture.
    """
    layer = _top_layer(scenes, times, points.expand(*times.shape, -1, -1)) if layer is None else layer
    found = follow_points(scenes, times, others, points, layer)
    visible = ((found >= 0) & (found <= 1)).all(-1)
    visible &= _top_layer(scenes, others, found) == layer
    visible &= (segments(scenes, times) == segments(scenes, others))[..., None] | (layer >= 0)
    return found, visible


def follow_points(scenes: Scenes, times: Tensor, others: Tensor, points: Tensor, layer: Tensor) -> Tensor:
    """Give where the content of points is at other times, seen or not: (B, T, P, 2) screens; see `match_points`."""

    def shift(at: Tensor) -> Tensor:
        return _of_layer(travel(scenes, at), layer) - scenes.camera[:, None, None] * at[:, :, None, None]

    scale, other_scale = ((scenes.zoom[:, None] * at).exp()[:, :, None, None] for at in (times, others))
    return 0.5 + ((points - 0.5) * scale - shift(times) + shift(others)) / other_scale


def _top_layer(scenes: Scenes, times: Tensor, points: Tensor) -> Tensor:
    inside = object_distance(scenes, times, points) < 0
    ranks = torch.arange(1, inside.shape[-1] + 1, device=inside.device)
    return (inside * ranks).amax(-1) - 1  # the last one drawn lies on top


def _of_layer(values: Tensor, layer: Tensor) -> Tensor:
    # values (B, T, S, 2) by layer (B, T, P): that of the object, zero for the background.
    padded = torch.cat((torch.zeros_like(values[:, :, :1]), values), 2)
    index = (layer + 1)[..., None].expand(*layer.shape, 2)
    return padded.gather(2, index)
