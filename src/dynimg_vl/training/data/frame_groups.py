"""Frame groups before composition, for training: frames keep their shape, so that a crop is drawn from the whole scene.

Shapes: G DynImgs, N prompt frames, C candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ...errors import InputError
from ...loading import read_frame_groups
from ...video import FrameIndex, read_sizes, select_frame_groups
from ...video.container import MAX_FRAMES, MAX_PIXELS, Limits
from ...video.index import open_index
from ...video.pixels import Size
from ...video.selection import FrameGroup, SelectionPlan, plan_selection
from .annotations import Clip

SHORT_SIDE = 384
"""Default cap on the shorter side in pixels: a crop of half the area still has 271, next to the 252 rows it fills."""


@dataclass(frozen=True)
class FrameRequest:
    """Say how many frames of a clip are wanted, from which candidates, and how large.

    Args:
        num_dynimgs: G, frame groups per clip.
        num_prompt_frames: N, prompt frames per group.
        policy: which frames are candidates, see `select_frame_groups`.
        short_side: frames whose shorter side has more pixels are scaled down to this.
        max_pixels: the largest frame to accept.
        max_frames: the largest number of frames to accept.
    """

    num_dynimgs: int = 4
    num_prompt_frames: int = 4
    policy: str = "auto"
    short_side: int = SHORT_SIDE
    max_pixels: int = MAX_PIXELS
    max_frames: int = MAX_FRAMES

    @property
    def counts(self) -> dict[str, int]:
        """Give the two numbers as selection takes them."""
        return {"num_dynimgs": self.num_dynimgs, "num_prompt_frames": self.num_prompt_frames}

    @property
    def limits(self) -> Limits:
        """Give the limits as the reader takes them."""
        return Limits(self.max_pixels, self.max_frames)


def load_frame_groups(
    clip: Clip, request: FrameRequest, rng: np.random.Generator | None = None, fps: float | None = None
) -> np.ndarray:
    """Select and decode the frame groups of a clip, in training at random (Section 3.1).

    As `load_dynimgs`, of a long file only the I-frames that are used are looked up.

    Returns:
        (G, 1 + N, H, W, 3) uint8, keyframes first.

    Raises:
        InputError: where the clip holds no frame; `VideoError` where the file cannot be opened or decoded.
    """

    def wanted(index: FrameIndex, groups: list[FrameGroup]) -> dict[int, set[Size]]:
        size = capped_size(index.height, index.width, request.short_side)
        return {number: {size} for group in groups for number in group.indices}

    _, _, groups, reading = read_frame_groups(
        clip.path, wanted, **request.counts, policy=request.policy, clip=clip.bounds, rng=rng, fps=fps,
        limits=request.limits,
    )  # fmt: skip
    return stack_groups(groups, {number: pixels for (number, _), pixels in reading.pixels.items()})


def stack_groups(groups: Sequence[FrameGroup], frames: dict[int, np.ndarray]) -> np.ndarray:
    """Stack frames by their numbers into (G, 1 + N, H, W, 3)."""
    stacked = np.stack([frames[number] for group in groups for number in group.indices])
    return stacked.reshape(len(groups), -1, *stacked.shape[1:])


@dataclass(frozen=True, eq=False)
class Candidates:
    """Hold the frames that selection may choose from in a clip: times (C,) and pixels (C, H, W, 3) uint8.

    `span_seconds` are the ends of the clip, whose equal segments the keyframes belong to.
    """

    pts_seconds: np.ndarray
    pixels: np.ndarray
    span_seconds: tuple[float, float]


def load_candidates(clip: Clip, request: FrameRequest, per_gap: int, fps: float | None = None) -> Candidates:
    """Decode the keyframes of a clip and, in every gap between them, up to `per_gap` candidates for prompt frames.

    Selection from these, all taken for I-frames, gives the same keyframes as from the file, and prompt frames from the
    same candidates, evenly thinned where there are more of them.

    Raises:
        InputError: where the clip holds no frame; `VideoError` where the file cannot be opened or decoded.
    """
    with open_index(clip.path, fps=fps, limits=request.limits) as (index, packets):
        plan = plan_selection(index, request.num_dynimgs, request.num_prompt_frames, request.policy, clip.bounds)
        numbers = candidate_frames(plan, request, per_gap)
        size = capped_size(index.height, index.width, request.short_side)
        reading = read_sizes(index, {number: {size} for number in numbers}, packets)
    pixels = np.stack([reading.pixels[number, size] for number in numbers])
    return Candidates(index.pts_seconds[numbers], pixels, plan.span_seconds)


def candidate_frames(plan: SelectionPlan, request: FrameRequest, per_gap: int) -> list[int]:
    """List the keyframes and up to `per_gap` candidates in each gap between them, rising.

    Raises:
        InputError: where `per_gap` is less than the prompt frames of one side.
    """
    side = request.num_prompt_frames - request.num_prompt_frames // 2
    if per_gap < side:
        raise InputError(f"a gap needs at least {side} candidates for {request.num_prompt_frames} prompt frames")
    chosen = set(plan.keyframes)
    if request.num_prompt_frames:
        for left, right in pairwise(plan.bounds):
            pool = plan.candidates[(plan.candidates > left) & (plan.candidates < right)]
            if len(pool) < side:  # selection then takes any frame of the gap
                pool = np.arange(left + 1, right)
            if len(pool) > per_gap:
                pool = pool[((np.arange(per_gap) * 2 + 1) * len(pool)) // (2 * per_gap)]
            chosen.update(pool.tolist())
    return sorted(int(number) for number in chosen)


def select_candidates(
    pts_seconds: np.ndarray, span_seconds: tuple[float, float], request: FrameRequest, rng: np.random.Generator | None
) -> list[FrameGroup]:
    """Choose frame groups among stored candidates; the frame numbers count within these."""
    index = FrameIndex.regular(len(pts_seconds), fps=1.0, gop_size=1)
    stored = FrameIndex(
        pts_seconds, index.is_iframe, index.codec, index.width, index.height, index.rotation,
        index.sample_aspect_ratio, span_seconds[1] - span_seconds[0], span_seconds=span_seconds,
    )  # fmt: skip
    return select_frame_groups(stored, request.num_dynimgs, request.num_prompt_frames, policy="iframe", rng=rng)


def capped_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Give the size to which a frame is scaled so that its shorter side has at most `short_side` pixels."""
    scale = min(1.0, short_side / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
