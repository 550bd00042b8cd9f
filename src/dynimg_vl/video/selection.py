"""Which frames become keyframes and which their prompt frames (Section 3.1; docs/design.md, 4 and 5).

Four equal segments of a clip, a keyframe K near the middle of each, and two prompt frames (N = 4) on either side of it,
between it and the neighbouring keyframe or the end of the clip. Neighbours share the prompt frames between them::

    candidates   |  .  .  .  .  .  .  |  .  .  .  .  .  .  |  .  .  .  .  .  .  |  .  .  .  .  .  .  |
    selection       1  2     K     12    12    K     12    12    K     12    12    K     1     2
"""

from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral, Real

import numpy as np

from ..errors import InputError
from .index import FrameIndex

POLICIES = ("auto", "iframe", "gop12", "gop_head")
"""Where candidates come from: the container's I-frames, every 12th frame, or the first frames of every GOP."""

# Bounds memory, at 350 MB of pixels, and is beyond the context of the language models: 147 456 tokens at 144 each.
MAX_DYNIMGS = 1024
MAX_PROMPT_FRAMES = 1024  # beyond any layout: tiles would be thinner than a pixel

_GOP_SIZE = 12  # the GOP of the MPEG-4 reference encoder, and of ffmpeg
_DEPTHS = (
    0,
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
)  # how far into a GOP keyframes are looked for, in steps


@dataclass(frozen=True)
class FrameGroup:
    """Hold the frame numbers of one DynImg: a keyframe and its prompt frames before and after it, in time order."""

    keyframe: int
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def prompts(self) -> tuple[int, ...]:
        """Give the prompt frames in time order."""
        return self.before + self.after

    @property
    def indices(self) -> tuple[int, ...]:
        """Give all frames in the order in which they are stacked: the keyframe, then the prompt frames."""
        return (self.keyframe, *self.prompts)


def select_frame_groups(
    index: FrameIndex,
    num_dynimgs: int = 4,
    num_prompt_frames: int = 4,
    policy: str = "auto",
    clip: tuple[float | None, float | None] | None = None,
    rng: np.random.Generator | None = None,
) -> list[FrameGroup]:
    """Choose one keyframe and its prompt frames for each DynImg (Section 3.1).

    Keyframes are the candidates nearest to the mid-points of `num_dynimgs` equal segments, each used once. Half of the
    prompt frames lie between a keyframe and the one before it (or the start of the clip), half between it and the next;
    a single one lies after it. Without `rng` they are spaced evenly; with it (training) they are drawn at random
    without replacement. A gap with too few candidates gives any of its frames, one with too few frames repeats the
    nearest, and a clip with fewer frames than DynImgs repeats keyframes: the number of groups is always the one asked
    for. `clip` = (start, end) bounds the frames in seconds of `pts_seconds`, ends included.

    Raises:
        InputError: where a count or policy is unknown, or the clip holds no frame.
    """
    plan = plan_selection(index, num_dynimgs, num_prompt_frames, policy, clip)
    num_before = num_prompt_frames // 2
    return [
        FrameGroup(
            keyframe,
            _prompts(plan.candidates, plan.bounds[rank], keyframe, num_before, keyframe, rng),
            _prompts(plan.candidates, keyframe, plan.bounds[rank + 2], num_prompt_frames - num_before, keyframe, rng),
        )
        for rank, keyframe in enumerate(plan.keyframes)
    ]


@dataclass(frozen=True, eq=False)
class SelectionPlan:
    """Hold what is settled before prompt frames are chosen.

    `policy` is the one that is followed, `candidates` (C,) its rising frame numbers, `keyframes` those chosen of them.
    The prompt frames of keyframe i lie strictly between `bounds[i]`, `bounds[i + 1]` (itself) and `bounds[i + 2]`.
    `span_seconds` are the ends of the clip.
    """

    policy: str
    candidates: np.ndarray
    keyframes: list[int]
    bounds: list[int]
    span_seconds: tuple[float, float]


