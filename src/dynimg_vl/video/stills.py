"""Videos that are no files: arrays of frames and folders of pictures."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from ..errors import InputError, VideoError
from .container import Limits, Picture, display_name, open_video, reason
from .packets import iterate_packets
from .pixels import FrameScaler, Size, scale_array

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


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
        # As bytes: FFmpeg would read a name such as "frame%03d.png" as a pattern.
        with open_video(_read_bytes(self.paths[number]), self.limits) as opened:
            opened.stream.codec_context.thread_count = 1
            try:
                # The first one only: the file may be a whole video under the name of a picture.
                frame = next((each for packet in iterate_packets(opened) for each in packet.decode()), None)
                if frame is None:
                    frame = next(iter(opened.stream.codec_context.decode(None)), None)
            except av.FFmpegError:
                frame = None
            if frame is None:
                raise VideoError(f"{display_name(self.paths[number])} cannot be decoded; is it a complete picture?")
            scaler = FrameScaler()
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
    paths = [path for path in entries if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()]
    if not paths:
        raise VideoError(
            f"{display_name(folder)} is a folder without pictures; give a video file or a folder of jpg or png"
        )
    if len(paths) > limits.max_frames:
        raise VideoError(f"{display_name(folder)}: {len(paths)} pictures are over the limit of {limits.max_frames}")
    paths.sort(key=_natural_order)
    return PictureFiles(tuple(paths), limits)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]


def describe_picture(path: Path, limits: Limits) -> Picture:
    """Read the size of a picture without decoding it."""
    try:
        with open_video(_read_bytes(path), limits) as opened:
            return opened.picture
    except VideoError as error:
        raise VideoError(f"{display_name(path)} is no readable picture: {error}") from error


def check_frames(frames: np.ndarray) -> None:
    """Refuse an array that is not (F, H, W, 3) uint8 with at least one frame."""
    if not isinstance(frames, np.ndarray):
        raise InputError(f"frames must be a NumPy array, got {type(frames).__name__}")
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise InputError(
            f"frames must be a uint8 array of shape (frames, height, width, 3) with at least one frame, "
            f"got {frames.dtype} of shape {tuple(frames.shape)}"
        )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise VideoError(f"{display_name(path)} cannot be read: {error.strerror}; check its permissions") from error
