"""Exactly the frames that are asked for, upright, at the sizes at which they are wanted."""

import operator
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, VideoError, VideoWarning
from .container import MAX_FRAMES, MAX_PIXELS, Limits, display_name
from .decoding import FrameDecoder
from .index import FileFrames, FrameIndex, VideoLike, open_index
from .packets import PacketReader
from .pixels import FrameScaler, Size
from .stills import ArrayFrames, PictureFiles


@dataclass(frozen=True)
class Reading:
    """Hold frames as `pixels[frame number, size]` (height, width, 3) uint8, and what stands in for unreadable ones."""

    pixels: dict[tuple[int, Size], np.ndarray]
    stand_ins: dict[int, int]


def read_frames(
    video: VideoLike,
    indices: Iterable[int],
    *,
    size: Size | None = None,
    fps: float | None = None,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> np.ndarray:
    """Decode exactly the frames with these numbers, in the order asked; a number may repeat.

    Frame numbers count in presentation order within the index. Returns (n, height, width, 3) uint8 RGB, upright with
    square pixels, alpha over black; `size` = (height, width) scales inside the decoder's scaler, without cropping. For
    a frame that cannot be decoded, the nearest readable one stands in, and a `VideoWarning` says so.

    Raises:
        InputError: where a number is no integer or not in the video, or a size is not positive.
        VideoError: where the video cannot be opened or nothing can be decoded.
    """
    numbers = _frame_numbers(indices)
    if size is not None and min(size) < 1:
        raise InputError(f"size must be a positive (height, width), got {size}")
    with open_index(video, fps=fps, limits=Limits(max_pixels, max_frames)) as (index, packets):
        size = size or (index.height, index.width)
        reading = read_sizes(index, {number: {size} for number in numbers}, packets)
    frames = np.empty((len(numbers), *size, 3), np.uint8)
    for row, number in enumerate(numbers):
        frames[row] = reading.pixels[number, size]
    return frames


def _frame_numbers(indices: Iterable[int]) -> list[int]:
    try:
        given = list(indices)
        if not any(isinstance(number, bool) for number in given):
            return [operator.index(number) for number in given]
    except TypeError:
        pass
    raise InputError(f"indices must be frame numbers (integers), got {str(indices)[:80]!r}")


def read_sizes(
    index: FrameIndex, wanted: Mapping[int, Collection[Size]], packets: PacketReader | None = None
) -> Reading:
    """Decode frames, each once, and scale each straight to the sizes at which it is wanted.

    `packets` comes from `open_index`; without it the file of the index is opened.

    Raises:
        InputError: where a frame number is not in the index, or the index has no pixels.
        VideoError: where nothing can be decoded.
        FalseIFramesError: where a partial index took packets for I-frames that are none.
    """
    outside = [number for number in wanted if not 0 <= number < index.num_frames]
    if outside:
        raise InputError(f"frame {outside[0]} is not in the video; its {index.num_frames} frames count from 0")
    if isinstance(index.frames, ArrayFrames | PictureFiles):
        reading = _read_stills(index.frames, wanted)
    elif not isinstance(index.frames, FileFrames):
        raise InputError("this index has no pixels (FrameIndex.regular); give a video")
    elif packets is None:
        with open_index(index) as (_, opened):
            return read_sizes(index, wanted, opened)
    else:
        reading = _read_packets(packets, wanted)
    if reading.stand_ins:
        _warn(index, wanted, reading)
    return reading


def _read_packets(packets: PacketReader, wanted: Mapping[int, Collection[Size]]) -> Reading:
    scaler = FrameScaler(packets.opened.name)
    pixels: dict[tuple[int, Size], np.ndarray] = {}

    def deliver(number: int, frame: Any) -> None:
        for size in wanted[number]:
            pixels[number, size] = scaler.rgb(frame, size)

    decoder = FrameDecoder(packets)
    lost = decoder.decode(wanted, deliver)
    stand_ins: dict[int, int] = {}
    readable = sorted(set(wanted).difference(lost))
    for number in lost:
        found = decoder.nearest(number)
        if found is None and readable:
            found = decoder.nearest(min(readable, key=lambda other: abs(other - number)))
        if found is None:
            name = packets.opened.name
            raise VideoError(f"{name}: frame {number} and those around it cannot be decoded; the file is damaged")
        stand_ins[number] = found[0]
        deliver(number, found[1])
    return Reading(pixels, stand_ins)


def _read_stills(frames: ArrayFrames | PictureFiles, wanted: Mapping[int, Collection[Size]]) -> Reading:
    pixels: dict[tuple[int, Size], np.ndarray] = {}
    unread: dict[int, VideoError] = {}
    for number, sizes in wanted.items():
        ordered = list(sizes)
        try:
            scaled = frames.read(number, ordered)
        except VideoError as error:
            unread[number] = error
            continue
        pixels.update({(number, size): image for size, image in zip(ordered, scaled, strict=True)})
    stand_ins: dict[int, int] = {}
    for number, cause in unread.items():
        readable = [other for other in wanted if other not in unread]
        if not readable:
            raise cause
        stand_ins[number] = min(readable, key=lambda other: abs(other - number))
        ordered = list(wanted[number])
        scaled = frames.read(stand_ins[number], ordered)
        pixels.update({(number, size): image for size, image in zip(ordered, scaled, strict=True)})
    return Reading(pixels, stand_ins)


def _warn(index: FrameIndex, wanted: Mapping[int, Collection[Size]], reading: Reading) -> None:
    name = display_name(index.frames.source) if isinstance(index.frames, FileFrames) else "the folder of frames"
    first = min(reading.stand_ins)
    warnings.warn(
        f"{name}: {len(reading.stand_ins)} of the {len(wanted)} frames asked for cannot be decoded (the first at "
        f"{index.pts_seconds[first]:.2f} s); the nearest readable frames stand in",
        VideoWarning,
        stacklevel=4,
    )
