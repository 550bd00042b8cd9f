"""All samples of a mixture in two flat buffers, since 737 000 of them as objects do not fit beside a model.

Python counts references inside objects, so that worker processes which only read a list of dicts copy its pages all the
same: 8 processes of 8 workers would hold it 64 times. A buffer of bytes is shared for good.
"""

import json
from collections.abc import Iterable, Iterator

import numpy as np

from .annotations import Clip, Sample


class SampleTable:
    """Keep samples as JSON in one buffer, in order, and give them back one by one."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        rows = bytearray()
        ends = [0]
        for sample in samples:
            rows += encode_sample(sample)
            ends.append(len(rows))
        self._rows = np.frombuffer(bytes(rows), np.uint8)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Sample:
        return decode_sample(self.row(index))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def row(self, index: int) -> bytes:
        """Give a sample as `encode_sample` wrote it."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self._rows[self._ends[index] : self._ends[index + 1]].tobytes()


def encode_sample(sample: Sample) -> bytes:
    """Write a sample as JSON, always the same bytes for the same sample."""
    clips = [[clip.path, clip.start, clip.end] for clip in sample.clips]
    row = [list(sample.messages), clips, sample.source, sample.entry]
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode("utf-8", "surrogatepass")


def decode_sample(row: bytes) -> Sample:
    """Read what `encode_sample` wrote."""
    messages, clips, source, entry = json.loads(row.decode("utf-8", "surrogatepass"))
    return Sample(tuple(messages), tuple(Clip(*clip) for clip in clips), source, entry)
