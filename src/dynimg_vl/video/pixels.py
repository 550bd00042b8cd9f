"""From decoded frames to upright RGB pixels, scaled inside the decoder's scaler.

The scaler writes planes (GBRP): the same values as packed RGB in half the time, and ready to become channels first.
"""

import struct
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from ..errors import VideoError
from .container import PYAV, reason

Size = tuple[int, int]
"""Height and width in pixels, upright."""

# One thread: a scaler thread per frame costs more CPU time than it saves. PyAV before 17 has no such option.
_SCALER_OPTIONS = {"threads": 1} if PYAV >= 17 else {}
# SWS_BICUBIC | SWS_FULL_CHR_H_INT | SWS_ACCURATE_RND. Downscaling is antialiased. Without the second, two neighbouring
# pixels share one colour at the target size (mean error 2 to 6 of 255 against PIL on exact RGB, with it 0.2 to 0.5).
_INTERPOLATION = 0x4 | 0x2000 | 0x40000


# How a frame with this rotation in quarter turns counterclockwise is shown: see `_display_turn`.
_QUARTER_TURNS = ((False, False, False), (True, False, True), (False, True, True), (True, True, False))


class FrameScaler:
    """Turn frames of a decoder into arrays; keeps a scaler per size, since setting one up costs as much as using it."""

    def __init__(self, name: str = "the video") -> None:
        self.name = name
        self._scalers: dict[tuple[Any, ...], VideoReformatter] = {}

    def rgb(self, frame: Any, size: Size) -> np.ndarray:
        """Convert a frame to RGB (height, width, 3) uint8: upright, alpha over black, squeezed to `size`.

        Raises:
            VideoError: where FFmpeg cannot scale it, as from 60,000 pixels to one.
        """
        transposed, mirrored, upside_down = _display_turn(frame)
        height, width = reversed(size) if transposed else size
        try:
            if _has_alpha(frame.format.name):
                frame = _over_black(frame)
            pixels = self._scale(frame, width, height)
        except (av.FFmpegError, OSError, ValueError) as error:
            given = f"{frame.width} x {frame.height} pixels ({frame.format.name})"
            raise VideoError(
                f"{self.name}: a frame of {given} cannot be scaled to {width} x {height}: {reason(error)}; "
                "convert it to H.264"
            ) from error
        if transposed:
            pixels = pixels.transpose(1, 0, 2)
        if mirrored:
            pixels = pixels[:, ::-1]
        if upside_down:
            pixels = pixels[::-1]
        return pixels

    def _scale(self, frame: Any, width: int, height: int) -> np.ndarray:
        try:
            scaled = self._reformat(frame, width, height)
        except (av.FFmpegError, OSError):
            # Thin frames, such as 4 x 4000 to 84 x 84: shrunk along one axis before they grow along the other.
            scaled = self._reformat(frame, min(frame.width, width), min(frame.height, height))
            scaled = self._reformat(scaled, width, height)
        pixels = np.empty((3, height, width), np.uint8)
        for channel, plane in zip((1, 2, 0), scaled.planes, strict=True):
            rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
            pixels[channel] = rows[:height, :width]
        return pixels.transpose(1, 2, 0)

    def _reformat(self, frame: Any, width: int, height: int) -> Any:
        key = (frame.format.name, frame.width, frame.height, width, height)
        scaler = self._scalers.get(key)
        if scaler is None:
            scaler = self._scalers[key] = VideoReformatter()
        return scaler.reformat(frame, width, height, "gbrp", interpolation=_INTERPOLATION, **_SCALER_OPTIONS)


def rotation_of(frame: Any) -> int:
    """Give the rotation that a decoded frame asks for, in degrees counterclockwise."""
    return int(getattr(frame, "rotation", 0))


def scale_array(pixels: np.ndarray, size: Size) -> np.ndarray:
    """Scale RGB pixels (H, W, 3) uint8 with the same scaler as decoded frames."""
    if pixels.shape[:2] == size:
        return pixels
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
    return FrameScaler().rgb(frame, size)


def _display_turn(frame: Any) -> tuple[bool, bool, bool]:
    """Read the display matrix of a frame as: swap the axes, then mirror left and right, then up and down."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX") if frame.side_data else None
    except ValueError:
        # Among it is a kind that PyAV does not know (18.1: EXIF, in the pictures of every camera), and it gives none of
        # it. Its angle is known all the same; a mirror image is not told.
        return _QUARTER_TURNS[round(rotation_of(frame) / 90) % 4]
    if matrix is None:
        return False, False, False
    # Source (x, y) goes to (a x + c y, b x + d y); the nearest of the eight turns is taken.
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if abs(a) >= abs(b):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


@lru_cache(maxsize=64)
def _has_alpha(format_name: str) -> bool:
    return format_name == "pal8" or any(component.is_alpha for component in av.VideoFormat(format_name).components)


def _over_black(frame: Any) -> Any:
    rgba = frame.reformat(format="rgba", interpolation=_INTERPOLATION).to_ndarray()
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return frame
    rgb = (rgba[..., :3].astype(np.uint16) * alpha + 127) // 255
    return av.VideoFrame.from_ndarray(rgb.astype(np.uint8), "rgb24")
