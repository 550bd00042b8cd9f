"""What the training-only losses ask of each patch of a DynImg: the truth of the motion world, densely.

Shapes: B clips, S objects, T frames of one size, P patches of all frames of a DynImg, N prompt frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ...layout import DynImgLayout
from ...motion.paths import is_shown, motion_labels, way_labels
from ...motion.render import follow_points, match_points, pixel_points, truth_at
from ...motion.world import Scenes, object_centres

IGNORE = -100
"""The label of what has no loss."""


@dataclass
class MotionTargets:
    """Hold what the losses ask of the P patches of a DynImg (keyframe first, then each prompt frame, row by row).

    flow (B, P, 2), flow_weight (B, P), match (2, B, P, 2) the place of the content in the next [0] and previous [1]
    prompt frame, in screens, match_weight (2, B, P), frame (2, P) the rank of that prompt frame, covered (B, P) bool,
    kind (B, P) what covers the patch (0: the background, 1: a textured object, then the colours), shape (B, P) of what
    covers it (0: the background), centre (B, P) bool, whether the middle of an object lies in it, where (B, P, 2) the
    middle of the object that covers it, or else lies in it, in x and y of the screen, path (B, P) what the object that
    covers it does, of `LABELS` (-100: the background), ways (B, P, 2) where that goes before and after the keyframe, of
    `DIRECTIONS` (-100: the background, or no one way), track (B, P, N, 2) how far away its content is in each prompt
    frame, in screens, track_weight (B, P).
    """

    flow: Tensor
    flow_weight: Tensor
    match: Tensor
    match_weight: Tensor
    frame: Tensor
    covered: Tensor
    kind: Tensor
    shape: Tensor
    centre: Tensor
    where: Tensor
    path: Tensor
    ways: Tensor
    track: Tensor
    track_weight: Tensor


def motion_targets(scenes: Scenes, times: Tensor, layout: DynImgLayout, is_apart: bool = False) -> MotionTargets:
    """Make the targets for clips whose frames are at `times` (B, 1 + N): keyframe, then prompt frames in time order."""
    parts = [
        _of_frames(scenes, times, ranks, grid, layout.num_prompt_frames // 2)
        for grid, ranks in _alike(frame_grids(layout, is_apart))
    ]
    # The axis of the patches; what is there for both sides, next and previous, has that first.
    axes = {"match": 2, "match_weight": 2, "frame": 1}
    return MotionTargets(**{name: torch.cat([part[name] for part in parts], axes.get(name, 1)) for name in parts[0]})


def _alike(grids: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], slice]]:
    # Frames in a row that have the same grid, which are worked out together: a frame alone is many small operations.
    start = 0
    for grid, group in groupby(grids):
        count = len(list(group))
        yield grid, slice(start, start + count)
        start += count


def _of_frames(
    scenes: Scenes, times: Tensor, ranks: slice, grid: tuple[int, int], num_before: int
) -> dict[str, Tensor]:
    # The targets of the patches of some frames (T of them, 0: the keyframe), frame by frame.
    at, points = times[:, ranks], pixel_points(grid).to(times.device)
    truth = truth_at(scenes, at, points)
    layer = truth.layer
    covered = layer >= 0
    unchanging = scenes.cuts.isinf().all(1)[:, None, None]
    named = way_labels(scenes.kind_id, scenes.direction_id, scenes.turn_id)
    named = torch.where(named < 0, IGNORE, named)
    ways = torch.stack([_of_cover(part, layer) for part in named.unbind(-1)], -1)
    labels = motion_labels(scenes.kind_id, scenes.direction_id)
    centre, where = _middles(scenes, at, grid, layer)
    is_key = torch.arange(times.shape[1], device=times.device)[ranks, None] == 0
    # Objects are few patches among many: three times the weight. A keyframe patch counts half, as there are many.
    weight = (1 + 2 * covered.float()) * unchanging * torch.where(is_key, 0.5, 1.0)
    targets = {
        "flow": truth.velocity,
        "flow_weight": weight,
        "covered": covered,
        "kind": _of_cover(torch.where(scenes.textured, 1, 2 + scenes.colour_id), layer),
        "shape": _of_cover(1 + scenes.shape_id, layer),
        "centre": centre,
        "where": where,
        "path": torch.where(covered, _of_cover(labels, layer), IGNORE),
        "ways": torch.where(covered[..., None], ways, IGNORE),
        "track": _tracks(scenes, at, times[:, 1:], points, layer),
        # What moves is what is to be learnt, and is few patches.
        "track_weight": (1 + 4 * covered.float()) * unchanging,
    }
    targets = {name: value.flatten(1, 2) for name, value in targets.items()}
    return {**targets, **_matches(scenes, times, ranks, points, layer, weight, num_before)}


def _matches(
    scenes: Scenes, times: Tensor, ranks: slice, points: Tensor, layer: Tensor, weight: Tensor, num_before: int
) -> dict[str, Tensor]:
    # Where the content of each patch is in the next and in the previous prompt frame, and which one that is.
    last = times.shape[1] - 2
    own = torch.arange(times.shape[1], device=times.device)[ranks]
    sides = []
    for next_to_key, step in ((num_before, 1), (num_before - 1, -1)):
        rank = torch.where(own == 0, next_to_key, own - 1 + step)
        near = rank.clamp(0, last)
        found, visible = match_points(scenes, times[:, ranks], times[:, 1 + near], points, layer)
        seen = visible * weight * ((rank >= 0) & (rank <= last))[:, None]
        sides.append((found.flatten(1, 2), seen.flatten(1, 2), near.repeat_interleave(len(points))))
    match, match_weight, frame = (torch.stack(part) for part in zip(*sides, strict=True))
    return {"match": match, "match_weight": match_weight, "frame": frame}


def _of_cover(values: Tensor, layer: Tensor) -> Tensor:
    # values (B, S) of the objects, layer (B, T, P) of the patches, -1 for the background -> (B, T, P), 0 for that.
    padded = torch.cat((torch.zeros_like(values[:, :1]), values), 1)
    return padded.gather(1, (layer + 1).flatten(1)).view_as(layer)


def _tracks(scenes: Scenes, at: Tensor, prompts: Tensor, points: Tensor, layer: Tensor) -> Tensor:
    # How far away the content of points (P, 2) of the frames at `at` (B, T) is at (B, N): (B, T, P, N, 2) screens. What
    # has left the picture is followed for a screen at most.
    count, num = at.shape[1], prompts.shape[1]
    found = follow_points(
        scenes, at.repeat_interleave(num, 1), prompts.repeat(1, count), points, layer.repeat_interleave(num, 1)
    )
    return (found - points).clamp(-1, 1).unflatten(1, (count, num)).transpose(2, 3)


def _middles(scenes: Scenes, at: Tensor, grid: tuple[int, int], layer: Tensor) -> tuple[Tensor, Tensor]:
    # The patches (B, T, rows * columns) of frames that hold the middle of an object, and for those and for all that an
    # object covers where its middle is, (B, T, rows * columns, 2).
    places = object_centres(scenes, at)
    size = torch.tensor([grid[1], grid[0]], device=places.device)
    cell = (places * size).floor().long()
    seen = scenes.present[:, None] & is_shown(scenes.paths, at) & ((cell >= 0) & (cell < size)).all(-1)
    index = torch.where(seen, cell[..., 1] * grid[1] + cell[..., 0], grid[0] * grid[1])
    marks = torch.zeros(*at.shape, grid[0] * grid[1] + 1, dtype=torch.bool, device=index.device)
    marks = marks.scatter(2, index, True)[..., :-1]
    held = places.new_zeros(*at.shape, grid[0] * grid[1] + 1, 2)
    held = held.scatter(2, index[..., None].expand(-1, -1, -1, 2), places)[:, :, :-1]
    covering = places.gather(2, layer.clamp_min(0)[..., None].expand(-1, -1, -1, 2))
    return marks, torch.where((layer >= 0)[..., None], covering, held)


def frame_grids(layout: DynImgLayout, is_apart: bool = False) -> list[tuple[int, int]]:
    """List rows and columns of patches of each frame, the keyframe first; `is_apart`: each has a picture of its own."""
    if is_apart:
        return [(layout.patch_grid, layout.patch_grid)] * len(layout.tiles)
    size = layout.patch_size
    return [(tile.height // size, tile.width // size) for tile in layout.pixel_tiles]
