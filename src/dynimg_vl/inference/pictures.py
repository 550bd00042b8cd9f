"""A video as pictures for a model that knows nothing of DynImgs: DynImgs, plain frames or a grid, at equal budgets.

All three choose frames by the same policies and candidates, so that a comparison tells about the arrangement alone.
The budget is what G DynImgs of S x S pixels take. Nothing here imports torch.
"""

import io
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError, VideoWarning
from ..layout import DynImgLayout
from ..loading import load_dynimgs, read_frame_groups
from ..video.container import MAX_FRAMES, MAX_PIXELS, Limits
from ..video.index import FrameIndex
from ..video.pixels import Size
from ..video.selection import FrameGroup
from .ahead import Look, reason_of, told_of

KINDS = ("dynimg", "frames", "grid")
EQUALS = ("pictures", "pixels")
FORMATS = ("png", "jpeg")
MAX_CELLS = 64
_SMALLEST_SIDE = 28  # pixels; served models refuse pictures below a patch or two


@dataclass(frozen=True)
class Representation:
    """Say how a video is shown, within the pictures or pixels that `num_dynimgs` DynImgs of `layout` take.

    - `dynimg`: keyframe above, strip below.
    - `frames`: plain frames in the shape of the video, one a picture. Equal pictures (default): the keyframes of the
      DynImgs, each with the pixels of one. Equal pixels: all frames of the DynImgs, sharing the pixels between them.
    - `grid`: frames in reading order, as in IG-VLM (arXiv 2403.18406: six of them in 3 rows and 2 columns). Equal
      pixels (default): one picture with the pixels of all DynImgs. Equal pictures: a grid for each, of its pixels.

    Raises:
        InputError: where a value is unknown or out of range.
    """

    kind: str = "dynimg"
    equal: str | None = None
    rows: int = 3
    columns: int = 2
    num_dynimgs: int = 4
    layout: DynImgLayout = field(default_factory=DynImgLayout)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"unknown representation {self.kind!r}; these exist: {', '.join(KINDS)}")
        if self.equal not in (None, *EQUALS):
            raise InputError(f"unknown budget {self.equal!r}; these can be equal: {', '.join(EQUALS)}")
        if min(self.rows, self.columns) < 1 or self.rows * self.columns > MAX_CELLS:
            raise InputError(f"a grid has 1 to {MAX_CELLS} cells, got {self.rows} rows of {self.columns}")

    @property
    def budget(self) -> str:
        """Give what is equal: pictures or pixels."""
        return self.equal or ("pixels" if self.kind == "grid" else "pictures")

    @property
    def num_grids(self) -> int:
        """Give the number of pictures of a grid."""
        return self.num_dynimgs if self.budget == "pictures" else 1

    def describe(self) -> dict[str, Any]:
        """Tell everything that decides on the pictures, in values that JSON knows."""
        told: dict[str, Any] = {"kind": self.kind, "num_dynimgs": self.num_dynimgs}
        told |= {"num_prompt_frames": self.layout.num_prompt_frames, "image_size": self.layout.image_size}
        if self.kind != "dynimg":
            told["equal"] = self.budget
        if self.kind == "grid":
            told |= {"rows": self.rows, "columns": self.columns}
        return told


def look_at_pictures(video: str, options: Mapping[str, Any]) -> Look:
    """Load one video with the keyword arguments of `load_pictures`; what goes wrong becomes the look's `error`.

    The look's `pixels` are (n, 3, H, W): the pictures, all of one size; its `frames` tell what they show.
    """
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VideoWarning)
        try:
            pixels, frames = load_pictures(video, **options)
        except Exception as error:  # a hostile file may break the decoder in any way it likes
            return Look(None, seconds=time.perf_counter() - started, error=reason_of(error))
    if told := told_of(caught):
        frames["warnings"] = told
    return Look(pixels, frames, time.perf_counter() - started)


