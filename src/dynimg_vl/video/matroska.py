"""What PyAV does not tell about a Matroska or WebM file: where it says that it ends, and how its tracks are turned."""

import struct
from collections.abc import Iterator
from typing import BinaryIO

MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT, _CLUSTER, _TRACKS, _TRACK = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b", b"\xae"
_TYPE, _VIDEO, _PROJECTION = b"\x83", b"\xe0", b"\x76\x70"
_PITCH, _ROLL = b"\x76\x74", b"\x76\x75"
_IS_VIDEO = 1
_MAX_ELEMENTS = 10_000
"""Of the header, as far as the first frames: it has some tens for each track."""


def end_of_segment(file: BinaryIO) -> int:
    """Read where the segment ends, from just behind the magic bytes; 0 where the file does not say, as a stream."""
    body = _segment(file)
    return 0 if body is None or body[1] is None else body[1]


def read_rotations(file: BinaryIO) -> list[int]:
    """Read how each video track is turned, in the order of the file: degrees counterclockwise, as ffprobe has them.

    Damage ends the list. Tracks behind the first frames are not looked for: writers put them before.
    """
    file.seek(0)
    if file.read(4) != MAGIC or (segment := _segment(file)) is None:
        return []
    budget = iter(range(_MAX_ELEMENTS))
    for kind, start, stop in _children(file, *segment, budget):
        if kind == _CLUSTER:
            break
        if kind == _TRACKS:
            tracks = [track[1:] for track in _children(file, start, stop, budget) if track[0] == _TRACK]
            found = [_rotation(file, *track, budget) for track in tracks]
            return [rotation for rotation in found if rotation is not None]
    return []


def _rotation(file: BinaryIO, start: int, stop: int | None, budget: Iterator[int]) -> int | None:
    # None for what is no video. FFmpeg turns by the roll alone, and not where there is a pitch.
    is_video, pitch, roll = False, 0.0, 0.0
    for kind, first, last in _children(file, start, stop, budget):
        if kind == _TYPE:
            is_video = int.from_bytes(_bytes(file, first, last), "big") == _IS_VIDEO
        elif kind == _VIDEO:
            projections = [each[1:] for each in _children(file, first, last, budget) if each[0] == _PROJECTION]
            angles = [angle for each in projections for angle in _children(file, *each, budget)]
            found = {each: _float(_bytes(file, begin, end)) for each, begin, end in angles}
            pitch, roll = found.get(_PITCH, 0.0), found.get(_ROLL, 0.0)
    if not is_video:
        return None
    return round(roll) if pitch == 0 and abs(roll) <= 360 else 0


def _segment(file: BinaryIO) -> tuple[int, int | None] | None:
    # From just behind the magic bytes: where the body of the segment starts and stops (None: it does not say).
    header_size = _element_size(file)
    if header_size is None:
        return None
    start = file.tell() + header_size
    if start > _size(file):
        return None
    file.seek(start)
    if file.read(4) != _SEGMENT:
        return None
    size = _element_size(file)
    return file.tell(), None if size is None else file.tell() + size


def _children(
    file: BinaryIO, start: int, stop: int | None, budget: Iterator[int]
) -> Iterator[tuple[bytes, int, int | None]]:
    """Yield the id of each element in a stretch, and where its body starts and stops (None: its size is unknown)."""
    position, size = start, _size(file)
    stop = size if stop is None else min(stop, size)
    while position < stop and next(budget, None) is not None:
        file.seek(position)
        first = file.read(1)
        if not first or not first[0] >> 4:  # an id has four bytes at most
            return
        kind = first + file.read(8 - first[0].bit_length())
        length = _element_size(file)
        body = file.tell()
        yield kind, body, None if length is None else body + length
        if length is None:
            return
        position = body + length


def _size(file: BinaryIO) -> int:
    """Give the size of the file: some file systems refuse to seek far behind it, others do not."""
    here = file.tell()
    size = file.seek(0, 2)
    file.seek(here)
    return size


def _bytes(file: BinaryIO, start: int, stop: int | None) -> bytes:
    file.seek(start)
    return file.read(min(8, (stop or start) - start))


def _float(value: bytes) -> float:
    form = {4: ">f", 8: ">d"}.get(len(value))
    return float(struct.unpack(form, value)[0]) if form else 0.0


def _element_size(file: BinaryIO) -> int | None:
    """Read the size of an EBML element: as many bytes as the first has leading zeros, and one; all ones: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    size = int.from_bytes(first + rest, "big") & ((1 << 7 * length) - 1)
    return None if len(rest) < length - 1 or size == (1 << 7 * length) - 1 else size
