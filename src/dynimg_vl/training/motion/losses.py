"""Losses that exist in training only and teach a small ViT to see motion (our addition, design.md decision 12).

The paper says what attention should learn: "patches from keyframes can attend to highly similar patches within the
temporal prompt regions". A ViT trained from scratch with the loss on text alone never finds this out (chance after
16,000 clips). So two heads of one early block are shown where the same content is in the next and in the previous
prompt frame, and a linear head reads the motion off each patch. Nothing of this is in the model that is shipped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...layout import DynImgLayout
from ...motion.paths import DIRECTIONS, LABELS
from ...motion.world import CAMERA_KINDS, COLOURS, SHAPES
from .targets import IGNORE, MotionTargets, frame_grids

FLOW_SCALE = 0.3
"""Velocities are regressed in units of 0.3 screens per gap, about their median."""


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
