"""Draw what the model sees: a timeline of the chosen frames and the DynImgs, with their token grid if wanted."""

from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

from .common import BACKGROUND, FAINT, INK, KEYFRAME, MARGIN, PROMPT, font

if TYPE_CHECKING:
    from ..layout import DynImgLayout
    from ..loading import DynImgs

TIMELINE_HEIGHT, CAPTION_HEIGHT = 112, 40
# A token must be this many pixels wide for its three coordinates to be read.
COORDINATE_CELL = 64


def render_dynimgs(dynimgs: "DynImgs", *, overlay: bool = False, title: str = "") -> Image.Image:
    """Draw a timeline of I-frames, keyframes and prompt frames, and below it every DynImg with its times.

    Of a long video, the timeline has the I-frames that were looked up, not all.

    Args:
        dynimgs: what `load_dynimgs` returned.
        overlay: draw the token grid over each DynImg, and in every token its coordinates h, w and t (Figure 3).
        title: a line above the timeline.

    Returns:
        An RGB picture; its size follows from the number of DynImgs.
    """
    layout = dynimgs.layout
    scale = (
        max(1, -(-COORDINATE_CELL * layout.token_grid // layout.image_size)) if overlay else _thumbnail_scale(layout)
    )
    side = layout.image_size * scale
    columns = min(len(dynimgs.groups), 2 if overlay else 4)
    rows = -(-len(dynimgs.groups) // columns)
    width = max(columns * (side + MARGIN) + MARGIN, 640)
    top = TIMELINE_HEIGHT + (36 if title else 8)
    picture = Image.new("RGB", (width, top + rows * (side + CAPTION_HEIGHT + MARGIN)), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((MARGIN, 10), title, INK, font(16))
    _draw_timeline(draw, dynimgs, (MARGIN, top - TIMELINE_HEIGHT, width - MARGIN, top))
    for position, pixels in enumerate(dynimgs.pixels):
        left = MARGIN + (position % columns) * (side + MARGIN)
        above = top + (position // columns) * (side + CAPTION_HEIGHT + MARGIN)
        dynimg = Image.fromarray(pixels.transpose(1, 2, 0)).resize((side, side), Image.Resampling.BICUBIC)
        if overlay:
            _draw_grid(dynimg, layout)
        picture.paste(dynimg, (left, above))
        _draw_caption(draw, dynimgs, position, (left, above + side + 6))
    return picture


def _draw_timeline(draw: ImageDraw.ImageDraw, dynimgs: "DynImgs", box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    seconds = dynimgs.index.pts_seconds
    start, end = dynimgs.index.start_seconds, max(dynimgs.index.end_seconds, float(seconds[-1]))
    span = max(end - start, 1e-6)

    def x_of(time: float) -> float:
        return left + (right - left) * (min(max(float(time), start), end) - start) / span

    line = top + 52
    draw.line((left, line, right, line), FAINT, 2)
    for time in dynimgs.index.iframe_seconds:
        draw.line((x_of(time), line - 9, x_of(time), line + 9), FAINT, 1)
    for group in dynimgs.groups:
        for prompt in group.prompts:
            x = x_of(seconds[prompt])
            draw.ellipse((x - 4, line - 4, x + 4, line + 4), PROMPT)
    for number, group in enumerate(dynimgs.groups, start=1):
        x = x_of(seconds[group.keyframe])
        draw.rectangle((x - 6, line - 14, x + 6, line + 14), KEYFRAME)
        draw.text((x, line - 24), f"{number}", KEYFRAME, font(13), anchor="ms")
    for time, anchor in ((start, "ls"), (end, "rs")):
        draw.text((x_of(time), bottom - 18), f"{time:.2f} s", FAINT, font(12), anchor=anchor)
    legend = [
        ("keyframe", KEYFRAME),
        ("prompt frame", PROMPT),
        ("I-frame" if dynimgs.index.complete else "I-frame looked up", FAINT),
    ]
    if dynimgs.layout.num_prompt_frames == 0:
        legend.pop(1)
    x = left
    for word, colour in legend:
        draw.rectangle((x, top + 4, x + 10, top + 14), colour)
        draw.text((x + 16, top + 14), word, INK, font(12), anchor="ls")
        x += 34 + draw.textlength(word, font(12))
    draw.text((right, top + 14), f"candidates: {dynimgs.policy}", INK, font(12), anchor="rs")


def _draw_caption(draw: ImageDraw.ImageDraw, dynimgs: "DynImgs", position: int, corner: tuple[int, int]) -> None:
    group, seconds = dynimgs.groups[position], dynimgs.index.pts_seconds
    draw.text(corner, f"DynImg {position + 1}: keyframe at {seconds[group.keyframe]:.2f} s", KEYFRAME, font(13))
    if group.prompts:
        times = "  ".join(f"{seconds[prompt]:.2f}" for prompt in group.prompts)
        draw.text((corner[0], corner[1] + 17), f"prompt frames at {times} s", PROMPT, font(12))


def _draw_grid(dynimg: Image.Image, layout: "DynImgLayout") -> None:
    cell = dynimg.width / layout.token_grid
    veil = Image.new("RGBA", dynimg.size, (0, 0, 0, 90))
    dynimg.paste(veil, (0, 0), veil)
    draw = ImageDraw.Draw(dynimg)
    for step in range(layout.token_grid + 1):
        draw.line((step * cell, 0, step * cell, dynimg.height), (200, 200, 200), 1)
        draw.line((0, step * cell, dynimg.width, step * cell), (200, 200, 200), 1)
    for tile in layout.tiles:
        colour = KEYFRAME if tile == layout.keyframe else PROMPT
        corners = [tile.left, tile.top, tile.left + tile.width, tile.top + tile.height]
        draw.rectangle([edge * cell for edge in corners], outline=colour, width=4)
    for token, (h, w, t) in enumerate(layout.coordinates):
        row, column = divmod(token, layout.token_grid)
        centre = ((column + 0.5) * cell, (row + 0.5) * cell)
        draw.text(
            centre,
            f"{h:g} {w:g}\n{t:+g}" if t else f"{h:g} {w:g}\n0",
            (255, 255, 255),
            font(12),
            anchor="mm",
            align="center",
        )


def _thumbnail_scale(layout: "DynImgLayout") -> int:
    return max(1, round(256 / layout.image_size))
