"""Draw the attention of a keyframe patch over keyframe and strip, with and without prompt frames (Figures 1 and 2)."""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

from .common import BACKGROUND, FAINT, INK, KEYFRAME, MARGIN, PROMPT, font, heat, wrapped

if TYPE_CHECKING:
    from ..loading import DynImgs
    from ..model.attention import PatchAttention

MARK = (0, 230, 118)
PANEL_SIDE = 384
_TITLE_HEIGHT, _CAPTION_HEIGHT, _BAR_HEIGHT, _LINE = 24, 58, 62, 19

Box = tuple[float, float, float, float]


def attention(dynimgs: "DynImgs", found: "PatchAttention", *, title: str = "") -> Image.Image:
    """Draw a DynImg with one patch marked and, beside it, where that patch looks.

    Args:
        dynimgs: what the attention was computed on.
        found: from `model.attention.patch_attention`.
        title: a line at the top; the name of the video, say.

    Returns:
        An RGB picture of two panels, three where there are prompt frames, that says itself what it shows.
    """
    side = found.layout.image_size * max(1, round(PANEL_SIDE / found.layout.image_size))
    panels = [("the DynImg, patch marked", None), ("its attention, with prompt frames", found.shares)]
    if found.alone is None:
        panels[1] = ("its attention", found.shares)
    else:
        panels.append(("its attention, without prompt frames", found.alone))
    width = len(panels) * (side + MARGIN) + MARGIN
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    lines = [line for text in _explanation(dynimgs, found) for line in wrapped(ruler, text, width - 2 * MARGIN, 13)]
    top = MARGIN + (28 if title else 0) + _LINE * len(lines) + _TITLE_HEIGHT + 8
    picture = Image.new("RGB", (width, top + side + _CAPTION_HEIGHT + _BAR_HEIGHT), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((MARGIN, MARGIN - 10), title, INK, font(16))
    for rank, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + (28 if title else 0) - 8 + rank * _LINE), line, INK, font(13))
    pixels = Image.fromarray(dynimgs.pixels[found.dynimg - 1].transpose(1, 2, 0))
    brightest = max(float(shares.max()) for _, shares in panels if shares is not None)
    for rank, (name, shares) in enumerate(panels):
        left = MARGIN + rank * (side + MARGIN)
        draw.text((left, top - 8), name, INK, font(14), anchor="ls")
        panel = pixels.resize((side, side), Image.Resampling.BICUBIC)
        if shares is not None:
            panel = _heated(panel, _toned(shares / brightest), found, is_cut_off=rank == 2)
        picture.paste(panel, (left, top))
        _draw_frames(draw, found, (left, top), side)
    _draw_times(draw, dynimgs, found, (MARGIN, top + side), side)
    _draw_shares(draw, found, (2 * MARGIN + side, top + side), side)
    if found.alone is not None:
        text = ("keyframe 100 %; prompt frames cut off in every layer,", "everything else the same")
        for rank, line in enumerate(text):
            draw.text((3 * MARGIN + 2 * side, top + side + 5 + rank * 17), line, INK, font(12))
    _draw_bar(draw, found, brightest, (MARGIN, top + side + _CAPTION_HEIGHT, width - MARGIN, picture.height))
    return picture


def _explanation(dynimgs: "DynImgs", found: "PatchAttention") -> list[str]:
    tile, patch = found.layout.pixel_tiles[0], found.layout.patch_size
    which = f"layer {found.layer} of {found.num_layers}"
    if found.is_rollout:
        how = f"attention rollout over layers 1 to {found.layer} (each averaged with the identity), mean of the heads"
    elif found.head is None:
        how = f"{which}, mean of {found.num_heads} heads"
    else:
        how = f"{which}, head {found.head} of {found.num_heads}"
    return [
        f"DynImg {found.dynimg} of {len(dynimgs.pixels)}, patch in row {found.patch[0]}, column {found.patch[1]} "
        f"(from 0) of the {tile.height // patch} x {tile.width // patch} of the keyframe; vision tower, {how}"
    ]


def _toned(part: np.ndarray) -> np.ndarray:
    # Attention has few large values and many small ones: a single peak would darken all the rest on an even scale.
    return np.sqrt(part)