def plan_selection(
    index: FrameIndex,
    num_dynimgs: int = 4,
    num_prompt_frames: int = 4,
    policy: str = "auto",
    clip: tuple[float | None, float | None] | None = None,
) -> SelectionPlan:
    """Settle candidates and keyframes as `select_frame_groups` does; the arguments are the same.

    Raises:
        InputError: where a count or policy is unknown, or the clip holds no frame.
    """
    check_request(num_dynimgs, num_prompt_frames, policy, clip)
    scene = _scene(index, num_dynimgs, num_prompt_frames, clip)
    followed, candidates, keyframes = _plan(scene, policy)
    bounds = [scene.first - 1, *keyframes, scene.stop]
    return SelectionPlan(
        followed, candidates, keyframes, bounds, (float(scene.start_seconds), float(scene.end_seconds))
    )


def choose_policy(
    index: FrameIndex,
    num_dynimgs: int = 4,
    num_prompt_frames: int = 4,
    policy: str = "auto",
    clip: tuple[float | None, float | None] | None = None,
) -> str:
    """Tell which policy `select_frame_groups` follows: `auto` becomes "iframe", "gop_head" or "gop12".

    The container's I-frames serve where every gap between keyframes has enough of them. Otherwise, with two I-frames or
    more, the heads of the GOPs cost least to decode: I-frames and those 12, 24, .. frames after them, as few as it
    takes. Else every 12th frame serves, as a re-encode to MPEG-4 would give. Short clips take finer steps.
    """
    return plan_selection(index, num_dynimgs, num_prompt_frames, policy, clip).policy


def iframes_suffice(
    index: FrameIndex,
    num_dynimgs: int = 4,
    num_prompt_frames: int = 4,
    clip: tuple[float | None, float | None] | None = None,
) -> bool:
    """Tell whether `auto` chooses among the I-frames of an index that may know no other frames, as of a long file."""
    try:
        return choose_policy(index, num_dynimgs, num_prompt_frames, "auto", clip) == "iframe"
    except InputError:
        return False  # none lies in the clip; other frames may


def check_request(
    num_dynimgs: int, num_prompt_frames: int, policy: str, clip: tuple[float | None, float | None] | None
) -> None:
    """Refuse what no video could serve: counts out of bounds, an unknown policy, an empty clip."""
    if policy not in POLICIES:
        raise InputError(f"unknown policy {policy!r}; these exist: {', '.join(POLICIES)}")
    for count in (num_dynimgs, num_prompt_frames):
        if isinstance(count, bool) or not isinstance(count, Integral):
            raise InputError(
                f"num_dynimgs and num_prompt_frames must be integers, got {num_dynimgs!r} and {num_prompt_frames!r}"
            )
    if not 1 <= num_dynimgs <= MAX_DYNIMGS or not 0 <= num_prompt_frames <= MAX_PROMPT_FRAMES:
        raise InputError(
            f"num_dynimgs must be at least 1 and at most {MAX_DYNIMGS}, num_prompt_frames at least 0 and at most "
            f"{MAX_PROMPT_FRAMES}, got {num_dynimgs} and {num_prompt_frames}"
        )
    if clip is not None and not (isinstance(clip, tuple | list) and len(clip) == 2):
        raise InputError(f"a clip is two bounds in seconds, (start, end), got {clip!r}")
    start, end = clip or (None, None)
    for value in (start, end):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value))
        ):
            raise InputError(f"a clip is bounded by seconds, got {value}")
    if start is not None and end is not None and start >= end:
        raise InputError(f"the clip from {start:g} s to {end:g} s is empty; its end must be later than its start")


