"""The geometry of a DynImg: which tokens, patches and pixels belong to which frame (Section 3.1, Table 4).

The default, N = 4 prompt frames on the pooled 12 x 12 token grid (K: keyframe, digits: prompt frames in time order)::

    K K K K K K K K K K K K
    K K K K K K K K K K K K
    K K K K K K K K K K K K
    K K K K K K K K K K K K
    K K K K K K K K K K K K    9 x 12 tokens = 252 x 336 pixels
    K K K K K K K K K K K K
    K K K K K K K K K K K K
    K K K K K K K K K K K K
    K K K K K K K K K K K K
    1 1 1 2 2 2 3 3 3 4 4 4
    1 1 1 2 2 2 3 3 3 4 4 4    3 x 3 tokens = 84 x 84 pixels each
    1 1 1 2 2 2 3 3 3 4 4 4
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .errors import InputError

PROMPT_FRAME_COUNTS = (0, 1, 2, 4, 6, 12)
"""Numbers of prompt frames in use: 0 is the baseline without prompts, the rest are the columns of Table 4."""


@dataclass(frozen=True)
class Tile:
    """Hold the rectangle of one frame inside a DynImg, in tokens (or, from `DynImgLayout.pixel_tile`, in pixels)."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index the rows and columns of this tile."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def size(self) -> tuple[int, int]:
        """Give (height, width)."""
        return self.height, self.width


@dataclass(frozen=True)
class DynImgLayout:
    """Place one keyframe and N prompt frames on a square grid of tokens.

    The strip is one row of N tiles, `token_grid / N` tokens wide and at most half of the grid high, below the keyframe.
    Where `patch_grid` is a multiple of `token_grid` (the default, 24 = 2 x 12), no token ever sees two frames. The
    literal reading of the paper, a 384 px SigLIP with patch 14 and hence 27 x 27 patches, is `patch_grid=27`: its frame
    edges still lie on patches, but pooling mixes two frames in 24 to 36 of the 144 tokens (`is_exact` is False).

    Raises:
        InputError: where `num_prompt_frames` does not fit the token grid, or a size is not positive.
    """

    num_prompt_frames: int = 4
    token_grid: int = 12
    patch_grid: int = 24
    patch_size: int = 14

    def __post_init__(self) -> None:
        for name in ("token_grid", "patch_grid", "patch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.patch_grid < self.token_grid:
            raise InputError(f"a token grid of {self.token_grid} needs at least as many patches, got {self.patch_grid}")
        fits = prompt_frame_counts(self.token_grid)
        if self.num_prompt_frames not in fits:
            raise InputError(
                f"{self.num_prompt_frames} prompt frames do not fit a token grid of {self.token_grid}; "
                f"these do: {', '.join(map(str, fits))}"
            )

    @property
    def is_exact(self) -> bool:
        """Tell whether every token covers patches of one frame only."""
        return self.patch_grid % self.token_grid == 0

    @property
    def image_size(self) -> int:
        """Give the side of the square DynImg in pixels (336 by default)."""
        return self.patch_grid * self.patch_size

    @property
    def tokens_per_dynimg(self) -> int:
        """Give the number of pooled visual tokens of one DynImg (144 by default: 576 / 4 in Table 2)."""
        return self.token_grid**2

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Give the token tiles: the keyframe first, then the prompt frames from left to right in time order."""
        count, grid = self.num_prompt_frames, self.token_grid
        if count == 0:
            return (Tile(0, 0, grid, grid),)
        width = grid // count
        height = min(width, grid // 2)
        rows = grid - height
        return (Tile(0, 0, rows, grid), *(Tile(rows, width * rank, height, width) for rank in range(count)))

    @property
    def keyframe(self) -> Tile:
        """Give the tile of the keyframe."""
        return self.tiles[0]

    @property
    def prompts(self) -> tuple[Tile, ...]:
        """Give the tiles of the prompt frames in time order."""
        return self.tiles[1:]

    @property
    def prompt_times(self) -> tuple[int, ...]:
        """Give the temporal coordinate of each prompt frame: its rank around the keyframe, which is 0.

        Half lie before and half after it (N = 4: -2, -1, 1, 2); a single prompt frame lies after it (N = 1: 1).
        """
        before = self.num_prompt_frames // 2
        return (*range(-before, 0), *range(1, self.num_prompt_frames - before + 1))

    @cached_property
    def coordinates(self) -> np.ndarray:
        """Give h, w and t of every token in raster order, (K, 3) float32 (Section 3.2, Figure 3).

        The keyframe counts rows and columns from 0, at t = 0. A prompt frame spans the same range by its cells, ends
        aligned (N = 4: h 0, 4, 8 and w 0, 5.5, 11); a single cell sits in the middle. Its t is its rank around 0.
        """
        table = np.zeros((self.token_grid, self.token_grid, 3), np.float32)
        for tile, time in zip(self.tiles, (0, *self.prompt_times), strict=True):
            rows = _span(self.keyframe.height, tile.height)
            columns = _span(self.keyframe.width, tile.width)
            table[tile.slices] = np.stack(
                [*np.meshgrid(rows, columns, indexing="ij"), np.full(tile.size, time)], axis=-1
            )
        return table.reshape(-1, 3)

    def pixel_tile(self, tile: Tile) -> Tile:
        """Convert a tile from tokens to pixels; every edge falls on a patch border."""
        top, left, bottom, right = (
            self._patch_edge(edge) * self.patch_size
            for edge in (tile.top, tile.left, tile.top + tile.height, tile.left + tile.width)
        )
        return Tile(top, left, bottom - top, right - left)

    @cached_property
    def pixel_tiles(self) -> tuple[Tile, ...]:
        """Give the tiles of all frames in pixels, in the order of `tiles`."""
        return tuple(self.pixel_tile(tile) for tile in self.tiles)

    def _patch_edge(self, token_edge: int) -> int:
        # Integer rounding, half down: 9 tokens of 12 are 18 patches of 24, and 20 of 27 (20.25).
        return (2 * token_edge * self.patch_grid + self.token_grid - 1) // (2 * self.token_grid)


def prompt_frame_counts(token_grid: int) -> tuple[int, ...]:
    """List the numbers of prompt frames that fit a token grid: those in use that divide it and leave a keyframe."""
    return tuple(n for n in PROMPT_FRAME_COUNTS if n == 0 or (token_grid % n == 0 and token_grid >= 2))


def _span(num_keyframe_cells: int, num_cells: int) -> np.ndarray:
    last = num_keyframe_cells - 1
    return np.linspace(0, last, num_cells) if num_cells > 1 else np.array([last / 2])
