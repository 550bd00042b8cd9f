"""Look through a mixture before a run: what is there, what is missing, what cannot be read (`dynimg-vl data check`)."""

import statistics
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import InputError, VideoError, VideoWarning
from ...video import FrameIndex, choose_policy, index_video, read_sizes
from ...video.many import look_at_all
from .annotations import Clip
from .frame_groups import FrameRequest
from .mixture import Mixture, Source

Progress = Callable[[int, int], None]
"""Told how many videos are done, of how many."""

_DECODED_AT_ONCE = 256
_NUM_LISTED = 20


@dataclass(frozen=True)
class VideoFacts:
    """Hold what was found out about one video: "found", "missing" or "unreadable", and about its clips.

    `is_damaged` says that parts cannot be read; `num_few_iframes` counts clips whose I-frames alone do not suffice,
    where other frames stand in; `num_empty` counts clips that hold no frame.
    """

    path: str
    state: str
    message: str = ""
    seconds: tuple[float, ...] = ()
    is_damaged: bool = False
    num_few_iframes: int = 0
    num_empty: int = 0


@dataclass(frozen=True)
class SourceReport:
    """Hold what is known about one source; videos count once, however many samples ask about them.

    `median_seconds` is that of its clips; `problem` says why it could not be looked at; `examples` name some videos
    that are missing, unreadable or damaged, with what is wrong.
    """

    name: str
    expected: int | None
    num_samples: int = 0
    num_videos: int = 0
    num_found: int = 0
    num_missing: int = 0
    num_unreadable: int = 0
    num_damaged: int = 0
    num_clips: int = 0
    num_few_iframes: int = 0
    num_empty_clips: int = 0
    median_seconds: float | None = None
    is_off: bool = False
    problem: str = ""
    examples: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class MixtureReport:
    """Hold the reports of all sources, in the order of the recipe."""

    sources: tuple[SourceReport, ...]
    is_decoded: bool

    @property
    def differences(self) -> list[str]:
        """List in what the mixture differs from what its recipe expects; empty where it is ready for training."""
        return [f"{source.name}: {difference}" for source in self.sources for difference in source.differences]

    def describe(self) -> dict[str, Any]:
        """Give everything in values that JSON knows."""
        return {
            "is_decoded": self.is_decoded,
            "num_samples": sum(source.num_samples for source in self.sources),
            "sources": [asdict(source) for source in self.sources],
            "differences": self.differences,
        }


def check_mixture(
    mixture: Mixture,
    *,
    decode: bool = False,
    request: FrameRequest | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> MixtureReport:
    """Check every source: annotations, counts, and every video by its packets, or with `decode` by all of its frames.

    A source that cannot be looked at is reported, not raised, so that one look tells everything that is missing.
    """
    request = request or FrameRequest()
    opened = [(source, *_clips_of(source)) for source in mixture.sources]
    total = sum(len(videos) for _, videos, _ in opened)
    done = 0
    reports = []
    for source, videos, report in opened:
        facts: list[VideoFacts] = []
        job = partial(check_video, request=request, decode=decode, fps=source.fps)
        for found in look_at_all(job, videos.items(), workers):
            facts.append(found)
            done += 1
            if progress is not None:
                progress(done, total)
        reports.append(_sum_up(source, report, facts, mixture.allowed_share))
    return MixtureReport(tuple(reports), decode)


def check_video(
    video: tuple[str, list[Clip]], *, request: FrameRequest, decode: bool = False, fps: float | None = None
) -> VideoFacts:
    """Look at one video and the clips of it that samples ask about."""
    path, clips = video
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VideoWarning)
        try:
            if not Path(path).exists():
                return VideoFacts(path, "missing", "no such file")
            index = index_video(path, fps=fps, max_pixels=request.max_pixels, max_frames=request.max_frames)
            if decode:
                _decode_all(index)
        except (VideoError, InputError, OSError) as error:
            return VideoFacts(path, "unreadable", str(error))
    damage = [str(warning.message) for warning in caught if issubclass(warning.category, VideoWarning)]
    seconds: list[float] = []
    num_few = num_empty = 0
    for clip in clips:
        start = index.start_seconds if clip.start is None else max(clip.start, index.start_seconds)
        end = index.end_seconds if clip.end is None else min(clip.end, index.end_seconds)
        try:
            num_few += choose_policy(index, **request.counts, policy="auto", clip=clip.bounds) != "iframe"
            seconds.append(end - start)
        except InputError:
            num_empty += 1
    return VideoFacts(path, "found", "; ".join(damage[:1]), tuple(seconds), bool(damage), num_few, num_empty)


def _decode_all(index: FrameIndex) -> None:
    # At a few pixels each: what is looked for is what the decoder says, not the picture.
    for first in range(0, index.num_frames, _DECODED_AT_ONCE):
        stop = min(first + _DECODED_AT_ONCE, index.num_frames)
        read_sizes(index, {number: {(16, 16)} for number in range(first, stop)})


def _clips_of(source: Source) -> tuple[dict[str, list[Clip]], SourceReport]:
    """Read the annotations of a source: its distinct clips by video, and a report with what that alone tells."""
    videos: dict[str, list[Clip]] = {}
    report = SourceReport(source.name, source.expected)
    if source.weight == 0:
        return videos, SourceReport(source.name, source.expected, is_off=True)
    seen: set[Clip] = set()
    num_samples = 0
    try:
        for sample in source.read():
            num_samples += 1
            for clip in sample.clips:
                if clip not in seen:
                    seen.add(clip)
                    videos.setdefault(clip.path, []).append(clip)
    except InputError as error:
        return {}, SourceReport(source.name, source.expected, problem=str(error))
    problem = "" if source.videos.is_dir() else f"the folder of videos {source.videos} does not exist"
    report = SourceReport(source.name, source.expected, num_samples, len(videos), problem=problem, num_clips=len(seen))
    return videos, report


def _sum_up(source: Source, report: SourceReport, facts: list[VideoFacts], allowed_share: float) -> SourceReport:
    if report.is_off:
        return report
    states = Counter(fact.state for fact in facts)
    seconds = [length for fact in facts for length in fact.seconds]
    wrong = [f"{fact.path}: {fact.message}" for fact in facts if fact.message]
    num_broken = states["missing"] + states["unreadable"]
    differences = [report.problem] if report.problem else []
    if (report.num_samples or not report.problem) and not source.accepts(report.num_samples):
        within = f" to {source.expected + source.within}" if source.expected and source.within else ""
        differences.append(f"{report.num_samples} samples, expected {source.expected}{within}")
    if num_broken > allowed_share * max(1, report.num_videos):
        differences.append(
            f"{states['missing']} videos missing and {states['unreadable']} unreadable of {report.num_videos}, "
            f"over the allowed share of {allowed_share:g}"
        )
    return SourceReport(
        report.name,
        report.expected,
        report.num_samples,
        report.num_videos,
        states["found"],
        states["missing"],
        states["unreadable"],
        sum(fact.is_damaged for fact in facts),
        report.num_clips,
        sum(fact.num_few_iframes for fact in facts),
        sum(fact.num_empty for fact in facts),
        round(statistics.median(seconds), 3) if seconds else None,
        problem=report.problem,
        examples=tuple(wrong[:_NUM_LISTED]),
        differences=tuple(differences),
    )
