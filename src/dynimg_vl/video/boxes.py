"""What PyAV does not tell about an mp4 or mov file, read from its boxes: how a track is turned, how long its table is.

Only box headers and some bytes of small boxes are read: 0.1 ms for an hour of video, 30 us for each fragment.
"""

import math
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ..errors import VideoError

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf")
_MAX_BOXES = 2**20  # about 20 for each track and 11 for each fragment with sound: 26 hours in fragments of 1 s
_HANDLERS = frozenset((b"vide", b"soun", b"subp", b"clcp"))  # kinds of tracks, as far as FFmpeg knows them
_RAW_PER_ENTRY = 1024  # samples of raw sound; a second may have 48,000
_IDENTITY = (1.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class TrackBoxes:
    """Hold what the boxes of one track say.

    `num_samples` is how many FFmpeg makes an entry for, in all fragments; of raw sound, 1024 share one.
    """

    track_id: int
    rotation: int
    num_samples: int
    is_sound: bool = False


def read_tracks(file: BinaryIO, name: str) -> list[TrackBoxes]:
    """Read rotation and claimed number of samples of all tracks; an empty list where the file is no mp4 or mov.

    `rotation` has the sign of ffprobe: degrees counterclockwise, -90 for a phone held upright. Damage is skipped.

    Raises:
        VideoError: where there are absurdly many boxes.
    """
    file.seek(0, 2)
    end = file.tell()
    movie = _IDENTITY
    tracks: list[_Track] = []
    in_fragments: Counter[int] = Counter()
    fragment_of = 0
    for kind, start, size in _walk(file, end, name):
        try:
            if kind == b"mvhd":
                movie = _matrix(_full_box(file, start, size), 36, 48)
            elif kind == b"tkhd":
                body = _full_box(file, start, size)
                (track_id,) = struct.unpack_from(">I", body, 20 if body[:1] == b"\x01" else 12)
                tracks.append(_Track(track_id, _degrees(_product(_matrix(body, 40, 52), movie))))
            elif kind == b"tfhd":
                (fragment_of,) = struct.unpack_from(">I", _full_box(file, start, size), 4)
            elif kind == b"trun":
                in_fragments[fragment_of] += struct.unpack_from(">I", _full_box(file, start, size), 4)[0]
            elif tracks and kind in (b"hdlr", b"stts", b"stsz", b"stz2"):
                tracks[-1].note(kind, _full_box(file, start, size))
        except struct.error:
            continue  # a box too short for its fields; FFmpeg will say what it thinks of the file
    found = [track.summary(in_fragments.pop(track.track_id, 0)) for track in tracks]
    return found + [TrackBoxes(track_id, 0, number) for track_id, number in in_fragments.items()]


@dataclass
class _Track:
    track_id: int
    rotation: int
    num_samples: int = 0
    handlers: frozenset[bytes] = frozenset()
    is_raw: bool | None = None

    def note(self, kind: bytes, body: bytes) -> None:
        if kind == b"hdlr":  # mov has a second one, of the data, which FFmpeg does not heed
            self.handlers |= _HANDLERS & {body[8:12]}
        elif kind == b"stts":  # all samples in one row, each as long as the unit of time
            self.is_raw = self.is_raw is not False and body[4:8] + body[12:16] == b"\0\0\0\1" * 2
        else:
            self.num_samples = max(self.num_samples, *struct.unpack_from(">I", body, 8))

    def summary(self, in_fragments: int) -> TrackBoxes:
        is_sound = self.handlers == {b"soun"}
        per_entry = _RAW_PER_ENTRY if is_sound and self.is_raw else 1
        return TrackBoxes(self.track_id, self.rotation, -(-self.num_samples // per_entry) + in_fragments, is_sound)


def _walk(file: BinaryIO, num_bytes: int, name: str) -> Iterator[tuple[bytes, int, int]]:
    stack = [(0, num_bytes)]
    num_boxes = 0
    while stack:
        num_boxes += 1
        if num_boxes > _MAX_BOXES:
            raise VideoError(f"{name} has more than {_MAX_BOXES} boxes; if you trust it, remux it to a plain mp4")
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
    return file.read(max(0, min(size, 128)))  # a header longer than its box leaves less than nothing


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
