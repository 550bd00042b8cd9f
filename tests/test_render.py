"""The picture shows the frames that were chosen, at their places."""

from dataclasses import replace

import numpy as np
import pytest

from dynimg_vl.layout import PROMPT_FRAME_COUNTS, DynImgLayout
from dynimg_vl.loading import load_dynimgs
from dynimg_vl.render import FAINT, KEYFRAME, PROMPT, render_dynimgs


def colourful(num_frames):
    """Make frames of one colour each, so that every frame can be told apart in the picture."""
    frames = np.zeros((num_frames, 24, 32, 3), np.uint8)
    frames[..., 0] = (10 + 7 * np.arange(num_frames))[:, None, None]
    frames[..., 2] = 77
    return frames


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("num_prompt_frames", PROMPT_FRAME_COUNTS)
def test_every_layout_can_be_drawn(num_prompt_frames, overlay):
    dynimgs = load_dynimgs(colourful(30), fps=10, layout=DynImgLayout(num_prompt_frames), num_dynimgs=3)
    picture = render_dynimgs(dynimgs, overlay=overlay, title="clip")
    assert picture.mode == "RGB"
    colours = {colour for _, colour in picture.getcolors(2**24)}
    assert KEYFRAME in colours
    assert (PROMPT in colours) == (num_prompt_frames > 0)
    assert FAINT in colours


def test_pixels_of_the_dynimgs_are_shown_unchanged():
    dynimgs = load_dynimgs(colourful(30), fps=10, num_dynimgs=2)
    colours = {colour for _, colour in render_dynimgs(dynimgs).getcolors(2**24)}
    chosen = {number for group in dynimgs.groups for number in group.indices}
    assert {(10 + 7 * number, 0, 77) for number in chosen} <= colours
    assert not {(10 + 7 * number, 0, 77) for number in range(30) if number not in chosen} & colours


def test_a_single_frame_has_a_timeline():
    dynimgs = load_dynimgs(colourful(1), fps=10, num_dynimgs=1)
    assert render_dynimgs(dynimgs).width >= 640


def test_the_timeline_of_a_partial_index_is_that_of_the_video(monkeypatch):
    words = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda self, at, text, *_, **__: words.append(text))
    dynimgs = load_dynimgs(colourful(30), fps=10, num_dynimgs=1)
    render_dynimgs(replace(dynimgs, index=replace(dynimgs.index, complete=False, span_seconds=(0.0, 600.0))))
    assert {"0.00 s", "600.00 s", "I-frame looked up"} <= set(words)


def test_describe_names_frames_and_times():
    dynimgs = load_dynimgs(colourful(30), fps=10, num_dynimgs=2)
    described = dynimgs.describe()
    assert described["policy"] == dynimgs.policy
    for group, entry in zip(dynimgs.groups, described["frames"], strict=True):
        assert entry["keyframe"] == {"index": group.keyframe, "seconds": round(group.keyframe / 10, 6)}
        assert [frame["index"] for frame in entry["prompt_frames"]] == list(group.prompts)
