"""Small videos of moving things, written with PyAV in many shapes.

Every frame carries its own number as bright and dark blocks along its upper edge, so that a test can tell which it got.
"""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

NUM_BITS = 8
PIXEL_FORMATS = {"gif": "rgb8", "png": "rgb24", "mjpeg": "yuvj420p", "prores_ks": "yuv422p10le", "qtrle": "rgb24"}


def frame_pixels(number: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Draw frame `number` (height, width, 3) uint8: its number in the upper quarter, a square that moves below."""
    pixels = np.full((height, width, 3), (40, 90, 60), np.uint8)
    edges = np.linspace(0, width, NUM_BITS + 1).astype(int)
    for bit in range(NUM_BITS):
        pixels[: height // 4, edges[bit] : edges[bit + 1]] = 235 if number >> bit & 1 else 20
    side = max(2, height // 5)
    left = (number * 3) % max(1, width - side)
    top = height // 2 + (number % 5)
    pixels[top : top + side, left : left + side] = (220, 160, 30)
    return pixels


def frame_number(pixels: np.ndarray) -> int:
    """Read the number of a frame back from its pixels, at any size."""
    height, width = pixels.shape[:2]
    edges = np.linspace(0, width, NUM_BITS + 1)
    row = pixels[: max(1, height // 5)].astype(float).mean(axis=(0, 2))
    centres = ((edges[:-1] + edges[1:]) / 2).astype(int)
    return sum(int(row[max(0, c - 1) : c + 2].mean() > 127) << bit for bit, c in enumerate(centres))


@contextlib.contextmanager
def _ordinary_scheduling() -> Iterator[None]:
    # SVT-AV1 makes the thread that encodes a real-time one for good (SCHED_FIFO, 99) where it may, as root; what comes
    # next leaves nothing of its core to others. Two test processes on two cores stood still so.
    if not hasattr(os, "sched_getscheduler"):  # not Linux
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@_ordinary_scheduling()
def write_video(
    target: Path | io.BytesIO,
    num_frames: int = 48,
    *,
    size: tuple[int, int] = (64, 96),
    fps: int = 24,
    codec: str = "libx264",
    gop_size: int = 12,
    b_frames: int = 0,
    pixel_format: str | None = None,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    flips: tuple[bool, bool] = (False, False),
    sample_aspect_ratio: Fraction | None = None,
    audio_first: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    format: str | None = None,
    frames: Sequence[np.ndarray] | None = None,
) -> Path | io.BytesIO:
    """Write a video.

    `times` are the presentation times of the frames in milliseconds (variable frame rate, or a start that is not 0);
    `gop_size` and `b_frames` are exact for libx264, which is told to cut no scenes; `rotation` is counterclockwise.
    """
    name = str(target) if isinstance(target, Path) else target
    with av.open(name, "w", format=format, container_options=container_options or {}) as container:
        sound = container.add_stream("aac", rate=8000, layout="mono") if audio_first else None
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = size
        stream.pix_fmt = pixel_format or PIXEL_FORMATS.get(codec, "yuv420p")
        context = stream.codec_context
        context.gop_size, context.max_b_frames = gop_size, b_frames
        if sample_aspect_ratio is not None:
            context.sample_aspect_ratio = sample_aspect_ratio
        if times is not None:
            context.time_base = Fraction(1, 1000)
        stream.options = {**_settings(codec, gop_size, b_frames), **(options or {})}
        if rotation or any(flips):
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("PyAV before 18 cannot write rotated videos")
            stream.set_display_rotation(rotation, *flips)
        for number in range(num_frames):
            pixels = frames[number] if frames is not None else frame_pixels(number, *size)
            frame = av.VideoFrame.from_ndarray(pixels, "rgba" if pixels.shape[-1] == 4 else "rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            if times is None:
                frame.pts, frame.time_base = number, Fraction(1, fps)
            else:
                frame.pts, frame.time_base = int(times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
            if sound is not None:
                container.mux(sound.encode(_silence(number)))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(None))
    return target


def _settings(codec: str, gop_size: int, b_frames: int) -> dict[str, str]:
    settings = {"g": str(gop_size), "bf": str(b_frames)}
    if codec == "libx264":
        settings |= {"preset": "veryfast", "sc_threshold": "0", "qp": "18", "b_strategy": "0"}
    elif codec in ("mpeg4", "mpeg2video", "mpeg1video", "wmv2", "flv", "msmpeg4v3"):
        settings |= {"qmin": "2", "qmax": "4", "sc_threshold": "1000000000"}
    elif codec == "libx265":
        settings |= {"preset": "ultrafast", "x265-params": f"keyint={gop_size}:bframes={b_frames}:log-level=none"}
    elif codec in ("libvpx", "libvpx-vp9"):
        settings |= {"deadline": "realtime", "cpu-used": "8", "b": "1M"}
    return settings


def _silence(number: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts, frame.time_base = 8000, number * 1024, Fraction(1, 8000)
    return frame


def remux(source: Path, target: Path, *, change=None, container_options: dict[str, str] | None = None) -> Path:
    """Copy the video packets of a file to another container; `change` alters, drops (False) or replaces them."""
    with av.open(str(source)) as inner, av.open(str(target), "w", container_options=container_options or {}) as outer:
        stream = inner.streams.video[0]
        copy = outer.add_stream_from_template(stream)
        for number, packet in enumerate(p for p in inner.demux(stream) if p.size):
            changed = change(number, packet) if change is not None else None
            if changed is False:
                continue
            packet = changed or packet
            packet.stream = copy
            outer.mux(packet)
    return target


def loop_video(source: Path, target: Path, seconds: float) -> Path:
    """Repeat the packets of a video until it lasts some seconds; nothing is encoded, so that hours take a moment."""
    with av.open(str(source)) as inner, av.open(str(target), "w") as outer:
        stream = inner.streams.video[0]
        packets = [packet for packet in inner.demux(stream) if packet.size]
        copy = outer.add_stream_from_template(stream)
        length = packets[-1].dts - packets[0].dts + packets[-1].duration
        for turn in range(max(1, round(seconds / float(length * stream.time_base)))):
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.stream, again.time_base, again.is_keyframe = copy, packet.time_base, packet.is_keyframe
                again.pts, again.dts = packet.pts + turn * length, packet.dts + turn * length
                again.duration = packet.duration
                outer.mux(again)
    return target


def write_sound(target: Path, cover: np.ndarray | None = None) -> Path:
    """Write a file with sound only, or with sound and a cover picture."""
    with av.open(str(target), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        picture = None
        if cover is not None:
            if not hasattr(av.stream, "Discard"):
                pytest.skip("PyAV before 18 cannot mark a cover picture")
            picture = container.add_stream("mjpeg", rate=1)
            picture.height, picture.width = cover.shape[:2]
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        if picture is not None:
            frame = av.VideoFrame.from_ndarray(cover, "rgb24").reformat(format="yuvj420p")
            container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        for number in range(8):
            container.mux(sound.encode(_silence(number)))
        container.mux(sound.encode(None))
    return target


def encode_picture(pixels: np.ndarray, codec: str = "png") -> bytes:
    """Encode pixels (H, W, 3 or 4) as a picture file."""
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt = "yuvj420p" if codec == "mjpeg" else "rgba" if pixels.shape[-1] == 4 else "rgb24"
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(pixels, "rgba" if pixels.shape[-1] == 4 else "rgb24")
    packets = context.encode(frame.reformat(format=context.pix_fmt)) + context.encode(None)
    return b"".join(bytes(packet) for packet in packets)
