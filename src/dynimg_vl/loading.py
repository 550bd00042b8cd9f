"""From a video file to composed DynImgs in one call, without torch: index, select, read and place (Section 3.1)."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .layout import DynImgLayout
from .video.container import MAX_FRAMES, MAX_PIXELS, Limits
from .video.decoding import FalseIFramesError
from .video.index import FrameIndex, Sampling, VideoLike, open_index
from .video.pixels import Size
from .video.reader import Reading, read_sizes
from .video.selection import (
    FrameGroup,
    check_request,
    choose_policy,
    iframes_suffice,
    sampling_seconds,
    select_frame_groups,
)

_FROM_IFRAMES = ("auto", "iframe")  # policies that a partial index can serve


@dataclass(frozen=True, eq=False)
class DynImgs:
    """Hold composed DynImgs and where their frames come from.

    `pixels` is (G, 3, S, S) uint8 RGB, or (G, 1 + N, 3, S, S) where frames were left apart; `groups` are the G frame
    groups, numbered within `index` (which may be partial). `policy` is the one that was followed. For `num_lost` of the
    distinct frames, others stand in.
    """

    pixels: np.ndarray
    groups: tuple[FrameGroup, ...]
    index: FrameIndex
    layout: DynImgLayout
    policy: str
    num_lost: int = 0

    @property
    def keyframe_seconds(self) -> tuple[float, ...]:
        """Give the presentation time of each keyframe."""
        return tuple(float(self.index.pts_seconds[group.keyframe]) for group in self.groups)

    def seconds(self, group: FrameGroup) -> tuple[float, ...]:
        """Give the presentation times of the frames of a group: the keyframe, then the prompt frames."""
        return tuple(self.index.pts_seconds[list(group.indices)].tolist())

    def describe(self) -> dict[str, Any]:
        """Tell which frames were chosen, when they are shown and by which policy, in values that JSON knows.

        `num_lost` counts chosen frames for which others stand in, `num_missing` those that the file promised and does
        not hold.
        """

        def frames(numbers: tuple[int, ...]) -> list[dict[str, Any]]:
            return [{"index": n, "seconds": round(float(self.index.pts_seconds[n]), 6)} for n in numbers]

        return {
            "policy": self.policy,
            "frames": [
                {"keyframe": frames((group.keyframe,))[0], "prompt_frames": frames(group.prompts)}
                for group in self.groups
            ],
            "num_lost": self.num_lost,
            "num_missing": self.index.num_lost,
        }


def load_dynimgs(
    video: VideoLike,
    *,
    layout: DynImgLayout | None = None,
    num_dynimgs: int = 4,
    policy: str = "auto",
    clip: tuple[float | None, float | None] | None = None,
    rng: np.random.Generator | None = None,
    fps: float | None = None,
    max_pixels: int = MAX_PIXELS,
    max_frames: int = MAX_FRAMES,
    compose: bool = True,
) -> DynImgs:
    """Turn a video into `num_dynimgs` composed DynImgs, decoding as little of it as that takes.

    Each frame is scaled straight to its tile: the keyframe above, the prompt frames in the strip below, the whole frame
    squeezed in. Of a long file only the I-frames that are used are looked up, so that the cost does not grow
    with its length. With `compose=False` the frames stay apart, each at the full size of a DynImg (Table 3, "After
    Encoder"). For the other arguments see `select_frame_groups` and `index_video`.

    Raises:
        InputError: where an argument does not fit, or the clip holds no frame.
        VideoError: where the video cannot be opened or nothing in it can be decoded.
    """
    layout = layout or DynImgLayout()
    sizes = [tile.size if compose else (layout.image_size, layout.image_size) for tile in layout.pixel_tiles]

    def wanted(index: FrameIndex, groups: list[FrameGroup]) -> dict[int, set[Size]]:
        frames: dict[int, set[Size]] = {}
        for group in groups:
            for number, size in zip(group.indices, sizes, strict=True):
                frames.setdefault(number, set()).add(size)
        return frames

    index, chosen, groups, reading = read_frame_groups(
        video, wanted, num_dynimgs, layout.num_prompt_frames, policy=policy, clip=clip, rng=rng, fps=fps,
        limits=Limits(max_pixels, max_frames),
    )  # fmt: skip
    side = layout.image_size
    pixels = np.empty((num_dynimgs, 3, side, side) if compose else (num_dynimgs, len(sizes), 3, side, side), np.uint8)
    for dynimg, group in zip(pixels, groups, strict=True):
        for rank, (number, tile) in enumerate(zip(group.indices, layout.pixel_tiles, strict=True)):
            place = (slice(None), *tile.slices) if compose else rank
            dynimg[place] = reading.pixels[number, sizes[rank]].transpose(2, 0, 1)
    return DynImgs(pixels, tuple(groups), index, layout, chosen, len(reading.stand_ins))


def read_frame_groups(
    video: VideoLike,
    wanted: Callable[[FrameIndex, list[FrameGroup]], Mapping[int, Collection[Size]]],
    num_dynimgs: int,
    num_prompt_frames: int,
    *,
    policy: str = "auto",
    clip: tuple[float | None, float | None] | None = None,
    rng: np.random.Generator | None = None,
    fps: float | None = None,
    limits: Limits | None = None,
) -> tuple[FrameIndex, str, list[FrameGroup], Reading]:
    """Index, select and read with one pass over as little of the video as that takes.

    `wanted` says which frames of the groups to read, and at which sizes. The other arguments are those of
    `load_dynimgs`, and so are the errors.

    Returns:
        The index (which may be partial), the policy that was followed, the frame groups and the frames.
    """
    counts = {"num_dynimgs": num_dynimgs, "num_prompt_frames": num_prompt_frames}
    check_request(**counts, policy=policy, clip=clip)

    def suffices(index: FrameIndex) -> bool:
        return iframes_suffice(index, **counts, clip=clip)

    def read(complete: bool) -> tuple[FrameIndex, str, list[FrameGroup], Reading]:
        sampling = Sampling(partial(sampling_seconds, **counts, rng=rng), suffices, *(clip or (None, None)))
        with open_index(video, fps=fps, complete=complete, sampling=sampling, limits=limits) as (index, packets):
            chosen = choose_policy(index, **counts, policy=policy, clip=clip)
            groups = select_frame_groups(index, **counts, policy=chosen, clip=clip, rng=rng)
            return index, chosen, groups, read_sizes(index, wanted(index, groups), packets)

    try:
        return read(complete=policy not in _FROM_IFRAMES)
    except FalseIFramesError:
        return read(complete=True)
