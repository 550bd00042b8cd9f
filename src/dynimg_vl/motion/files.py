"""Clips of the motion world as real video files, so that what is evaluated is the shipped chain."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from ..errors import InputError, VideoError
from ..video import FrameIndex, read_frames
from .render import render
from .textures import PictureBank
from .world import Scenes


@dataclass(frozen=True)
class Codec:
    """Hold how to write one kind of file: the encoder's name, the file suffix, its options at web quality."""

    encoder: str
    suffix: str
    options: dict[str, str]


CODECS = {
    "h264": Codec("libx264", ".mp4", {"crf": "28", "preset": "veryfast"}),
    "vp9": Codec("libvpx-vp9", ".webm", {"crf": "36", "b": "0", "deadline": "realtime", "cpu-used": "8"}),
    "mpeg4": Codec("mpeg4", ".avi", {"b": "400k", "g": "12"}),
}
"""x264 at its web default and VP9 with an I-frame at the start only (short clips), MPEG-4 with one every 12 frames."""


def write_clip(path: Path, frames: Iterable[np.ndarray], fps: float = 15.0, codec: str = "h264") -> None:
    """Write frames, each (H, W, 3) uint8 RGB of even size, as a video file.

    Raises:
        InputError: where the codec is unknown or this PyAV cannot encode it.
    """
    if codec not in CODECS:
        raise InputError(f"unknown codec {codec}; known: {', '.join(CODECS)}")
    kind = CODECS[codec]
    rate = Fraction(fps).limit_denominator(1000)
    # The table of an mp4 goes to its head, so that a file that was cut off can still be read up to there.
    options = {"movflags": "+faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        try:
            stream: Any = container.add_stream(kind.encoder, rate=rate, options=kind.options)
        except av.codec.codec.UnknownCodecError as error:
            raise InputError(f"this PyAV was built without the encoder {kind.encoder}") from error
        stream.pix_fmt = "yuv420p"
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            frame.time_base = 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def clip_frames(
    scene: Scenes, bank: PictureBank, num_frames: int = 45, size: tuple[int, int] = (240, 320), seed: int = 0
) -> Iterator[np.ndarray]:
    """Render one scene (B = 1) as frames (H, W, 3) uint8, from one keyframe gap before its keyframe to one after."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.linspace(-1, 1, num_frames)
    for part in times.split(8):
        drawn = render(scene, bank, part[None], size, generator)[0]
        yield from drawn.permute(0, 2, 3, 1).mul(255).round().to(torch.uint8).numpy()


def read_pictures(folder: Path, per_video: int = 12) -> list[np.ndarray]:
    """Take frames, each (H, W, 3) uint8, spread over each video of a folder, as backgrounds.

    Raises:
        InputError: where no file of the folder can be read; those that cannot are left out.
    """
    pictures: list[np.ndarray] = []
    for path in sorted(folder.iterdir()):
        try:
            index = FrameIndex.from_file(path)
            numbers = np.linspace(0, index.num_frames - 1, min(per_video, index.num_frames)).astype(int)
            pictures += list(read_frames(index, sorted(set(numbers.tolist()))))
        except VideoError:
            continue
    if not pictures:
        raise InputError(f"{folder}: no video in it can be read")
    return pictures
