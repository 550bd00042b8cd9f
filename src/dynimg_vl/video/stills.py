"""Videos that are no files: arrays of frames and folders of pictures."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np

from ..errors import InputError, VideoError
from .container import Limits, OpenVideo, Picture, display_name, open_video, reason, turns_sideways
from .decoding import decoder_limits
from .packets import iterate_packets
from .pixels import FrameScaler, Size, rotation_of, scale_array

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_BYTES_PER_PIXEL = 8  # four channels of 16 bits, uncompressed


@dataclass(frozen=True, eq=False)
class ArrayFrames:
    """Hold frames (F, H, W, 3) uint8 in memory."""

    frames: np.ndarray

    def read(self, number: int, sizes: Sequence[Size]) -> list[np.ndarray]:
        """Scale one frame to each of some sizes."""
        return [scale_array(self.frames[number], size) for size in sizes]


@dataclass(frozen=True)
class PictureFiles:
    """Hold the files of a folder of frames, in order."""

    paths: tuple[Path, ...]
    limits: Limits

    def read(self, number: int, sizes: Sequence[Size]) -> list[np.ndarray]:
        """Decode one picture and scale it to each of some sizes.

        Raises:
            VideoError: where the picture cannot be decoded.
        """
        path = self.paths[number]
        with open_video(_read_bytes(path, self.limits), self.limits) as opened:
            frame = _first_frame(opened)
            if frame is None:
                raise VideoError(f"{display_name(path)} cannot be decoded; is it a complete picture?")
            scaler = FrameScaler(display_name(path))
            return [scaler.rgb(frame, size) for size in sizes]


def list_pictures(folder: Path, limits: Limits) -> PictureFiles:
    """List the pictures of a folder in natural order: `frame2` before `frame10`.

    Raises:
        VideoError: where there is no such folder, or there are none, or more than the limit on frames.
    """
    try:
        entries = list(folder.iterdir())
    except (OSError, ValueError) as error:
        raise VideoError(
            f"{display_name(folder)} cannot be listed: {reason(error).lower()}; give a folder of jpg or png"
        ) from error
    paths = [path for path in entries if path.suffix.lower() in PICTURE_SUFFIXES and _is_shown(path)]
    if not paths:
        raise VideoError(
            f"{display_name(folder)} is a folder without pictures; give a video file or a folder of jpg or png"
        )
    if len(paths) > limits.max_frames:
        raise VideoError(f"{display_name(folder)}: {len(paths)} pictures are over the limit of {limits.max_frames}")
    paths.sort(key=_natural_order)
    return PictureFiles(tuple(paths), limits)


def _is_shown(path: Path) -> bool:
    # "._a.jpg" is what macOS keeps beside a.jpg on other file systems: no picture.
    return not path.name.startswith(".") and path.is_file()


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]


def describe_picture(path: Path, limits: Limits) -> Picture:
    """Read the size of a picture, upright: it is decoded, as only then FFmpeg tells how the camera was held (EXIF).

    Raises:
        VideoError: where it is none, or larger than the limits allow.
    """
    try:
        with open_video(_read_bytes(path, limits), limits) as opened:
            picture, frame = opened.picture, _first_frame(opened)
    except VideoError as error:
        raise VideoError(f"{display_name(path)} is no readable picture: {error}") from error
    rotation = 0 if frame is None else rotation_of(frame)
    if not rotation:
        return picture
    size = (picture.width, picture.height)
    width, height = reversed(size) if turns_sideways(rotation) else size
    return replace(picture, width=width, height=height, rotation=rotation)


def _first_frame(opened: OpenVideo) -> Any:
    # The first one only: the file may be a whole video under the name of a picture.
    context = opened.stream.codec_context
    context.thread_count = 1
    context.options = decoder_limits(opened.limits)
    try:
        frame = next((each for packet in iterate_packets(opened) for each in packet.decode()), None)
        return next(iter(context.decode(None)), None) if frame is None else frame
    except (av.FFmpegError, MemoryError):
        return None


def check_frames(frames: np.ndarray) -> None:
    """Refuse an array that is not (F, H, W, 3) uint8 with at least one frame."""
    if not isinstance(frames, np.ndarray):
        raise InputError(f"frames must be a NumPy array, got {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise InputError(
            f"frames must be a uint8 array of shape (frames, height, width, 3) with at least one frame, "
            f"got {frames.dtype} of shape {tuple(frames.shape)}"
        )


def _read_bytes(path: Path, limits: Limits) -> bytes:
    # As bytes: FFmpeg would read a name such as "frame%03d.png" as a pattern.
    allowed = _BYTES_PER_PIXEL * limits.max_pixels + 2**20
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size <= allowed:
                return file.read()
    except OSError as error:
        raise VideoError(f"{display_name(path)} cannot be read: {error.strerror}; check its permissions") from error
    raise VideoError(
        f"{display_name(path)} is over {allowed} bytes, more than a picture of {limits.max_pixels} pixels needs; "
        "raise max_pixels if you trust the file"
    )
