"""Where training samples come from: annotation files and videos, or shards of them; the dataset sees no difference.

Shapes: G DynImgs, N prompt frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...errors import InputError
from .annotations import Sample
from .frame_groups import FrameRequest, load_frame_groups
from .mixture import Mixture, Source, read_mixture
from .sample_table import SampleTable


class SampleSource(Protocol):
    """Give samples by number and the frame groups of their clips."""

    parts: "tuple[Part, ...]"
    allowed_share: float

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def require(self, request: FrameRequest) -> None:
        """Make sure, before the first sample, that such frames can be had; raises `InputError` otherwise."""
        ...

    def groups(
        self, index: int, num_clips: int, request: FrameRequest, rng: np.random.Generator | None
    ) -> list[np.ndarray]:
        """Give (G, 1 + N, H, W, 3) uint8 for the first `num_clips` clips of a sample.

        Raises:
            FileNotFoundError: where a video is missing; `InputError` where it cannot be read.
        """
        ...


@dataclass(frozen=True)
class Part:
    """Name the samples `first` to `stop` (exclusive) of one source, and how often each is seen per epoch."""

    name: str
    first: int
    stop: int
    weight: float


class FileSamples:
    """Read the samples of a mixture from its annotation files, and their frames from videos.

    Raises:
        InputError: where a root or file is missing, an entry is not complete, or there is no sample at all.
    """

    def __init__(self, mixture: Mixture) -> None:
        mixture.require_roots()
        self.parts, self._table = read_parts(mixture.active)
        self.allowed_share = mixture.allowed_share
        self._fps = {source.name: source.fps for source in mixture.active}
        if not len(self._table):
            raise InputError(f"{mixture.path or 'the mixture'} is empty: its annotation files hold no sample")

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        return self._table[index]

    def require(self, request: FrameRequest) -> None:
        """Accept any request: videos hold all frames."""

    def groups(
        self, index: int, num_clips: int, request: FrameRequest, rng: np.random.Generator | None
    ) -> list[np.ndarray]:
        """Decode what is needed of the videos; see `SampleSource`."""
        sample = self[index]
        for clip in sample.clips[:num_clips]:
            if not Path(clip.path).exists():
                raise FileNotFoundError(f"{sample.place}: no such video: {clip.path}")
        return [load_frame_groups(clip, request, rng, self._fps[sample.source]) for clip in sample.clips[:num_clips]]


def read_parts(sources: Sequence[Source], *, rooted: bool = True) -> tuple[tuple[Part, ...], SampleTable]:
    """Read the samples of several sources into one table, and tell which of them belong to which source."""
    counts = dict.fromkeys((source.name for source in sources), 0)

    def samples():
        for source in sources:
            for sample in source.read(rooted=rooted):
                counts[source.name] += 1
                yield sample

    table = SampleTable(samples())
    parts: list[Part] = []
    for source in sources:
        first = parts[-1].stop if parts else 0
        parts.append(Part(source.name, first, first + counts[source.name], source.weight))
    return tuple(parts), table


def open_samples(path: Path, *, annotation_root: Path | None = None, video_root: Path | None = None) -> "SampleSource":
    """Open training data: the YAML of a mixture, the folder of its shards, or a single annotation file.

    The paths of videos in a single annotation file start from its own folder.

    Raises:
        InputError: where there is no such thing, or what is there is not complete.
    """
    if path.is_dir():
        from .shard_reading import ShardSamples

        return ShardSamples(path)
    if not path.exists():
        raise InputError(
            f"no such training data: {path}; give a mixture (.yaml), annotations (.json, .jsonl) or shards"
        )
    if path.suffix in (".json", ".jsonl"):
        source = Source(path.stem, (path,), video_root or path.parent)
        return FileSamples(Mixture((source,), path=path))
    return FileSamples(read_mixture(path, annotation_root=annotation_root, video_root=video_root))
