"""Draw the coordinates h, w, t and s of a text with DynImgs in it (Figure 3)."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from .common import BACKGROUND, INK, KEYFRAME, MARGIN, PROMPT, font, heat, wrapped

if TYPE_CHECKING:
    from ..layout import DynImgLayout

_AXES = (
    ("h", "height: rows of the keyframe; a prompt frame spans them by its cells"),
    ("w", "width: columns of the keyframe; a prompt frame spans them by its cells"),
    ("t", "time: 0 at the keyframe, the rank around it in the strip"),
    ("s", "sequence: one for each DynImg or text token"),
)
_CELL, _TEXT_CELL, _CAPTION = 28, 34, 26


def render_coordinates(position_ids: np.ndarray, is_video: np.ndarray, layout: "DynImgLayout") -> Image.Image:
    """Draw one row for each axis: text tokens as single cells, every DynImg as its grid, with their coordinates.

    Args:
        position_ids: (4, L), rows h, w, t, s, as `dynimg_position_ids` computes them for one sequence.
        is_video: (L,) bool, which tokens are visual; whole DynImgs.
        layout: the geometry of every DynImg.

    Returns:
        An RGB picture.
    """
    parts = _parts(is_video, layout.tokens_per_dynimg)
    grid = layout.token_grid * _CELL
    width = 2 * MARGIN + sum((grid if is_grid else _TEXT_CELL) + 10 for _, is_grid in parts)
    width = max(width, 560)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    intro = wrapped(
        ruler,
        "Coordinates of the tokens, left to right as the language model reads them: text tokens (narrow) have one "
        "value on all axes. Blue: the keyframe; orange: prompt frames. Bright is large.",
        width - 2 * MARGIN,
        13,
    )
    top = MARGIN + 19 * len(intro) + 8
    picture = Image.new("RGB", (width, top + 4 * (grid + _CAPTION + 14) + 10), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for rank, line in enumerate(intro):
        draw.text((MARGIN, MARGIN - 8 + 19 * rank), line, INK, font(13))
    for (axis, meaning), values in zip(_AXES, position_ids, strict=True):
        draw.text((MARGIN, top), axis, KEYFRAME, font(18))
        draw.text((MARGIN + 24, top + 4), meaning, INK, font(13))
        low, high = float(values.min()), float(values.max())
        left = MARGIN
        for places, is_grid in parts:
            shape = (layout.token_grid, layout.token_grid) if is_grid else (1, 1)
            size = _CELL if is_grid else _TEXT_CELL
            above = top + _CAPTION + (0 if is_grid else (grid - size) // 2)
            _draw_cells(draw, values[places].reshape(shape), (left, above), size, (low, max(high - low, 1e-9)))
            if is_grid:
                _draw_tiles(draw, layout, (left, above))
            left += (grid if is_grid else size) + 10
        top += grid + _CAPTION + 14
    return picture


def _parts(is_video: np.ndarray, tokens_per_dynimg: int) -> list[tuple[slice, bool]]:
    # One part for each text token and each DynImg, in order.
    parts, start = [], 0
    while start < len(is_video):
        size = tokens_per_dynimg if is_video[start] else 1
        parts.append((slice(start, start + size), bool(is_video[start])))
        start += size
    return parts


def _draw_cells(
    draw: ImageDraw.ImageDraw,
    values: np.ndarray,
    corner: tuple[int, int],
    size: int,
    scale: tuple[float, float],
) -> None:
    for (row, column), value in np.ndenumerate(values):
        part = (float(value) - scale[0]) / scale[1]
        box = [corner[0] + column * size, corner[1] + row * size]
        colour = tuple(int(channel) for channel in heat(np.array(0.15 + 0.85 * part)))
        draw.rectangle([*box, box[0] + size - 1, box[1] + size - 1], fill=colour, outline=BACKGROUND)
        ink = INK if part > 0.6 else BACKGROUND
        draw.text((box[0] + size / 2, box[1] + size / 2), f"{value:.3g}", ink, font(11), anchor="mm")


def _draw_tiles(draw: ImageDraw.ImageDraw, layout: "DynImgLayout", corner: tuple[int, int]) -> None:
    for rank, tile in reversed(list(enumerate(layout.tiles))):
        ends = (tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)
        box = [corner[n % 2] + end * _CELL - (n >= 2) for n, end in enumerate(ends)]
        draw.rectangle(box, outline=PROMPT if rank else KEYFRAME, width=3)
