"""Opening a video that may be hostile: self-contained containers only, limits checked before anything is decoded."""

import errno
import io
import math
import os
import re
import stat
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import av.stream

from ..errors import InputError, VideoError
from .boxes import TrackBoxes, read_tracks
from .extent import claimed_bytes
from .matroska import read_rotations
from .sps import sample_aspect_ratio

# FFmpeg goes by content, not by name: `x.mp4` may be a concat script that names other files. These formats cannot.
FORMATS = (
    "apng,asf,av1,avi,bmp_pipe,dv,flv,gif,h261,h263,h264,hevc,ivf,jpeg_pipe,m4v,matroska,mjpeg,mov,mp4,mpeg,mpegts,"
    "mpegvideo,mxf,nut,obu,ogg,png_pipe,rm,vc1,vvc,webm,webp_pipe,yuv4mpegpipe"
)
MAX_PIXELS = 2**25
"""Default limit on the pixels of a frame: 8192 x 4096, so 8K video passes."""
MAX_FRAMES = 5_000_000
"""Default limit on the frames of a video: 23 hours at 60 frames per second."""
_MAX_SECONDS = 1e9
"""What a tag may claim: 30 years; with more, the frames that are missing would be too many to count."""

PYAV = int(av.__version__.split(".")[0])
"""Major version of PyAV; what it lacks before 18 costs time only."""

# Reach only the decoders that probe: without them FFmpeg decodes up to 20 frames to guess the frame rate (10 against
# 1.4 ms for 720p H.264). Before 18, PyAV reads past its options where a format finds its streams late (MPEG-PS).
_PROBE_OPTIONS = {"skip_frame": "all", "skip_loop_filter": "all"} if PYAV >= 18 else {}
_ATTACHED_PICTURE, _DEFAULT = 0x400, 0x1  # bits of AVStream.disposition
_FORMAT_WITH_BOXES = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
_DISCARD_ALL = getattr(getattr(av.stream, "Discard", None), "all", None)  # from PyAV 18 on; before, PyAV filters
_PLAYLIST = re.compile(rb"\s*(#EXTM3U|ffconcat|<\?xml[^>]*>\s*<MPD|<MPD)")


@dataclass(frozen=True)
class Limits:
    """Hold what a video may claim before it is refused.

    Raises:
        InputError: where a limit is below 1 or no integer.
    """

    max_pixels: int = MAX_PIXELS
    max_frames: int = MAX_FRAMES

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
                raise InputError(f"{name} must be an integer of at least 1, got {value!r}")


@dataclass(frozen=True)
class Picture:
    """Hold the facts about a video stream that are known without decoding; sizes are upright with square pixels."""

    codec: str
    width: int
    height: int
    rotation: int
    sample_aspect_ratio: Fraction


class OpenVideo:
    """Hold an open container and its one video stream; a context manager that closes it."""

    def __init__(self, source: Path | bytes, container: Any, num_bytes: int, limits: Limits) -> None:
        self.source = source
        self.container = container
        self.name = display_name(source)
        self.num_bytes = num_bytes
        self.limits = limits
        self.stream = _video_stream(container, self.name)
        self.picture = Picture("", 0, 0, 0, Fraction(1))
        self.claimed_bytes = 0

    def rewind(self) -> None:
        """Stand before the first packet again, also where the container cannot seek: it is opened anew."""
        self.container.close()
        self.container = _open_container(self.source, self.name)
        self.stream = _video_stream(self.container, self.name)

    def __enter__(self) -> "OpenVideo":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.container.close()

    @property
    def format(self) -> str:
        """Give FFmpeg's name of the container."""
        return self.container.format.name

    @property
    def seconds_per_tick(self) -> Fraction:
        """Give the length of a tick of the stream's clock."""
        return self.stream.time_base

    @property
    def num_promised(self) -> int:
        """Give the number of packets in the container's own table, 0 where it has none of all packets.

        The table has edit lists applied, unlike the number of samples in the header.
        """
        complete = self.format in (_FORMAT_WITH_BOXES, "avi")
        return len(self.stream.index_entries) if complete and hasattr(self.stream, "index_entries") else 0

    @property
    def is_cut_off(self) -> bool:
        """Tell whether the header claims more bytes than there are; only AVI and Matroska claim any."""
        return self.claimed_bytes > self.num_bytes

    @property
    def track_seconds(self) -> float | None:
        """Give when the video track of a Matroska file ends, where its writer noted that; others may be longer."""
        hours, _, rest = str(self.stream.metadata.get("DURATION", "")).partition(":")
        minutes, _, seconds = rest.partition(":")
        try:
            found = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except (ValueError, OverflowError):  # a tag is any text
            return None
        return found if abs(found) < _MAX_SECONDS else None

    @property
    def duration_seconds(self) -> float | None:
        """Give the duration that the stream claims, or the container where the stream does not."""
        if self.stream.duration is not None:
            return float(self.stream.duration * self.stream.time_base)
        if self.container.duration is not None:
            return self.container.duration / 1_000_000
        return None


def display_name(source: str | Path | bytes) -> str:
    """Name a source in a message of one line."""
    if isinstance(source, bytes):
        return f"video of {len(source)} bytes"
    return "".join(char if char.isprintable() else "?" for char in str(source))


