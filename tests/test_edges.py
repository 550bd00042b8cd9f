"""What users try: odd videos and odd questions put to the embedded model; each gets a sensible answer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dynimg_vl import InputError
from dynimg_vl.answering import Answerer
from dynimg_vl.motion.wordings import FOREIGN, UNKNOWN
from dynimg_vl.video import FrameIndex, read_frames
from synthetic import write_video

MOVES, WAY = "Does anything move?", "Which way does the object move?"


@pytest.fixture(scope="module")
def answerer():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Answerer.from_pretrained(None, device="cpu")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ball():
    """Give the frames of the sample clip, (60, 240, 320, 3): a red ball that goes to the right."""
    path = Path(__file__).parents[1] / "examples" / "ball.mp4"
    return np.stack(list(read_frames(FrameIndex.from_file(path), list(range(60)))))


@pytest.fixture
def ask(answerer, tmp_path):
    """Write frames to a file and ask about it; returns (answers, what was loaded)."""

    def call(frames, *questions, name="clip.mp4", **options):
        frames = np.ascontiguousarray(frames)
        write_video(tmp_path / name, len(frames), size=frames.shape[1:3], frames=frames, **options)
        dynimgs = answerer.look(str(tmp_path / name))
        return [answerer.start(dynimgs).ask(question).text for question in questions], dynimgs

    return call


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_an_empty_question_is_refused_with_an_example(answerer, ball, question):
    conversation = answerer.start(answerer.look(ball, fps=15))
    with pytest.raises(InputError, match="the question is empty; ask something, for example: Which way"):
        conversation.ask(question)


@pytest.mark.parametrize(
    "question",
    ["In welche Richtung bewegt sich das Objekt?", "視頻裡發生了什麼", "Куда движется объект?", "¿Se mueve algo?"],
)
def test_another_language_is_declined_not_guessed_at(answerer, ball, question):
    assert answerer.start(answerer.look(ball, fps=15)).ask(question).text in (FOREIGN, UNKNOWN)


def test_a_video_of_one_frame_stands_still(ask, ball):
    (moves, way), dynimgs = ask(ball[30:31], MOVES, WAY)
    assert dynimgs.groups[0].indices == (0,) * 5
    assert (moves, way) == ("No.", "It stays still.")


def test_three_frames_are_enough_to_tell_the_way(ask, ball):
    (way,), dynimgs = ask(ball[[5, 30, 55]], WAY)
    assert set(dynimgs.groups[0].indices) == {0, 1, 2}
    assert way == "It moves right."


def test_in_black_nothing_moves(ask, ball):
    assert ask(np.zeros_like(ball), MOVES)[0] == ["No."]


def test_two_minutes_are_seen_from_end_to_end(ask, ball):
    slow = np.repeat(ball[::2, ::4, ::4], 20, axis=0)
    (way,), dynimgs = ask(slow, WAY, fps=5, gop_size=50)
    index = dynimgs.index
    assert index.duration_seconds == pytest.approx(120, abs=1)
    seconds = sorted(dynimgs.seconds(dynimgs.groups[0]))
    assert seconds[0] < 20
    assert seconds[-1] > 80
    assert way == "It moves right."


@pytest.mark.parametrize(("rotation", "way"), [(90, "It moves up."), (-90, "It moves down.")])
def test_a_phone_video_is_turned_upright(ask, ball, rotation, way):
    # The phone was held upright: the file says how to turn the picture, and directions are those on the screen.
    (turned,), dynimgs = ask(ball, WAY, rotation=rotation)
    assert (dynimgs.index.width, dynimgs.index.height) == (240, 320)
    upright = np.rot90(ball, rotation // 90, axes=(1, 2))
    (plain,), same = ask(upright, WAY)
    assert turned == plain == way
    assert np.abs(dynimgs.pixels.astype(float) - same.pixels).mean() < 3


def test_a_tall_picture_is_squeezed_whole(ask, ball):
    (way,), dynimgs = ask(ball[:, :, 92:228], WAY)
    assert dynimgs.index.height > dynimgs.index.width
    assert way == "It moves right."


def test_of_a_slideshow_several_pictures_are_seen(ask):
    rng = np.random.default_rng(0)
    stills = [np.kron(rng.integers(0, 255, (15, 20, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(3)]
    slides = np.concatenate([np.repeat(still[None], 40, axis=0) for still in stills])
    answers, dynimgs = ask(slides, "What happens in this video?", gop_size=250)
    assert {number // 40 for number in dynimgs.groups[0].indices} == {0, 1, 2}
    assert answers[0]


@pytest.mark.parametrize("fps", [1, 24, 240])
def test_the_rate_does_not_matter(ask, ball, fps):
    assert ask(ball, WAY, MOVES, fps=fps)[0] == ["It moves right.", "Yes."]


def test_a_gif_is_a_video(ask, ball):
    assert ask(ball[::4], WAY, MOVES, name="clip.gif", fps=5, codec="gif")[0] == ["It moves right.", "Yes."]