def load_pictures(
    video: Any,
    representation: Representation | None = None,
    *,
    policy: str = "auto",
    clip: tuple[float | None, float | None] | None = None,
    fps: float | None = None,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Turn a video into pictures; the options are those of `load_dynimgs`.

    Returns:
        The pictures (n, 3, H, W) uint8 RGB in time order, and what they show: representation, number and size, and what
        `DynImgs.describe` tells, for other pictures than DynImgs with `frames` as one list of frames for each.

    Raises:
        InputError: where an argument does not fit, or the clip holds no frame.
        VideoError: where the video cannot be opened or nothing in it can be decoded.
    """
    shown = representation or Representation()
    selection: dict[str, Any] = {"policy": policy, "clip": clip, "fps": fps}
    if shown.kind == "dynimg":
        dynimgs = load_dynimgs(
            video, layout=shown.layout, num_dynimgs=shown.num_dynimgs, max_pixels=max_pixels, max_frames=max_frames,
            **selection,
        )  # fmt: skip
        return dynimgs.pixels, {**_describe(shown, dynimgs.pixels), **dynimgs.describe()}
    limits = Limits(max_pixels, max_frames)
    if shown.kind == "frames":
        return _plain_frames(video, shown, limits, selection)
    return _grids(video, shown, limits, selection)


def _plain_frames(
    video: Any, shown: Representation, limits: Limits, selection: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    keyframes_only = shown.budget == "pictures"

    def wanted(index: FrameIndex, groups: list[FrameGroup]) -> dict[int, set[Size]]:
        chosen = {group.keyframe for group in groups} if keyframes_only else {n for g in groups for n in g.indices}
        area = shown.layout.image_size**2
        if not keyframes_only:
            area = area * shown.num_dynimgs // len(chosen)
        return {number: {fit_size(index, area)} for number in sorted(chosen)}

    # With the same prompt frames as DynImgs have, the policy and with it the keyframes are the same as theirs.
    index, policy, _, reading = read_frame_groups(
        video, wanted, shown.num_dynimgs, shown.layout.num_prompt_frames, limits=limits, **selection
    )
    numbers = sorted(number for number, _ in reading.pixels)
    frames = {number: pixels for (number, _), pixels in reading.pixels.items()}
    pictures = np.stack([frames[number].transpose(2, 0, 1) for number in numbers])
    rows = [(number,) for number in numbers]
    return pictures, {**_describe(shown, pictures), **_contents(policy, index, rows, len(reading.stand_ins))}


def _grids(
    video: Any, shown: Representation, limits: Limits, selection: Mapping[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    cells = shown.rows * shown.columns
    area = shown.num_dynimgs * shown.layout.image_size**2 // (cells * shown.num_grids)

    def wanted(index: FrameIndex, groups: list[FrameGroup]) -> dict[int, set[Size]]:
        return {group.keyframe: {fit_size(index, area)} for group in groups}

    index, policy, groups, reading = read_frame_groups(
        video, wanted, cells * shown.num_grids, 0, limits=limits, **selection
    )
    frames = {number: pixels for (number, _), pixels in reading.pixels.items()}
    numbers = [group.keyframe for group in groups]
    height, width = frames[numbers[0]].shape[:2]
    ordered = np.stack([frames[number] for number in numbers])
    tiled = ordered.reshape(shown.num_grids, shown.rows, shown.columns, height, width, 3).transpose(0, 5, 1, 3, 2, 4)
    pictures = tiled.reshape(shown.num_grids, 3, shown.rows * height, shown.columns * width)
    rows = [tuple(numbers[start : start + cells]) for start in range(0, len(numbers), cells)]
    return pictures, {**_describe(shown, pictures), **_contents(policy, index, rows, len(reading.stand_ins))}


def fit_size(index: FrameIndex, area: int) -> Size:
    """Give the (height, width) in the shape of a video that comes nearest to `area` pixels without going over it."""
    height = round(math.sqrt(area * index.height / index.width))
    height = min(max(height, _SMALLEST_SIDE, 1), max(area // _SMALLEST_SIDE, 1))
    return height, max(area // height, 1)


def _describe(shown: Representation, pictures: np.ndarray) -> dict[str, Any]:
    count, _, height, width = pictures.shape
    return {"representation": shown.describe(), "num_pictures": count, "width": width, "height": height}


def _contents(policy: str, index: FrameIndex, rows: Sequence[Sequence[int]], num_lost: int) -> dict[str, Any]:
    """Tell what `DynImgs.describe` does, with a list of frames for each picture in place of a frame group."""

    def frames(numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [{"index": int(n), "seconds": round(float(index.pts_seconds[n]), 6)} for n in numbers]

    pictures = [frames(numbers) for numbers in rows]
    return {"policy": policy, "frames": pictures, "num_lost": num_lost, "num_missing": index.num_lost}


def frames_of_pictures(told: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Give the frames that each picture shows, in the order in which one looks at them, from what was told of them."""
    return [row if isinstance(row, list) else [row["keyframe"], *row["prompt_frames"]] for row in told["frames"]]


def encode_picture(pixels: np.ndarray, picture_format: str = "png", quality: int = 90) -> bytes:
    """Encode a picture (3, H, W) uint8 as PNG, or as JPEG with whole colours (no chroma subsampling)."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    target = io.BytesIO()
    if picture_format == "png":
        image.save(target, "PNG", compress_level=3)  # 4 times as fast as the default, a few per cent larger
    else:
        # Halved colours would blur the small frames of a strip, whose every pixel counts.
        image.save(target, "JPEG", quality=quality, subsampling=0)
    return target.getvalue()
