"""How long a file says it is: what tells one that was cut off from one that is complete, where FFmpeg keeps silent.

Only the first bytes of an AVI, Matroska or WebM file are read; other formats say nothing that is of use here.
"""

from typing import BinaryIO

_MAX_RIFFS = 1000  # an OpenDML file has one per gigabyte
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def claimed_bytes(file: BinaryIO) -> int:
    """Read the length in bytes that the header of a file claims; 0 where it claims none, as while it is written."""
    file.seek(0)
    magic = file.read(4)
    if magic == b"RIFF":
        return _end_of_riffs(file)
    return _end_of_segment(file) if magic == _EBML else 0


def _end_of_riffs(file: BinaryIO) -> int:
    end = 0
    for _ in range(_MAX_RIFFS):
        file.seek(end)
        header = file.read(8)
        size = int.from_bytes(header[4:], "little")
        if len(header) < 8 or header[:4] != b"RIFF" or size in (0, 0xFFFFFFFF):
            return end
        end += 8 + size + size % 2
    return end


def _end_of_segment(file: BinaryIO) -> int:
    header_size = _element_size(file)
    if header_size is None:
        return 0
    file.seek(header_size, 1)
    size = _element_size(file) if file.read(4) == _SEGMENT else None
    return 0 if size is None else file.tell() + size


def _element_size(file: BinaryIO) -> int | None:
    """Read the size of an EBML element: as many bytes as the first has leading zeros, and one; all ones: unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    size = int.from_bytes(first + rest, "big") & ((1 << 7 * length) - 1)
    return None if len(rest) < length - 1 or size == (1 << 7 * length) - 1 else size
