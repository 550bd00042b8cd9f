"""Look through a benchmark before a run: counts, and every video by its packets (`dynimg-vl eval check`)."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, VideoError, VideoWarning
from ..video import index_video
from ..video.many import look_at_all
from .items import Item
from .tasks import ALL, Task

Progress = Callable[[int, int], None]
"""Told how many videos are done, of how many."""

NUM_LISTED = 20


@dataclass(frozen=True)
class VideoState:
    """Hold what was found out about one video: "found", "missing" or "unreadable"; `seconds` is its last moment."""

    video: str
    state: str
    message: str = ""
    is_damaged: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class SubtaskReport:
    """Hold what is there of one subtask; videos count once each, `num_askable` are items whose video can be read.

    `num_clips_outside` are items whose clip begins after the end of its video.
    """

    name: str
    expected: int | None
    num_items: int
    num_askable: int
    num_videos: int
    num_found: int
    num_missing: int
    num_unreadable: int
    num_damaged: int
    num_clips_outside: int


@dataclass(frozen=True)
class TaskReport:
    """Hold what is there of a benchmark, and in what it differs from the official one.

    `examples` name some videos that are unreadable, damaged or missing, with what is wrong.
    """

    task: str
    expected: int
    num_items: int
    num_videos: int
    subtasks: tuple[SubtaskReport, ...]
    hashes: dict[str, str]
    examples: tuple[str, ...]
    differences: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Give everything in values that JSON knows."""
        return asdict(self)


def check_task(task: Task, data: Path, *, workers: int = 1, progress: Progress | None = None) -> TaskReport:
    """Read the official files of a benchmark and look at every video they name.

    Raises:
        InputError: where a file is missing or not what it should be.
    """
    loaded = task.read(data)
    videos = dict.fromkeys((_name(item), item.video, item.fps) for item in loaded.items)
    jobs = [(name, None if video is None else str(loaded.root / video), fps) for name, video, fps in videos]
    states: dict[str, VideoState] = {}
    for done, (job, state) in enumerate(zip(jobs, look_at_all(check_video, jobs, workers), strict=True), start=1):
        states[job[0]] = state
        if progress is not None:
            progress(done, len(jobs))
    known = [name for name in task.counts if name != ALL]
    names = dict.fromkeys([*known, *(item.subtask for item in loaded.items)])
    rows = [
        _sum_up(name, task.counts.get(name), [item for item in loaded.items if item.subtask == name], states)
        for name in names
    ]
    broken = sorted((state for state in states.values() if state.message), key=lambda state: state.state == "missing")
    return TaskReport(
        task.name,
        task.official_count,
        len(loaded.items),
        len(states),
        tuple(rows),
        dict(loaded.hashes),
        tuple(f"{state.video}: {state.message}" for state in broken[:NUM_LISTED]),
        tuple(_differences(task, rows, states)),
    )


def _name(item: Item) -> str:
    """Name a video by its path; a missing one has none, and subtasks may share it."""
    return item.video_name if item.video is None else item.video


def _sum_up(name: str, expected: int | None, items: list[Item], states: dict[str, VideoState]) -> SubtaskReport:
    mine = {_name(item): states[_name(item)] for item in items}
    count = Counter(state.state for state in mine.values())
    clips = [(item.clip, mine[_name(item)]) for item in items if item.clip is not None]
    return SubtaskReport(
        name,
        expected,
        len(items),
        sum(mine[_name(item)].state == "found" for item in items),
        len(mine),
        count["found"],
        count["missing"],
        count["unreadable"],
        sum(state.is_damaged for state in mine.values()),
        sum(state.seconds is not None and clip[0] > state.seconds for clip, state in clips),
    )


def _differences(task: Task, rows: Iterable[SubtaskReport], states: dict[str, VideoState]) -> Iterator[str]:
    rows = list(rows)
    total = sum(row.num_items for row in rows)
    if total != task.official_count:
        hint = f"; that is {task.known_counts[total]}" if total in task.known_counts else ""
        yield f"{total} items, officially {task.official_count}{hint}"
    for row in rows:
        if row.expected is not None and len(rows) > 1 and row.num_items != row.expected:
            yield f"{row.name}: {row.num_items} items, officially {row.expected}"
    if task.num_videos is not None and len(states) != task.num_videos:
        yield f"{len(states)} videos are named, officially {task.num_videos}"
    for row in rows:
        if row.num_missing or row.num_unreadable:
            yield (
                f"{row.name}: {row.num_missing} videos missing and {row.num_unreadable} unreadable of {row.num_videos}"
            )
        if row.num_clips_outside:
            yield f"{row.name}: {row.num_clips_outside} clips begin after the end of their video"


def check_video(job: tuple[str, str | None, float | None]) -> VideoState:
    """Look at one video: (its name, its path or None, the rate of a folder of frames)."""
    name, path, fps = job
    if path is None:
        return VideoState(name, "missing", "no file of this name in the folders of videos")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", VideoWarning)
        try:
            index = index_video(path, fps=fps)
        except (VideoError, InputError) as error:
            return VideoState(name, "unreadable", str(error))
    damage = [str(warning.message) for warning in caught if issubclass(warning.category, VideoWarning)]
    return VideoState(name, "found", "; ".join(damage[:1]), bool(damage), index.end_seconds)