def sampling_seconds(
    start: float, end: float, num_dynimgs: int, num_prompt_frames: int, rng: np.random.Generator | None = None
) -> list[float]:
    """Give the times at which `select_frame_groups` would like its I-frames in a stretch of a long video.

    A partial index of the I-frames there (14 times by default) leads to the same choice as a complete one, up to the
    distance between I-frames. With `rng` the prompt frames lie at random within equal parts of their gaps.
    """
    middles = [start + (end - start) * (rank + 0.5) / num_dynimgs for rank in range(num_dynimgs)]
    ends = [start, *middles, end]
    counts = [max(num_prompt_frames // 2, num_prompt_frames - num_prompt_frames // 2)] * (num_dynimgs + 1)
    counts[0] = num_prompt_frames // 2
    times = list(middles)
    for left, right, count in zip(ends, ends[1:], counts, strict=False):
        for rank in range(count):
            place = rank + (0.5 if rng is None else float(rng.random()))
            times.append(left + (right - left) * place / count)
    return sorted(times)


@dataclass(frozen=True)
class _Scene:
    """Hold what selection works on: an index, the frames `first` to `stop` (exclusive) of a clip, and the counts."""

    index: FrameIndex
    first: int
    stop: int
    start_seconds: float
    end_seconds: float
    num_dynimgs: int
    num_before: int
    num_after: int


def _scene(
    index: FrameIndex, num_dynimgs: int, num_prompt_frames: int, clip: tuple[float | None, float | None] | None
) -> _Scene:
    pts = index.pts_seconds
    start, end = clip or (None, None)
    first = 0 if start is None else int(np.searchsorted(pts, start, side="left"))
    stop = len(pts) if end is None else int(np.searchsorted(pts, end, side="right"))
    if first >= stop:
        runs = index.span_seconds or (pts[0], pts[-1])  # of a long file, `pts` may hold the surroundings alone
        raise InputError(
            f"no frame lies in the clip from {_seconds(start, 'the start')} to {_seconds(end, 'the end')}; "
            f"the video runs from {runs[0]:.2f} s to {runs[1]:.2f} s"
        )
    start = index.start_seconds if start is None else max(start, index.start_seconds)
    end = index.end_seconds if end is None else min(end, index.end_seconds)
    before = num_prompt_frames // 2
    return _Scene(index, first, stop, start, end, num_dynimgs, before, num_prompt_frames - before)


def _seconds(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:g} s"


def _plan(scene: _Scene, policy: str) -> tuple[str, np.ndarray, list[int]]:
    """Give the policy that is followed, its candidates (C,), rising frame numbers, and the keyframes among them."""
    iframes = np.flatnonzero(scene.index.is_iframe[scene.first : scene.stop]) + scene.first
    if policy in ("auto", "iframe"):
        keyframes = _keyframes(scene, iframes)
        if policy == "iframe" or _suffices(scene, iframes, keyframes):
            return "iframe", iframes, keyframes
    if policy == "gop_head" or (policy == "auto" and len(iframes) > 1):
        plan = _gop_heads(scene, np.union1d(scene.first, iframes))
        if plan is not None:
            return ("gop_head", *plan)
    for step in range(_GOP_SIZE, 0, -1):
        grid = np.arange(scene.first, scene.stop, step)
        keyframes = _keyframes(scene, grid)
        if _suffices(scene, grid, keyframes):
            break
    return "gop12", grid, keyframes


def _gop_heads(scene: _Scene, starts: np.ndarray) -> tuple[np.ndarray, list[int]] | None:
    """Choose candidates as near to the starts of their GOPs (G,) as will do; None where the clip is too short for it.

    A frame costs what lies between it and its I-frame, so that depth is what is saved: first for the keyframes, each
    within its segment, then in every gap for itself. No moment is further from a candidate than half a segment.
    """
    ends = np.append(starts[1:], scene.stop)
    pts = scene.index.pts_seconds
    segment = (scene.end_seconds - scene.start_seconds) / scene.num_dynimgs
    covered = np.append(pts[starts[1:]] - segment, scene.end_seconds - segment / 2)
    for step in (_GOP_SIZE, 6, 4, 3, 2, 1):
        lengths = -(-(ends - starts) // step)
        gop = np.repeat(np.arange(len(starts)), lengths)
        depth = np.arange(len(gop)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        grid = starts[gop] + depth * step
        depth[pts[grid] <= covered[gop]] = 0
        for limit in sorted({*_DEPTHS[: int(np.searchsorted(_DEPTHS, depth.max()))], int(depth.max())}):
            pool = grid[depth <= limit]
            keyframes = _keyframes(scene, pool)
            if _suffices(scene, grid, keyframes):
                return _thin(scene, grid, depth, keyframes), keyframes
    return None


def _thin(scene: _Scene, grid: np.ndarray, depth: np.ndarray, keyframes: list[int]) -> np.ndarray:
    """Keep the keyframes and in each gap the candidates of the least depth, as many as there are prompt frames."""
    kept = [np.asarray(keyframes)]
    bounds = [scene.first - 1, *keyframes, scene.stop]
    for gap, (left, right) in enumerate(pairwise(bounds)):
        inside = slice(*np.searchsorted(grid, (left + 1, right)))
        count = _num_wanted(scene, gap)
        if count:
            limit = np.partition(depth[inside], count - 1)[count - 1]
            kept.append(grid[inside][depth[inside] <= limit])
    return np.unique(np.concatenate(kept))


def _num_wanted(scene: _Scene, gap: int) -> int:
    """Give the number of prompt frames that a gap between keyframes must hold for either of its neighbours."""
    if gap == 0:
        return scene.num_before
    return scene.num_after if gap == scene.num_dynimgs else max(scene.num_before, scene.num_after)


def _suffices(scene: _Scene, candidates: np.ndarray, keyframes: list[int]) -> bool:
    """Tell whether every keyframe lies in its own segment and every gap between them has candidates enough."""
    if len(candidates) < scene.num_dynimgs:
        return False
    segment = (scene.end_seconds - scene.start_seconds) / scene.num_dynimgs
    middles = scene.start_seconds + segment * (np.arange(scene.num_dynimgs) + 0.5)
    if (np.abs(scene.index.pts_seconds[keyframes] - middles) > segment / 2).any():
        return False
    ranks = np.searchsorted(candidates, keyframes)
    gaps = np.diff(np.concatenate(([-1], ranks, [len(candidates)]))) - 1
    return all(have >= _num_wanted(scene, gap) for gap, have in enumerate(gaps.tolist()))


def _keyframes(scene: _Scene, candidates: np.ndarray) -> list[int]:
    """Choose the candidate nearest to the middle of each segment such that the choices rise strictly."""
    count = scene.num_dynimgs
    if len(candidates) < count:
        candidates = np.arange(scene.first, scene.stop)
    times = scene.index.pts_seconds[candidates]
    length = scene.end_seconds - scene.start_seconds
    chosen: list[int] = []
    lowest = 0
    for rank in range(count):
        middle = scene.start_seconds + length * (rank + 0.5) / count
        if len(candidates) >= count:
            window = slice(lowest, len(candidates) - (count - 1 - rank))  # leaves one for each that follows
            best = lowest + int(np.argmin(np.abs(times[window] - middle)))
            lowest = best + 1
        else:  # fewer frames than DynImgs: a frame must serve several
            best = int(np.argmin(np.abs(times - middle)))
        chosen.append(int(candidates[best]))
    return chosen


def _prompts(
    candidates: np.ndarray, left: int, right: int, count: int, keyframe: int, rng: np.random.Generator | None
) -> tuple[int, ...]:
    """Choose frames strictly between two frame numbers, in time order; those nearest to the keyframe repeat."""
    if count == 0:
        return ()
    pool = candidates[np.searchsorted(candidates, left, side="right") : np.searchsorted(candidates, right)]
    if len(pool) < count:
        pool = np.arange(left + 1, right)
    if len(pool) >= count:
        ranks = _spread(len(pool), count) if rng is None else np.sort(rng.choice(len(pool), count, replace=False))
        return tuple(pool[ranks].tolist())
    missing = count - len(pool)
    if left == keyframe:
        nearest = int(pool[0]) if len(pool) else keyframe
        return (*[nearest] * missing, *pool.tolist())
    nearest = int(pool[-1]) if len(pool) else keyframe
    return (*pool.tolist(), *[nearest] * missing)


def _spread(length: int, count: int) -> np.ndarray:
    # The middles of `count` equal parts: 2 of 6 are ranks 1 and 4.
    return ((np.arange(count) * 2 + 1) * length) // (2 * count)