def _heated(panel: Image.Image, values: np.ndarray, found: "PatchAttention", is_cut_off: bool) -> Image.Image:
    # Grey underneath, so that colour means attention alone; the cells stay square: they are what there is.
    grey = np.asarray(panel.convert("L"), float)[..., None]
    cell = panel.width // found.layout.patch_grid
    spread = values.repeat(cell, 0).repeat(cell, 1)
    cover = 0.45 + 0.5 * np.clip(spread, 0, 1)[..., None]
    mixed = heat(spread) * cover + grey * (1 - cover)
    if is_cut_off:
        strip = found.layout.pixel_tiles[0].height * cell // found.layout.patch_size
        mixed[strip:] = grey[strip:] * 0.35 + 150
    return Image.fromarray(mixed.round().astype(np.uint8))


def _draw_frames(draw: ImageDraw.ImageDraw, found: "PatchAttention", corner: tuple[int, int], side: int) -> None:
    scale = side / found.layout.image_size
    for rank, tile in reversed(list(enumerate(found.layout.pixel_tiles))):
        box = (tile.left, tile.top, tile.left + tile.width, tile.top + tile.height)
        place = [corner[n % 2] + edge * scale - (n >= 2) for n, edge in enumerate(box)]
        draw.rectangle(place, outline=PROMPT if rank else KEYFRAME, width=2)
    row, column = (place * found.layout.patch_size * scale for place in found.patch)
    cell = found.layout.patch_size * scale
    mark = (corner[0] + column, corner[1] + row, corner[0] + column + cell - 1, corner[1] + row + cell - 1)
    draw.rectangle([mark[0] - 3, mark[1] - 3, mark[2] + 3, mark[3] + 3], outline=(0, 0, 0), width=1)
    draw.rectangle([mark[0] - 2, mark[1] - 2, mark[2] + 2, mark[3] + 2], outline=MARK, width=2)


def _draw_times(
    draw: ImageDraw.ImageDraw, dynimgs: "DynImgs", found: "PatchAttention", corner: tuple[int, int], side: int
) -> None:
    seconds = dynimgs.seconds(dynimgs.groups[found.dynimg - 1])
    _under_tiles(draw, found, corner, side, [f"{time:.2f} s" for time in seconds[1:]])
    strip = ", prompt frames (orange) at the times above" if len(seconds) > 1 else ""
    draw.text((corner[0], corner[1] + 22), f"keyframe (blue) at {seconds[0]:.2f} s{strip}", INK, font(12))


def _draw_shares(draw: ImageDraw.ImageDraw, found: "PatchAttention", corner: tuple[int, int], side: int) -> None:
    shares = found.frame_shares()
    _under_tiles(draw, found, corner, side, [f"{share:.1%}" for share in shares[1:]])
    if len(shares) == 1:
        return
    tiles = found.layout.pixel_tiles
    area = sum(tile.height * tile.width for tile in tiles[1:]) / found.layout.image_size**2
    text = f"keyframe {shares[0]:.1%}, strip {1 - shares[0]:.1%} (its area: {area:.1%})"
    draw.text((corner[0], corner[1] + 22), text, INK, font(12))


def _under_tiles(
    draw: ImageDraw.ImageDraw, found: "PatchAttention", corner: tuple[int, int], side: int, words: list[str]
) -> None:
    scale = side / found.layout.image_size
    size = 12 if len(words) <= 6 else 9  # twelve tiles leave 32 pixels for each
    for tile, word in zip(found.layout.pixel_tiles[1:], words, strict=True):
        middle = corner[0] + (tile.left + tile.width / 2) * scale
        draw.text((middle, corner[1] + 5), word, PROMPT, font(size), anchor="ma")


def _draw_bar(draw: ImageDraw.ImageDraw, found: "PatchAttention", brightest: float, box: Box) -> None:
    left, top, right, _ = box
    length = min(360, round(right - left) // 2)
    for step in range(length):
        colour = tuple(int(part) for part in heat(np.array(step / (length - 1))))
        draw.line((left + step, top, left + step, top + 12), colour)
    even = 1 / found.shares.size
    for share in (0.0, 0.1 * brightest, 0.4 * brightest, brightest):
        x = left + length * float(_toned(np.array(share / brightest)))
        draw.line((x, top + 12, x, top + 16), FAINT)
        draw.text((x, top + 18), f"{share:.2%}", INK, font(12), anchor="ma" if share else "la")
    if even < brightest:
        x = left + length * float(_toned(np.array(even / brightest)))
        draw.line((x, top - 5, x, top + 12), INK, 2)
    text = f"share of the patch's attention on each of {found.shares.size} patches (scale: square root)"
    draw.text((left + length + 60, top - 2), text, INK, font(12))
    draw.text((left + length + 60, top + 16), f"mark on the scale: an even spread, {even:.2%}", INK, font(12))
