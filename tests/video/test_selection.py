"""Selection: what holds for every index of one frame or more, and the choices for typical ones."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dynimg_vl.errors import InputError
from dynimg_vl.video import POLICIES, FrameGroup, FrameIndex, choose_policy, select_frame_groups
from dynimg_vl.video.selection import plan_selection, sampling_seconds

PROMPT_FRAMES = st.sampled_from([0, 1, 2, 4, 6, 12])


def index_of(seconds, iframes):
    regular = FrameIndex.regular(len(seconds), fps=1, gop_size=1)
    return FrameIndex(
        np.asarray(seconds, float), np.asarray(iframes, bool), **{
            name: getattr(regular, name)
            for name in ("codec", "width", "height", "rotation", "sample_aspect_ratio", "duration_seconds")
        },
    )  # fmt: skip


@st.composite
def indices(draw):
    """Draw any index: regular or not, with I-frames anywhere or nowhere, with repeated times."""
    count = draw(st.integers(1, 400))
    steps = draw(st.sampled_from(["even", "uneven", "repeated", "gap"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    lengths = {
        "even": np.full(count, 0.04),
        "uneven": rng.uniform(0.001, 0.2, count),
        "repeated": rng.integers(0, 2, count) * 0.04,
        "gap": np.where(np.arange(count) == count // 2, 1000.0, 0.04),
    }[steps]
    share = draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
    iframes = rng.random(count) < share
    iframes[0] = draw(st.booleans())
    return index_of(np.cumsum(lengths) + draw(st.sampled_from([-5.0, 0.0, 35_000.0])), iframes)


@settings(max_examples=300, deadline=None)
@given(indices(), st.integers(1, 9), PROMPT_FRAMES, st.sampled_from(POLICIES), st.one_of(st.none(), st.integers(0, 9)))
@example(FrameIndex.regular(1, fps=1, gop_size=1), 4, 4, "auto", None)
@example(FrameIndex.regular(2, fps=1, gop_size=1), 4, 4, "gop_head", 0)
def test_groups_of_any_index(index, num_dynimgs, num_prompts, policy, seed):
    def select():
        rng = None if seed is None else np.random.default_rng(seed)
        return select_frame_groups(index, num_dynimgs, num_prompts, policy, rng=rng)

    groups = select()
    assert select() == groups, "the same request gives the same frames"
    assert len(groups) == num_dynimgs
    keyframes = [group.keyframe for group in groups]
    enough = index.num_frames >= num_dynimgs
    assert all(a < b if enough else a <= b for a, b in pairwise(keyframes))
    ends = [-1, *keyframes, index.num_frames]
    for before, group, after in zip(ends, groups, ends[2:], strict=False):
        assert len(group.before) == num_prompts // 2
        assert len(group.after) == num_prompts - num_prompts // 2
        assert group.indices == (group.keyframe, *group.before, *group.after)
        assert group.prompts == group.before + group.after
        assert all(0 <= number < index.num_frames for number in group.indices)
        assert list(group.before) == sorted(group.before)
        assert list(group.after) == sorted(group.after)
        # On their side, between the neighbouring keyframes; only a gap without frames repeats the keyframe itself.
        assert all(before < number < group.keyframe or number == group.keyframe for number in group.before)
        assert all(group.keyframe < number < after or number == group.keyframe for number in group.after)
        for part, room in ((group.before, group.keyframe - before - 1), (group.after, after - group.keyframe - 1)):
            assert len(set(part)) == (min(len(part), room) if room > 0 else min(len(part), 1))


@settings(max_examples=100, deadline=None)
@given(indices(), st.integers(1, 6), PROMPT_FRAMES, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_clip_bounds_all_frames(index, num_dynimgs, num_prompts, part):
    first, last = index.pts_seconds[[0, -1]]
    start, end = sorted(float(first + share * (last - first)) for share in part)
    inside = (index.pts_seconds >= start) & (index.pts_seconds <= end)
    if start >= end or not inside.any():
        with pytest.raises(InputError):
            select_frame_groups(index, num_dynimgs, num_prompts, clip=(start, end))
        return
    for group in select_frame_groups(index, num_dynimgs, num_prompts, clip=(start, end)):
        assert inside[list(group.indices)].all()


@settings(max_examples=100, deadline=None)
@given(indices(), st.integers(1, 6), PROMPT_FRAMES)
def test_auto_is_the_policy_that_it_names(index, num_dynimgs, num_prompts):
    chosen = choose_policy(index, num_dynimgs, num_prompts)
    assert chosen in POLICIES
    assert chosen != "auto"
    groups = select_frame_groups(index, num_dynimgs, num_prompts)
    assert select_frame_groups(index, num_dynimgs, num_prompts, chosen) == groups
    if chosen == "iframe":
        assert index.is_iframe[[number for group in groups for number in group.indices]].all()


def test_dense_iframes_are_the_candidates():
    """24 I-frames: keyframes in the middle of their segments, neighbours share the prompt frames between them."""
    index = FrameIndex.regular(288, fps=24, gop_size=12)
    assert choose_policy(index) == "iframe"
    assert select_frame_groups(index) == [
        FrameGroup(36, (0, 24), (60, 84)),
        FrameGroup(108, (60, 84), (132, 156)),
        FrameGroup(180, (132, 156), (204, 228)),
        FrameGroup(252, (204, 228), (264, 276)),
    ]


def test_one_gop_takes_every_twelfth_frame_and_finer_steps_in_a_short_clip():
    long, short = (FrameIndex.regular(count, fps=24, gop_size=1000) for count in (480, 60))
    assert choose_policy(long) == choose_policy(short) == "gop12"
    assert all(number % 12 == 0 for group in select_frame_groups(long) for number in group.indices)
    groups = select_frame_groups(short)
    assert len({number for group in groups for number in group.indices}) == 14
    assert any(number % 12 for group in groups for number in group.indices)


def test_a_few_iframes_take_the_heads_of_their_gops():
    index = FrameIndex.regular(720, fps=24, gop_size=90)  # 8 I-frames
    groups = select_frame_groups(index)
    assert choose_policy(index) == "gop_head"
    depths = [number % 90 for group in groups for number in group.indices]
    assert set(depths) <= {0, 12, 24}
    assert all(group.keyframe % 90 == 0 for group in groups), "I-frames are keyframes where they lie well"
    assert len({number for group in groups for number in group.indices}) == 14


@pytest.mark.parametrize("gop_size", [40, 90, 125, 180, 250, 400])
@pytest.mark.parametrize("num_frames", [250, 300, 500, 750])
def test_keyframes_lie_in_their_segments_and_no_moment_is_far_from_a_candidate(num_frames, gop_size):
    index = FrameIndex.regular(num_frames, fps=25, gop_size=gop_size)
    segment = index.end_seconds / 4
    for rank, group in enumerate(select_frame_groups(index)):
        middle = segment * (rank + 0.5)
        assert abs(index.pts_seconds[group.keyframe] - middle) <= segment / 2 + 1e-9
    seconds = index.pts_seconds[plan_selection(index).candidates]
    step = 12 / 25 + 1e-9
    assert np.diff(seconds, prepend=0).max() <= segment + step
    assert index.end_seconds - seconds[-1] <= segment / 2 + step


@pytest.mark.parametrize("clip", [(-100.0, None), (None, 1000.0), (-5, 1000)])
def test_bounds_beyond_the_video_are_those_of_the_video(clip):
    index = FrameIndex.regular(288, fps=24, gop_size=12)
    assert select_frame_groups(index, clip=clip) == select_frame_groups(index)


def test_iframes_on_one_side_are_not_enough():
    iframes = np.zeros(1000, bool)
    iframes[:200:5] = True
    assert choose_policy(index_of(np.arange(1000) / 25, iframes)) == "gop_head"


def test_a_single_prompt_frame_comes_after():
    groups = select_frame_groups(FrameIndex.regular(288, fps=24, gop_size=12), num_prompt_frames=1)
    assert all(group.before == () and len(group.after) == 1 for group in groups)


def test_few_frames_repeat_the_nearest():
    """Three frames for four DynImgs: keyframes repeat; a gap without frames gives the keyframe."""
    groups = select_frame_groups(FrameIndex.regular(3, fps=1, gop_size=1))
    assert [group.keyframe for group in groups] == [0, 1, 2, 2]  # the middles of 3 s are at 0.375, 1.125, 1.875, 2.625
    assert select_frame_groups(FrameIndex.regular(1, fps=1, gop_size=1)) == [FrameGroup(0, (0, 0), (0, 0))] * 4
    (group,) = select_frame_groups(FrameIndex.regular(5, fps=1, gop_size=1), num_dynimgs=1, num_prompt_frames=12)
    assert group == FrameGroup(2, (0, 1, 1, 1, 1, 1), (3, 3, 3, 3, 3, 4))


@pytest.mark.parametrize("policy", POLICIES)
def test_training_draws_every_candidate(policy):
    index = FrameIndex.regular(288, fps=24, gop_size=12)
    rng = np.random.default_rng(0)
    keyframes = {group.keyframe for group in select_frame_groups(index, policy=policy)}
    draws = [select_frame_groups(index, policy=policy, rng=rng) for _ in range(300)]
    seen = {number for groups in draws for group in groups for number in group.indices}
    assert {group.keyframe for groups in draws for group in groups} == keyframes
    if policy in ("auto", "iframe", "gop12"):
        assert seen == set(range(0, 288, 12))
    assert all(len(set(group.prompts)) == 4 for groups in draws for group in groups), "without replacement"


def test_training_draws_evenly():
    index = FrameIndex.regular(288, fps=24, gop_size=12)
    rng = np.random.default_rng(0)
    counts = dict.fromkeys((48, 60, 72, 84, 96), 0)
    for _ in range(2000):
        for number in select_frame_groups(index, rng=rng)[0].after:
            counts[number] += 1
    assert all(700 < count < 900 for count in counts.values()), counts  # 2000 * 2 / 5, within four deviations


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ((5, 3), "is empty; its end must be later"),
        ((5, 5), "is empty; its end must be later"),
        ((100, None), "no frame lies in the clip from 100 s to the end; the video runs from 0.00 s to 11.96 s"),
        ((None, -1), "no frame lies in the clip from the start to -1 s"),
        ((3.001, 3.002), "no frame lies"),
        ((float("nan"), None), "bounded by seconds"),
    ],
)
def test_clips_without_frames_are_refused(clip, message):
    with pytest.raises(InputError, match=message):
        select_frame_groups(FrameIndex.regular(288, fps=24, gop_size=12), clip=clip)


@pytest.mark.parametrize(
    "request_", [{"num_dynimgs": 0}, {"num_prompt_frames": -1}, {"policy": "best"}, {"num_dynimgs": -2}]
)
def test_impossible_requests_are_refused(request_):
    with pytest.raises(InputError, match=r"must be at least|unknown policy 'best'; these exist: auto, iframe"):
        select_frame_groups(FrameIndex.regular(10, fps=1, gop_size=1), **request_)


@pytest.mark.parametrize("name", ["num_dynimgs", "num_prompt_frames"])
@pytest.mark.parametrize(
    ("count", "message"),
    [
        (1025, "at most 1024.*got .*1025"),
        (10**12, "at most 1024.*got .*1000000000000"),
        (True, "must be integers, got .*True"),
        (4.0, r"must be integers, got .*4\.0"),
        ("4", "must be integers, got .*'4'"),
    ],
)
def test_counts_are_integers_within_bounds(name, count, message):
    with pytest.raises(InputError, match=message) as caught:
        select_frame_groups(FrameIndex.regular(10, fps=1, gop_size=1), **{name: count})
    assert "\n" not in str(caught.value)
    assert len(select_frame_groups(FrameIndex.regular(10, fps=1, gop_size=1), np.int64(2))) == 2


def test_times_of_a_partial_index_lead_to_the_same_choice():
    index = FrameIndex.regular(30_000, fps=25, gop_size=25)
    times = sampling_seconds(0.0, index.end_seconds, 4, 4)
    assert len(times) == 14
    expected = [index.pts_seconds[number] for group in select_frame_groups(index) for number in group.indices]
    assert max(min(abs(second - time) for time in times) for second in expected) <= 1.0
