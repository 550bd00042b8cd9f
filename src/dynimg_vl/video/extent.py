"""How long a file says it is: what tells one that was cut off from one that is complete, where FFmpeg keeps silent.

Only the first bytes of an AVI, Matroska or WebM file are read; other formats say nothing that is of use here.
"""

from typing import BinaryIO

from .matroska import MAGIC, end_of_segment

_MAX_RIFFS = 1000  # an OpenDML file has one per gigabyte


def claimed_bytes(file: BinaryIO) -> int:
    """Read the length in bytes that the header of a file claims; 0 where it claims none, as while it is written."""
    file.seek(0)
    magic = file.read(4)
    if magic == b"RIFF":
        return _end_of_riffs(file)
    return end_of_segment(file) if magic == MAGIC else 0


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
