"""Losses that exist in training only and teach a small ViT to see motion (our addition, design.md decision 12).

The paper says what attention should learn: "patches from keyframes can attend to highly similar patches within the
temporal prompt regions". A ViT trained from scratch with the loss on text alone never finds this out (chance after
16,000 clips). So two heads of one early block are shown where the same content is in the next and in the previous
prompt frame, and a linear head reads the motion off each patch. Nothing of this is in the model that is shipped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layout import DynImgLayout
from ...motion.paths import DIRECTIONS, LABELS, is_shown, motion_labels, way_labels
from ...motion.render import match_points, pixel_points, truth_at
from ...motion.world import CAMERA_KINDS, COLOURS, SHAPES, Scenes, object_centres

IGNORE = -100
"""The label of what has no loss."""
FLOW_SCALE = 0.3
"""Velocities are regressed in units of 0.3 screens per gap, about their median."""


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


def frame_grids(layout: DynImgLayout, is_apart: bool = False) -> list[tuple[int, int]]:
    """List rows and columns of patches of each frame, the keyframe first; `is_apart`: each has a picture of its own."""
    if is_apart:
        return [(layout.patch_grid, layout.patch_grid)] * len(layout.tiles)
    size = layout.patch_size
    return [(tile.height // size, tile.width // size) for tile in layout.pixel_tiles]


def motion_targets(scenes: Scenes, times: Tensor, layout: DynImgLayout, is_apart: bool = False) -> MotionTargets:
    """Make the targets for clips whose frames are at `times` (B, 1 + N): keyframe, then prompt frames in time order."""
    grids = frame_grids(layout, is_apart)
    before = layout.num_prompt_frames // 2
    last = layout.num_prompt_frames - 1
    flow, weight, covered, kind, shape, centre, where, path, ways, track = ([] for _ in range(10))
    places: list[list[Tensor]] = [[], []]
    seen: list[list[Tensor]] = [[], []]
    ranks: list[list[Tensor]] = [[], []]
    unchanging = scenes.cuts.isinf().all(1)
    labels = motion_labels(scenes.kind_id, scenes.direction_id)
    named = way_labels(scenes.kind_id, scenes.direction_id, scenes.turn_id)
    named = torch.where(named < 0, IGNORE, named)
    for frame, grid in enumerate(grids):
        points = pixel_points(grid).to(times.device)
        at = times[:, frame : frame + 1]
        truth = truth_at(scenes, at, points)
        flow.append(truth.velocity[:, 0])
        covered.append(truth.layer[:, 0] >= 0)
        kind.append(_of_cover(torch.where(scenes.textured, 1, 2 + scenes.colour_id), truth.layer[:, 0]))
        shape.append(_of_cover(1 + scenes.shape_id, truth.layer[:, 0]))
        marks, middles = _middles(scenes, at, grid, truth.layer[:, 0])
        centre.append(marks)
        where.append(middles)
        path.append(torch.where(covered[-1], _of_cover(labels, truth.layer[:, 0]), IGNORE))
        own = torch.stack([_of_cover(part, truth.layer[:, 0]) for part in named.unbind(-1)], -1)
        ways.append(torch.where(covered[-1][..., None], own, IGNORE))
        track.append(_tracks(scenes, at, times[:, 1:], points))
        # Objects are few patches among many: three times the weight. A keyframe patch counts half, as there are many.
        weight.append((1 + 2 * covered[-1].float()) * unchanging[:, None] * (0.5 if frame == 0 else 1.0))
        for side, step in enumerate((1, -1)):
            rank = (before if side == 0 else before - 1) if frame == 0 else frame - 1 + step
            other = times[:, 1 + min(max(rank, 0), last)][:, None]
            found, visible = match_points(scenes, at, other, points)
            places[side].append(found[:, 0])
            seen[side].append(visible[:, 0] * weight[-1] * (0 <= rank <= last))
            ranks[side].append(torch.full((len(points),), min(max(rank, 0), last), device=times.device))
    return MotionTargets(
        flow=torch.cat(flow, 1),
        flow_weight=torch.cat(weight, 1),
        match=torch.stack([torch.cat(part, 1) for part in places]),
        match_weight=torch.stack([torch.cat(part, 1) for part in seen]),
        frame=torch.stack([torch.cat(part) for part in ranks]),
        covered=torch.cat(covered, 1),
        kind=torch.cat(kind, 1),
        shape=torch.cat(shape, 1),
        centre=torch.cat(centre, 1),
        where=torch.cat(where, 1),
        path=torch.cat(path, 1),
        ways=torch.cat(ways, 1),
        track=torch.cat(track, 1),
        # What moves is what is to be learnt, and is few patches.
        track_weight=(1 + 4 * torch.cat(covered, 1).float()) * unchanging[:, None],
    )


def _of_cover(values: Tensor, layer: Tensor) -> Tensor:
    # values (B, S) of the objects, layer (B, P) of the patches, -1 for the background -> (B, P), 0 for the background.
    return torch.cat((torch.zeros_like(values[:, :1]), values), 1).gather(1, layer + 1)


def _tracks(scenes: Scenes, at: Tensor, prompts: Tensor, points: Tensor) -> Tensor:
    # How far away the content of points (P, 2) of the frames at `at` (B, 1) is at (B, N): (B, P, N, 2) screens. What
    # has left the picture is followed for a screen at most.
    num = prompts.shape[1]
    found, _ = match_points(scenes, at.expand(-1, num), prompts, points)
    return (found - points).clamp(-1, 1).transpose(1, 2)


def _middles(scenes: Scenes, at: Tensor, grid: tuple[int, int], layer: Tensor) -> tuple[Tensor, Tensor]:
    # The patches (B, rows * columns) of a frame that hold the middle of an object, and for those and for all that an
    # object covers where its middle is, (B, rows * columns, 2).
    places = object_centres(scenes, at)[:, 0]
    size = torch.tensor([grid[1], grid[0]], device=places.device)
    cell = (places * size).floor().long()
    seen = scenes.present & is_shown(scenes.paths, at)[:, 0] & ((cell >= 0) & (cell < size)).all(-1)
    index = torch.where(seen, cell[..., 1] * grid[1] + cell[..., 0], grid[0] * grid[1])
    marks = torch.zeros(len(scenes), grid[0] * grid[1] + 1, dtype=torch.bool, device=index.device)
    marks = marks.scatter(1, index, True)[:, :-1]
    held = places.new_zeros(len(scenes), grid[0] * grid[1] + 1, 2)
    held = held.scatter(1, index[..., None].expand(-1, -1, 2), places)[:, :-1]
    covering = places.gather(1, layer.clamp_min(0)[..., None].expand(-1, -1, 2))
    return marks, torch.where((layer >= 0)[..., None], covering, held)


def bilinear_neighbours(places: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Spread places (..., 2) in x, y of a screen over the four nearest of rows x columns patches.

    Returns:
        Patch numbers within the frame (..., 4), row by row, and their weights (..., 4), which add up to one.
    """
    size = torch.tensor([grid[1], grid[0]], dtype=places.dtype, device=places.device)
    exact = (places * size - 0.5).clamp(torch.zeros_like(size), size - 1)
    low = exact.floor()
    part = exact - low
    low = low.long()
    high = torch.minimum(low + 1, size.long() - 1)
    index = torch.stack([y * grid[1] + x for y in (low[..., 1], high[..., 1]) for x in (low[..., 0], high[..., 0])], -1)
    weight = torch.stack(
        [y * x for y in (1 - part[..., 1], part[..., 1]) for x in (1 - part[..., 0], part[..., 0])], -1
    )
    return index, weight


