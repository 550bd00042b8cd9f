"""Decode a mixture once: shards of candidate frames and conversations, each one a unit that can be restarted.

A shard is written under another name and renamed when complete, the tar first and what stands beside it last. So a
build that was killed at any moment and started again ends with the same bytes, none missing and none doubled.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, VideoWarning
from ...processes import end_at_once
from .annotations import Sample
from .frame_groups import FrameRequest, load_candidates
from .mixture import Mixture, Source
from .sample_source import Part, read_parts
from .sample_table import SampleTable
from .shard_format import (
    FORMAT,
    MANIFEST,
    PICTURES,
    PictureFormat,
    ShardInfo,
    ShardWriter,
    dump_json,
    load_info,
    remove_leftovers,
    shard_name,
    written_atomically,
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BuildOptions:
    """Choose what shards hold.

    Args:
        request: the frames that training will ask for.
        per_gap: candidates for prompt frames that are kept in each gap between keyframes.
        picture: how frames are stored.
        records_per_shard: clips in a shard; 256 of them take about 200 MB.
    """

    request: FrameRequest = field(default_factory=FrameRequest)
    per_gap: int = 6
    picture: PictureFormat = field(default_factory=PictureFormat)
    records_per_shard: int = 256

    def __post_init__(self) -> None:
        if self.records_per_shard < 1:
            raise InputError(f"a shard holds at least one clip, got {self.records_per_shard}")


@dataclass(frozen=True)
class Record:
    """Hold all samples about the same clips of one source."""

    source: Source
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class ShardJob:
    """Hold all that building one shard takes, for a process or machine of its own."""

    folder: Path
    number: int
    first_record: int
    records: tuple[Record, ...]
    options: BuildOptions

    @property
    def info_path(self) -> Path:
        """Give the file beside the tar, whose presence says that the shard is complete."""
        return self.folder / f"{shard_name(self.number)}.json"

    def run(self) -> ShardInfo:
        """Build the shard, unless it is complete already.

        Raises:
            InputError: where it cannot be written.
        """
        done = load_info(self.info_path)
        if done is not None:
            return done
        tar = self.info_path.with_suffix(".tar")
        remove_leftovers(tar)
        remove_leftovers(self.info_path)
        records: list[dict[str, Any]] = []
        skipped: list[dict[str, Any]] = []
        with written_atomically(tar) as file:
            writer = ShardWriter(file)
            for rank, record in enumerate(self.records):
                self._write(writer, f"{self.first_record + rank:09d}", record, records, skipped)
            writer.close()
            num_bytes = file.tell()
        info = ShardInfo(num_bytes, records, skipped)
        with written_atomically(self.info_path) as file:
            file.write(info.dump())
        return info

    def _write(
        self,
        writer: ShardWriter,
        key: str,
        record: Record,
        records: list[dict[str, Any]],
        skipped: list[dict[str, Any]],
    ) -> None:
        first = record.samples[0]
        paths = [clip.path for clip in first.clips]
        try:
            clips, frames = self._frames(record)
        except (InputError, OSError) as error:
            why = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            entries = [sample.entry for sample in record.samples]
            skipped.append({"source": first.source, "entries": entries, "videos": paths, "reason": why})
            return
        said = [{"entry": sample.entry, "messages": list(sample.messages)} for sample in record.samples]
        description = {"source": first.source, "conversations": said, "clips": clips}
        place = writer.write(key, description, frames, PICTURES[self.options.picture.name])
        bare = [{"path": clip["path"], "start": clip["start"], "end": clip["end"]} for clip in clips]
        records.append({**description, "clips": bare, "offset": place.offset, "num_bytes": place.num_bytes})

    def _frames(self, record: Record) -> tuple[list[dict[str, Any]], list[list[bytes]]]:
        clips: list[dict[str, Any]] = []
        frames: list[list[bytes]] = []
        for clip in record.samples[0].clips:
            rooted = record.source.rooted(clip)
            if not Path(rooted.path).exists():
                raise FileNotFoundError(rooted.path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", VideoWarning)  # `data check` tells which files are damaged
                found = load_candidates(rooted, self.options.request, self.options.per_gap, record.source.fps)
            frames.append([self.options.picture.encode(pixels) for pixels in found.pixels])
            clips.append(
                {
                    "path": clip.path,
                    "start": clip.start,
                    "end": clip.end,
                    "pts_seconds": [round(float(seconds), 6) for seconds in found.pts_seconds],
                    "span_seconds": [round(seconds, 6) for seconds in found.span_seconds],
                }
            )
        return clips, frames


class ShardPlan:
    """Divide a mixture into records and shards, always in the same way.

    Samples about the same clips become one record, so that frames are stored once; records keep the order of their
    first sample.

    Raises:
        InputError: where the mixture cannot be read or holds no sample.
    """

    def __init__(self, mixture: Mixture, options: BuildOptions | None = None) -> None:
        mixture.require_roots()
        self.options = options or BuildOptions()
        self.mixture = mixture
        self.parts, self._table = read_parts(mixture.active, rooted=False)
        if not len(self._table):
            raise InputError(f"{mixture.path or 'the mixture'} is empty: its annotation files hold no sample")
        self._order, self._ends = _grouped(self._table, self.parts)

    @property
    def num_records(self) -> int:
        """Give the number of records, broken ones included."""
        return len(self._ends) - 1

    @property
    def num_samples(self) -> int:
        """Give the number of samples, broken ones included."""
        return len(self._table)

    @property
    def num_shards(self) -> int:
        """Give the number of shards."""
        return -(-self.num_records // self.options.records_per_shard)

    def job(self, folder: Path, number: int) -> ShardJob:
        """Give what it takes to build one shard."""
        sources = {source.name: source for source in self.mixture.active}
        first = number * self.options.records_per_shard
        stop = min(first + self.options.records_per_shard, self.num_records)
        records = []
        for rank in range(first, stop):
            rows = self._order[self._ends[rank] : self._ends[rank + 1]]
            samples = tuple(self._table[int(row)] for row in rows)
            records.append(Record(sources[samples[0].source], samples))
        return ShardJob(folder, number, first, tuple(records), self.options)

    def manifest(self) -> bytes:
        """Describe the whole: what a folder must agree on with a build that goes on in it."""
        digest = hashlib.sha256()
        for row in range(len(self._table)):
            digest.update(self._table.row(row))
        sources = [{"name": p.name, "num_samples": p.stop - p.first, "weight": p.weight} for p in self.parts]
        return dump_json(
            {
                "format": FORMAT,
                "num_shards": self.num_shards,
                "num_records": self.num_records,
                "sources": sources,
                "allowed_share": self.mixture.allowed_share,
                "options": asdict(self.options),
                "fingerprint": digest.hexdigest(),
            }
        )


def _grouped(table: SampleTable, parts: Sequence[Part]) -> tuple[np.ndarray, np.ndarray]:
    # Returns the samples in the order of their records, and where each record ends.
    keys: dict[Any, int] = {}
    record_of = np.empty(len(table), np.int64)
    for row, sample in enumerate(table):
        key = (sample.source, sample.clips) if sample.clips else row
        record_of[row] = keys.setdefault(key, len(keys))
    ends = np.concatenate([[0], np.cumsum(np.bincount(record_of, minlength=len(keys)))])
    return np.argsort(record_of, kind="stable"), ends


@dataclass(frozen=True)
class BuildReport:
    """Hold what a build did: how many shards of its share are complete, and the records that were left out."""

    num_shards: int
    num_records: int
    skipped: tuple[dict[str, Any], ...]


def build_shards(
    plan: ShardPlan,
    folder: Path,
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    workers: int = 1,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the shards of a plan, or one job's share of them: those whose number leaves `shard_index` over.

    Shards that are complete stay as they are. Each process builds one shard after the other.

    Raises:
        InputError: where the folder belongs to another plan or cannot be written, or more than the allowed share of the
            records is broken (all shards are written then, without these).
    """
    if not 0 <= shard_index < num_shards or workers < 1:
        raise InputError(f"shard index must be from 0 to {num_shards - 1} and workers at least 1")
    claim_folder(plan, folder)
    numbers = range(shard_index, plan.num_shards, num_shards)
    counts: list[int] = []
    skipped: list[dict[str, Any]] = []
    for info in _run_all((plan.job(folder, number) for number in numbers), min(workers, len(numbers) or 1)):
        counts.append(len(info.records))
        skipped += info.skipped
        if progress is not None:
            progress(len(counts), len(numbers))
    return _summed_up(plan, folder, counts, skipped)


