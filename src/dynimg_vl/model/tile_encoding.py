"""Encode the frames of a composed DynImg apart from each other: `prompt_stage="tiles"`, a control of our own.

Shapes: G DynImgs, P patches, C width.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layout import DynImgLayout


def frame_of_patches(layout: DynImgLayout) -> Tensor:
    """Give the rank of the frame (0: the keyframe) that each patch of the grid shows: (P,), row by row."""
    grid = torch.zeros(layout.patch_grid, layout.patch_grid, dtype=torch.long)
    for rank, tile in enumerate(layout.pixel_tiles):
        rows, columns = (slice(edge.start // layout.patch_size, edge.stop // layout.patch_size) for edge in tile.slices)
        grid[rows, columns] = rank
    return grid.flatten()


def encode_apart(layers: Iterable[Any], states: Tensor, frames: Tensor) -> Tensor:
    """Run layers of a vision tower such that patches see those of their own frame only.

    Args:
        layers: of the tower, in their order.
        states: embedded patches (G, P, C), their position embeddings added.
        frames: (P,), the frame that each of them belongs to.

    Returns:
        (G, P, C).
    """
    chosen = list(layers)
    groups = _like_groups(frames)
    parts = []
    for group in groups:  # (frames, patches of each), as one batch
        part = states[:, group].flatten(0, 1)
        for layer in chosen:
            part = layer(part, None)
        parts.append(part.unflatten(0, (len(states), len(group))).flatten(1, 2))
    order = torch.cat([group.flatten() for group in groups]).argsort()
    return torch.cat(parts, 1)[:, order]


def _like_groups(frames: Tensor) -> Sequence[Tensor]:
    # The places of the patches of each frame, frames of as many patches together: a keyframe, and all prompt frames.
    by_size: dict[int, list[Tensor]] = {}
    for frame in frames.unique():
        places = (frames == frame).nonzero()[:, 0]
        by_size.setdefault(len(places), []).append(places)
    return [torch.stack(group) for group in by_size.values()]