def attention_loss(logits: Tensor, targets: MotionTargets, layout: DynImgLayout, keep: Tensor) -> Tensor:
    """Ask two heads to attend to the same content in the next and in the previous prompt frame.

    Args:
        logits: scaled scores of heads 0 and 1, (B, 2, Q, Q), in float32.
        targets: for all P patches.
        layout: the geometry.
        keep: the Q patches that were encoded, as numbers among the P in the order of the frames.
    """
    grids = frame_grids(layout)
    starts = torch.tensor([0, *(rows * columns for rows, columns in grids)], device=keep.device).cumsum(0)
    slot = torch.full((int(starts[-1]),), -1, device=keep.device)
    slot[keep] = torch.arange(len(keep), device=keep.device)
    log_share = logits.float().log_softmax(-1)
    total = logits.new_zeros((), dtype=torch.float32)
    amount = logits.new_zeros((), dtype=torch.float32)
    for side in range(2):
        index, weight = bilinear_neighbours(targets.match[side][:, keep], grids[1])
        columns = slot[index + starts[1 + targets.frame[side][keep]][None, :, None]]
        found = log_share[:, side].gather(-1, columns)
        rows = targets.match_weight[side][:, keep]
        total = total - ((found * weight).sum(-1) * rows).sum()
        amount = amount + rows.sum()
    return total / amount.clamp_min(1)