def _summed_up(plan: ShardPlan, folder: Path, counts: Sequence[int], skipped: list[dict[str, Any]]) -> BuildReport:
    # `counts` are the records of each shard. The order is that of the data, whichever shard was ready first.
    skipped.sort(key=lambda row: (row["source"], row["entries"]))
    num_records, allowed = sum(counts), plan.mixture.allowed_share
    if len(skipped) > allowed * (num_records + len(skipped)):
        listed = "; ".join(f"{', '.join(row['videos'])} ({row['reason']})" for row in skipped[:5])
        raise InputError(
            f"{len(skipped)} of {num_records + len(skipped)} clips cannot be used, over the allowed share of "
            f"{allowed:g}: {listed}{' ..' if len(skipped) > 5 else ''}; the other clips are in {folder}"
        )
    return BuildReport(len(counts), num_records, tuple(skipped))


def claim_folder(plan: ShardPlan, folder: Path) -> None:
    """Make the folder, and make sure that what is in it belongs to this plan.

    Raises:
        InputError: where it belongs to another one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    wanted, path = plan.manifest(), folder / MANIFEST
    if not path.exists():
        try:
            with written_atomically(path) as file:
                file.write(wanted)
        except InputError:
            if not path.exists():  # else another job was faster
                raise
    remove_leftovers(path)
    if path.read_bytes() != wanted:
        raise InputError(f"{folder} holds shards of another recipe or other options; choose another folder")


def _run_all(jobs: Iterator[ShardJob], workers: int) -> Iterator[ShardInfo]:
    if workers == 1:
        yield from (job.run() for job in jobs)
        return
    context = get_context("spawn")  # a fork of a process that has threads may never come back
    with ProcessPoolExecutor(workers, context, initializer=end_at_once) as pool:
        running: set[Future[ShardInfo]] = set()
        try:
            for job in jobs:  # few at a time: a job holds its annotations
                running.add(pool.submit(ShardJob.run, job))
                if len(running) > workers + 1:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise InputError(
                "a process that builds shards was killed (out of memory?); what was complete before is kept, start "
                "again with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def build_on_ray(plan: ShardPlan, folder: Path, progress: Progress | None = None) -> BuildReport:
    """Build all shards on a Ray cluster whose machines share the videos and the folder.

    The cluster is the one that RAY_ADDRESS names, or that this machine is part of; else one is started here.

    Raises:
        InputError: where Ray is not installed, or as `build_shards` does.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("this needs Ray: pip install 'ray[data]'") from error
    folder = folder.resolve()  # tasks run elsewhere
    claim_folder(plan, folder)
    shared = ray.put(plan)

    def build(row: dict[str, Any]) -> dict[str, Any]:
        try:
            info = ray.get(shared).job(folder, int(row["item"])).run()
        except InputError as error:  # Ray would wrap it in pages of its own
            return {"num_records": 0, "skipped": "[]", "error": str(error)}
        return {"num_records": len(info.records), "skipped": json.dumps(info.skipped), "error": ""}

    numbers = list(range(plan.num_shards))
    counts: list[int] = []
    skipped: list[dict[str, Any]] = []
    for row in ray.data.from_items(numbers, override_num_blocks=len(numbers)).map(build).iter_rows():
        if row["error"]:
            raise InputError(row["error"])
        counts.append(int(row["num_records"]))
        skipped += json.loads(row["skipped"])
        if progress is not None:
            progress(len(counts), len(numbers))
    return _summed_up(plan, folder, counts, skipped)