def open_video(source: Path | bytes, limits: Limits) -> OpenVideo:
    """Open a file or bytes and pick the video stream; nothing is decoded.

    Raises:
        VideoError: where it is missing, no regular file, no self-contained video, or larger than the limits allow.
    """
    name = display_name(source)
    num_bytes = len(source) if isinstance(source, bytes) else _check_file(source, name)
    if num_bytes == 0:
        raise VideoError(f"{name} is empty; give a video file")
    with _binary(source) as file:
        _refuse_playlist(file.read(256), name)
        tracks = read_tracks(file, name)
        rotations = read_rotations(file)
        claimed = claimed_bytes(file)
    for track in tracks:  # FFmpeg would allocate the whole table first
        # Sound may have more samples than the video has frames, whatever limit was given for these.
        if track.num_samples > (max(limits.max_frames, MAX_FRAMES) if track.is_sound else limits.max_frames):
            raise _too_many_frames(name, track.num_samples, limits)
    container = _open_container(source, name)
    try:
        opened = OpenVideo(source, container, num_bytes, limits)
        opened.picture = _describe(opened, tracks, rotations)
        opened.claimed_bytes = claimed
        _check_limits(opened)
    except BaseException:
        container.close()
        raise
    return opened


def _check_file(path: Path, name: str) -> int:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{name}: {reason[:1].lower()}{reason[1:]}; give an existing video file") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe or device might never end
        raise VideoError(f"{name} is not a regular file; give a video file")
    return status.st_size


def _binary(source: Path | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    try:
        return open(source, "rb")
    except OSError as error:
        raise VideoError(f"{display_name(source)} cannot be read: {error.strerror}; check its permissions") from error


def _refuse_playlist(head: bytes, name: str) -> None:
    if _PLAYLIST.match(head.removeprefix(b"\xef\xbb\xbf")):
        raise VideoError(
            f"{name} is a playlist that names other files, which are never followed; give the video itself"
        )


def _open_container(source: Path | bytes, name: str) -> Any:
    # "file:" and an absolute path keep names such as "concat:a|b" or "http://x" from being read as protocols.
    file = io.BytesIO(source) if isinstance(source, bytes) else f"file:{os.path.abspath(source)}"
    rules = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "fpsprobesize": "0"}
    try:
        return av.open(file, options=_PROBE_OPTIONS, container_options=rules, metadata_errors="replace")
    except (av.FFmpegError, OSError, MemoryError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EINVAL:  # a format that is not in the list
            raise VideoError(
                f"{name} is not a self-contained video (such as mp4, mkv, webm, avi, mov, ts); convert it to one"
            ) from error
        raise VideoError(f"{name} cannot be opened as a video: {reason(error)}; is it complete and a video?") from error


def reason(error: BaseException) -> str:
    """Name what FFmpeg said in a few words."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]


def _video_stream(container: Any, name: str) -> Any:
    streams = [stream for stream in container.streams.video if not _disposition(stream) & _ATTACHED_PICTURE]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        what = "only a cover picture" if container.streams.video else f"only {' and '.join(kinds)}"
        raise VideoError(f"{name} holds no video stream, {what}; give a file with video")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise VideoError(f"{name} holds video in a codec that this FFmpeg cannot decode; convert it to H.264")
    # Of several, the first that is marked as default: what ffprobe calls v:0 in all but odd files.
    chosen = next((stream for stream in decodable if _disposition(stream) & _DEFAULT), decodable[0])
    if _DISCARD_ALL is not None:
        for stream in container.streams:
            if stream is not chosen:
                stream.discard = _DISCARD_ALL
    return chosen


def _disposition(stream: Any) -> int:
    return int(getattr(stream.disposition, "value", stream.disposition))  # an IntFlag from PyAV 18 on, before a Flag


def _describe(opened: OpenVideo, tracks: list[TrackBoxes], rotations: list[int]) -> Picture:
    stream = opened.stream
    context = stream.codec_context
    rotation = 0
    if opened.format == _FORMAT_WITH_BOXES:
        rotation = next((track.rotation for track in tracks if track.track_id == stream.id), 0)
    elif opened.format == _MATROSKA:
        rank = [each.index for each in opened.container.streams.video].index(stream.index)
        rotation = rotations[rank] if rank < len(rotations) else 0
    ratio = stream.sample_aspect_ratio
    if not ratio or ratio <= 0:
        ratio = sample_aspect_ratio(context.extradata or b"") if context.name == "h264" else Fraction(1)
    width, height = max(1, round(context.width * ratio)), context.height
    if turns_sideways(rotation):
        width, height = height, width
    return Picture(context.codec.canonical_name, width, height, rotation, ratio)


def turns_sideways(rotation: int) -> bool:
    """Tell whether a rotation in degrees, rounded to quarter turns, swaps width and height."""
    return round(rotation / 90) % 2 == 1


def _check_limits(opened: OpenVideo) -> None:
    context, limits, picture = opened.stream.codec_context, opened.limits, opened.picture
    if context.width < 1 or context.height < 1:
        raise VideoError(f"{opened.name}: the size of its frames cannot be told; the file is damaged or holds no frame")
    for width, height in ((context.width, context.height), (picture.width, picture.height)):
        if width * height > limits.max_pixels:
            side = math.isqrt(limits.max_pixels)
            raise VideoError(
                f"{opened.name}: frames of {width} x {height} pixels are over the limit of {limits.max_pixels} "
                f"(about {side} x {side}); raise max_pixels if you trust the file"
            )
    if opened.stream.frames > limits.max_frames:
        raise _too_many_frames(opened.name, opened.stream.frames, limits)


def _too_many_frames(name: str, count: int, limits: Limits) -> VideoError:
    return VideoError(
        f"{name}: {count} frames are over the limit of {limits.max_frames}; raise max_frames if you trust the file"
    )