def flow_loss(predicted: Tensor, targets: MotionTargets, keep: Tensor) -> Tensor:
    """Compare velocities read off each patch (B, Q, 2) with the truth (smooth L1)."""
    error = F.smooth_l1_loss(predicted, targets.flow[:, keep] / FLOW_SCALE, beta=0.3, reduction="none").mean(-1)
    weight = targets.flow_weight[:, keep]
    return (error * weight).sum() / weight.sum().clamp_min(1)


def where_loss(predicted: Tensor, targets: MotionTargets, keep: Tensor) -> Tensor:
    """Compare where patches (B, Q, 2) say that the middle of their object is with the truth (smooth L1, screens)."""
    error = F.smooth_l1_loss(predicted, targets.where[:, keep], beta=0.1, reduction="none").mean(-1)
    weight = (targets.covered | targets.centre)[:, keep].float()
    return (error * weight).sum() / weight.sum().clamp_min(1)


def track_loss(predicted: Tensor, targets: MotionTargets, keep: Tensor) -> Tensor:
    """Compare distances read off each patch, (B, Q, 2 N), with the truth (smooth L1)."""
    wanted = targets.track[:, keep].flatten(2) / FLOW_SCALE
    error = F.smooth_l1_loss(predicted, wanted, beta=0.3, reduction="none").mean(-1)
    weight = targets.track_weight[:, keep]
    return (error * weight).sum() / weight.sum().clamp_min(1)


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the mean cross entropy of logits (..., C) over the labels (...) that are known; zero where none is."""
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)


@contextmanager
def watch_attention(block: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the attention scores of heads 0 and 1 of a SigLIP block while it runs, without touching the block.

    The list gets one (B, 2, Q, Q) tensor for each call. The two heads' queries and keys are computed a second time,
    which costs less than 5 % and leaves the block its fast attention.
    """
    attention: Any = block.self_attn
    width = attention.head_dim
    scores: list[Tensor] = []

    def watch(module: nn.Module, args: tuple, kwargs: dict) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        queries, keys = (
            F.linear(states, part.weight[: 2 * width], part.bias[: 2 * width]).unflatten(-1, (2, width)).transpose(1, 2)
            for part in (attention.q_proj, attention.k_proj)
        )
        scores.append((queries @ keys.transpose(-1, -2)).float() * attention.scale)

    handle = attention.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        yield scores
    finally:
        handle.remove()


class MotionHeads(nn.Module):
    """Read motion off ViT tokens with linear maps; used in training, never saved with the model."""

    def __init__(self, width: int, num_prompt_frames: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.flow = nn.Linear(width, 2)
        self.covered = nn.Linear(width, 1)
        self.kind = nn.Linear(width, 2 + len(COLOURS))
        self.shape = nn.Linear(width, 1 + len(SHAPES))
        self.centre = nn.Linear(width, 1)
        self.camera = nn.Linear(width, len(CAMERA_KINDS))
        self.direction = nn.Linear(width, len(LABELS))
        self.where = nn.Linear(width, 2)
        self.path = nn.Linear(width, len(LABELS))
        self.ways = nn.Linear(width, 2 * len(DIRECTIONS))
        self.track = nn.Linear(width, 2 * max(num_prompt_frames, 1))  # a map to nothing cannot be initialised

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Map tokens (B, Q, C) to predictions: camera and direction per clip, the rest per token."""
        tokens = self.norm(tokens)
        mean = tokens.mean(1)
        return {
            "flow": self.flow(tokens),
            "covered": self.covered(tokens).squeeze(-1),
            "kind": self.kind(tokens),
            "shape": self.shape(tokens),
            "centre": self.centre(tokens).squeeze(-1),
            "where": self.where(tokens),
            "path": self.path(tokens),
            "ways": self.ways(tokens).unflatten(-1, (2, len(DIRECTIONS))),
            "track": self.track(tokens),
            "camera": self.camera(mean),
            "direction": self.direction(mean),
        }
