"""Which frames a video has, when they are shown and which are I-frames: packets are read, nothing is decoded."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from numbers import Real
from pathlib import Path
from typing import Union

import numpy as np

from ..errors import InputError, VideoError, VideoWarning
from .container import MAX_FRAMES, MAX_PIXELS, Limits, OpenVideo, Picture, display_name, open_video
from .packets import NO_TIME, PacketReader, PacketTable, iframes_near, scan, scan_range
from .stills import ArrayFrames, PictureFiles, check_frames, describe_picture, list_pictures

LONG_SECONDS = 120.0
"""From this length on a partial index may replace a complete one: a pass over all packets costs 3 ms a minute."""
LONG_BYTES = 64 * 2**20
"""The same as a file size, for short files of a high rate."""

MIN_FPS, MAX_FPS = 1e-3, 1e5
"""Bounds on a given frame rate: a frame every 17 minutes, and the fastest cameras; beyond, times lose their sense."""

_NUM_IFRAMES = 64  # in a partial index that nobody gave times for
_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts")  # and their durations are to be trusted

_GUESSED_RATE = 25  # of a stream that gives neither times nor a rate
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|https?:/")  # a Path has lost one of the slashes

VideoLike = Union[str, Path, bytes, np.ndarray, "FrameIndex"]


@dataclass(frozen=True)
class Sampling:
    """Say which I-frames a partial index of a long file shall hold.

    `seconds` maps the ends of the wanted stretch to the times at which I-frames are sought. Where `suffices` is not
    content with what was found, the index becomes complete. `start_seconds` and `end_seconds` bound the stretch; of a
    short one, all frames are indexed.
    """

    seconds: Callable[[float, float], Sequence[float]]
    suffices: "Callable[[FrameIndex], bool]"
    start_seconds: float | None = None
    end_seconds: float | None = None


def _evenly(start: float, end: float) -> list[float]:
    return [start + (end - start) * (rank + 0.5) / _NUM_IFRAMES for rank in range(_NUM_IFRAMES)]


_EVENLY = Sampling(_evenly, suffices=lambda index: index.num_frames >= 20)  # what 4 DynImgs of 1 + 4 frames take


@dataclass(frozen=True)
class FileFrames:
    """Hold where a video lies and the table of its packets."""

    source: Path | bytes
    limits: Limits
    table: PacketTable


@dataclass(frozen=True, eq=False)
class FrameIndex:
    """Hold the times and I-frame flags of F frames in presentation order, and the only handle on the video.

    `pts_seconds` (F,) float64 never falls; it is the clock of the file, as ffprobe prints it, and need not start at 0.
    `is_iframe` (F,) bool marks packets that the container flags as key. `width` and `height` are those of an upright
    picture with square pixels. `rotation` is in degrees counterclockwise, as ffprobe prints it. A partial index
    (`complete` is False) of a long file holds some of its I-frames only; frame numbers count within the index.
    """

    pts_seconds: np.ndarray
    is_iframe: np.ndarray
    codec: str
    width: int
    height: int
    rotation: int
    sample_aspect_ratio: Fraction
    duration_seconds: float
    complete: bool = True
    frames: FileFrames | ArrayFrames | PictureFiles | None = field(default=None, repr=False)
    span_seconds: tuple[float, float] | None = field(default=None, repr=False)

    @property
    def start_seconds(self) -> float:
        """Give the time at which the video starts, also where the index is partial."""
        return float(self.pts_seconds[0]) if self.span_seconds is None else self.span_seconds[0]

    @property
    def end_seconds(self) -> float:
        """Give the time at which the video ends; the last frame is shown for as long as frames are on average."""
        if self.span_seconds is not None:
            return self.span_seconds[1]
        first, last = float(self.pts_seconds[0]), float(self.pts_seconds[-1])
        return last + (last - first) / max(1, self.num_frames - 1)

    @property
    def num_frames(self) -> int:
        """Give the number of frames F."""
        return len(self.pts_seconds)

    @property
    def iframe_indices(self) -> np.ndarray:
        """Give the frame numbers of all I-frames in the index, rising."""
        return np.flatnonzero(self.is_iframe)

    @property
    def iframe_seconds(self) -> np.ndarray:
        """Give the presentation times of all I-frames in the index, in order."""
        return self.pts_seconds[self.is_iframe]

    @property
    def num_lost(self) -> int:
        """Give the number of frames that the file promises and does not hold."""
        return self.frames.table.lost if isinstance(self.frames, FileFrames) else 0

    @classmethod
    def from_file(
        cls,
        video: str | Path | bytes,
        *,
        complete: bool = True,
        max_pixels: int = MAX_PIXELS,
        max_frames: int = MAX_FRAMES,
    ) -> "FrameIndex":
        """Read the packets of a video file, or of its bytes.

        With `complete=False` a long file (from two minutes on) may give a partial index, at a cost that does not grow
        with its length: I-frames near 64 evenly spaced times, found by seeking.

        Raises:
            VideoError: where it cannot be opened, has no frames or is over a limit.
        """
        if isinstance(video, str | Path) and os.path.isdir(video):
            raise VideoError(f"{display_name(video)} is a folder; use FrameIndex.from_folder, which takes its fps")
        with open_index(video, complete=complete, limits=Limits(max_pixels, max_frames)) as (index, _):
            return index

    @classmethod
    def from_folder(
        cls, folder: str | Path, *, fps: float, max_pixels: int = MAX_PIXELS, max_frames: int = MAX_FRAMES
    ) -> "FrameIndex":
        """List a folder of pictures (jpg, png, bmp, webp) as a video; `frame2` comes before `frame10`.

        Raises:
            InputError: where `fps` is out of bounds.
            VideoError: where there is no such folder, or no readable picture in it.
        """
        check_fps(fps)
        files = list_pictures(Path(folder), Limits(max_pixels, max_frames))
        picture = describe_picture(files.paths[0], files.limits)
        return cls._evenly(len(files.paths), fps, 1, picture, files)

    @classmethod
    def from_array(cls, frames: np.ndarray, *, fps: float) -> "FrameIndex":
        """Take frames (F, H, W, 3) uint8 RGB as a video."""
        check_frames(frames)
        picture = Picture("array", frames.shape[2], frames.shape[1], 0, Fraction(1))
        return cls._evenly(len(frames), fps, 1, picture, ArrayFrames(frames))

    @classmethod
    def regular(cls, num_frames: int, *, fps: float, gop_size: int) -> "FrameIndex":
        """Make an index without pixels whose every `gop_size`-th frame is an I-frame; for tests and planning."""
        if num_frames < 1 or gop_size < 1:
            raise InputError(f"num_frames and gop_size must be at least 1, got {num_frames} and {gop_size}")
        return cls._evenly(num_frames, fps, gop_size, Picture("none", 1, 1, 0, Fraction(1)), None)

    @classmethod
    def _evenly(
        cls, count: int, fps: float, gop_size: int, picture: Picture, frames: ArrayFrames | PictureFiles | None
    ) -> "FrameIndex":
        fps = check_fps(fps)
        return cls(
            np.arange(count) / fps, np.arange(count) % gop_size == 0, **vars(picture),
            duration_seconds=count / fps, frames=frames,
        )  # fmt: skip


def check_fps(fps: float) -> float:
    """Refuse a frame rate that is no number from `MIN_FPS` to `MAX_FPS`, else give it as a float."""
    if isinstance(fps, bool) or not isinstance(fps, Real) or not MIN_FPS <= fps <= MAX_FPS:
        raise InputError(f"fps must be a number from {MIN_FPS:g} to {MAX_FPS:g}, got {fps!r}")
    return float(fps)


def index_video(
    video: VideoLike,
    *,
    fps: float | None = None,
    complete: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> FrameIndex:
    """Index a video given in any form: file or folder of frames by path, bytes, array, or an index, which is returned.

    `fps` is needed for folders and arrays and ignored for files, which carry their own times.

    Raises:
        InputError: where the form is unknown or `fps` is missing or out of bounds.
        VideoError: where the video cannot be opened, has no frames or is over a limit.
    """
    with open_index(video, fps=fps, complete=complete, limits=Limits(max_pixels, max_frames)) as (index, _):
        return index


@contextmanager
def open_index(
    video: VideoLike,
    *,
    fps: float | None = None,
    complete: bool = True,
    sampling: Sampling | None = None,
    limits: Limits | None = None,
) -> Iterator[tuple[FrameIndex, PacketReader | None]]:
    """Index a video and keep it open, so that its packets need not be read twice.

    Yields the index and the reader of its packets, None where there is no file to read packets from.
    """
    limits = limits or Limits()
    if fps is not None:
        check_fps(fps)
    still = _without_file(video, fps, limits)
    if still is not None and not isinstance(still.frames, FileFrames):
        yield still, None
        return
    if still is not None and isinstance(still.frames, FileFrames):
        with open_video(still.frames.source, still.frames.limits) as opened:
            yield still, _reader_of(still.frames.table, opened)
        return
    assert isinstance(video, str | Path | bytes)
    with open_video(video if isinstance(video, bytes) else Path(video), limits) as opened:
        # What is left of a file that was cut off shows only in a pass over all of it.
        whole = complete or opened.is_cut_off or not is_long(opened)
        found = None if whole else _sample(opened, sampling or _EVENLY)
        if found is None:
            table, kept = scan(opened)
            found = _file_index(opened, table), PacketReader(opened, table, kept)
        yield found


def is_long(opened: OpenVideo) -> bool:
    """Tell whether a file is so long that a pass over all of its packets is worth avoiding, and can be."""
    seconds = opened.duration_seconds
    if seconds is None or opened.format not in _SEEKABLE:
        return False
    return seconds >= LONG_SECONDS or (seconds >= LONG_SECONDS / 10 and opened.num_bytes >= LONG_BYTES)


def _sample(opened: OpenVideo, sampling: Sampling) -> tuple[FrameIndex, PacketReader] | None:
    """Make a partial index: all frames of a stretch where that is short, else I-frames at chosen times."""
    first = float((opened.stream.start_time or 0) * opened.seconds_per_tick)
    last = first + (opened.duration_seconds or 0.0)
    start = first if sampling.start_seconds is None else max(first, sampling.start_seconds)
    end = last if sampling.end_seconds is None else min(last, sampling.end_seconds)
    if start < end:
        is_stretch = end - start < LONG_SECONDS
        sought = (start, end) if is_stretch else sampling.seconds(start, end)
        table, kept = (scan_range if is_stretch else iframes_near)(opened, sought)
        if len(table.position):
            index = _file_index(opened, table, (first, last))
            if is_stretch or sampling.suffices(index):
                return index, PacketReader(opened, table, kept)
    opened.rewind()  # too few I-frames: other frames must serve, and for that they must be known
    return None


def _file_index(opened: OpenVideo, table: PacketTable, span: tuple[float, float] | None = None) -> FrameIndex:
    pts = table.pts[table.position]
    if table.by_order:
        pts = np.sort(table.dts[table.position])
    base = opened.seconds_per_tick
    seconds = pts * base.numerator / base.denominator
    if table.by_order and pts[0] == NO_TIME:
        seconds = np.arange(len(pts)) / float(opened.stream.average_rate or opened.stream.base_rate or _GUESSED_RATE)
    duration = opened.duration_seconds
    if duration is None:
        step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
        duration = float(seconds[-1] - seconds[0]) + step
    duration = max(duration, float(seconds[-1] - seconds[0]))  # FFmpeg guesses it from the bytes of a file cut off
    if span is None:
        table = replace(table, lost=max(table.lost, _num_missing(opened, seconds)))
    if table.lost:
        total = table.lost + len(table.pts)
        warnings.warn(
            f"{opened.name}: {table.lost} of {total} frames are missing ({table.lost / total:.1%}), the file is "
            f"damaged or cut off; going on with the rest",
            VideoWarning,
            stacklevel=5,
        )
    frames = FileFrames(opened.source, opened.limits, table)
    return FrameIndex(
        seconds, table.is_key[table.position], **vars(opened.picture),
        duration_seconds=duration, complete=span is None, frames=frames, span_seconds=span,
    )  # fmt: skip


def _num_missing(opened: OpenVideo, seconds: np.ndarray) -> int:
    """Estimate how many frames a file without a table of all packets lacks at its end, from what its header claims."""
    claimed = opened.track_seconds
    if claimed is None and opened.is_cut_off:
        claimed = opened.duration_seconds
        if opened.format == "avi":  # whose duration is guessed from the bytes; the header counts ticks, gaps included
            claimed = float(opened.stream.frames * opened.seconds_per_tick)
    if claimed is None or len(seconds) < 2:
        lacking = max(0, opened.claimed_bytes - opened.num_bytes)
        return round(len(seconds) * lacking / opened.num_bytes)
    step = float(seconds[-1] - seconds[0]) / (len(seconds) - 1)
    if step <= 0:
        return 0  # all at the same time: nothing to count by
    missing = claimed - float(seconds[-1]) - step
    if opened.is_cut_off:  # no doubt that there is a loss
        return max(0, round(missing / step))
    return round(missing / step) if missing > max(1.0, 0.1 * claimed, 5 * step) else 0


def _reader_of(table: PacketTable, opened: OpenVideo) -> PacketReader:
    """Read the packets of a known table again: all at once from a short file, by seeking in a long one."""
    if is_long(opened):
        return PacketReader(opened, table, None)
    again, kept = scan(opened)
    if not np.array_equal(again.pts, table.pts):
        raise VideoError(f"{opened.name} has changed since it was indexed; index it again")
    return PacketReader(opened, table, kept)


def _without_file(video: VideoLike, fps: float | None, limits: Limits) -> FrameIndex | None:
    if isinstance(video, FrameIndex):
        return video
    if isinstance(video, np.ndarray):
        return FrameIndex.from_array(video, fps=_required(fps, "an array of frames"))
    if isinstance(video, str | Path):
        if _ADDRESS.match(str(video)) and not os.path.exists(video):
            raise VideoError(
                f"{display_name(video)} is an address, and addresses are not opened; download the video, give its file"
            )
        if os.path.isdir(video):
            return FrameIndex.from_folder(
                video,
                fps=_required(fps, f"the folder {display_name(video)}"),
                max_pixels=limits.max_pixels,
                max_frames=limits.max_frames,
            )
    elif not isinstance(video, bytes):
        raise InputError(f"a video is a path, bytes, an array or a FrameIndex, got {type(video).__name__}")
    return None


def _required(fps: float | None, what: str) -> float:
    if fps is None:
        raise InputError(f"{what} does not say how fast its frames follow; give fps")
    return fps
