"""What PyAV does not tell about an mp4 or mov file, read from its boxes: how a track is turned, how long its table is.

Only box headers and some bytes of three small boxes are read, 0.1 ms for an hour of video.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
_MAX_BOXES = 10_000  # an honest file has about 20 boxes per track down to this depth
_IDENTITY = (1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class TrackBoxes:
    """Hold what the boxes of one track say."""

    track_id: int
    rotation: int
    num_samples: int


def read_tracks(file: BinaryIO) -> list[TrackBoxes]:
    """Read rotation and claimed number of samples of all tracks; an empty list where the file is no mp4 or mov.

    `rotation` has the sign of ffprobe: degrees counterclockwise, -90 for a phone held upright. Damage is skipped.
    """
    file.seek(0, 2)
    end = file.tell()
    movie = _IDENTITY
    tracks: list[TrackBoxes] = []
    for kind, start, size in _walk(file, 0, end):
        try:
            if kind == b"mvhd":
                movie = _matrix(_full_box(file, start, size), 36, 48)
            elif kind == b"tkhd":
                body = _full_box(file, start, size)
                (track_id,) = struct.unpack_from(">I", body, 20 if body[0] == 1 else 12)
                tracks.append(TrackBoxes(track_id, _degrees(_product(_matrix(body, 40, 52), movie)), 0))
            elif kind == b"stsz" and tracks:
                (num_samples,) = struct.unpack_from(">I", _full_box(file, start, size), 8)
                last = tracks[-1]
                tracks[-1] = TrackBoxes(last.track_id, last.rotation, max(last.num_samples, num_samples))
        except struct.error:
            continue  # a box too short for its fields; FFmpeg will say what it thinks of the file
    return tracks


def _walk(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    stack = [(start, end)]
    for _ in range(_MAX_BOXES):
        if not stack:
            return
        start, end = stack.pop()
        file.seek(start)
        header = file.read(16)
        if start + 8 > end or len(header) < 8:
            continue
        size, kind, head = int.from_bytes(header[:4], "big"), header[4:8], 8
        if size == 1:
            size, head = int.from_bytes(header[8:16], "big"), 16
        elif size == 0:
            size = end - start
        if size < head:
            continue
        if start + size < end:
            stack.append((start + size, end))
        if kind in _PARENTS:
            stack.append((start + head, min(start + size, end)))
        else:
            yield kind, start + head, min(start + size, end) - start - head


def _full_box(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(min(size, 128))


def _matrix(body: bytes, offset: int, offset_64: int) -> tuple[float, float, float, float]:
    # The 3 x 3 matrix is 16.16 fixed point in rows a b u, c d v, x y w; 64-bit times move it by 12 bytes.
    a, b, _, c, d = struct.unpack_from(">5i", body, offset_64 if body[:1] == b"\x01" else offset)
    return a / 65536, b / 65536, c / 65536, d / 65536


def _product(
    left: tuple[float, float, float, float], right: tuple[float, float, float, float]
) -> tuple[float, float, float, float]:
    (a, b, c, d), (e, f, g, h) = left, right
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h


def _degrees(matrix: tuple[float, float, float, float]) -> int:
    # As av_display_rotation_get: scale both columns away, then the angle of the first row, counterclockwise.
    a, b, c, d = matrix
    scale_0, scale_1 = math.hypot(a, c), math.hypot(b, d)
    if scale_0 == 0 or scale_1 == 0:
        return 0
    return -round(math.degrees(math.atan2(b / scale_1, a / scale_0)))
