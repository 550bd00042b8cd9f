"""What is written down as true of real clips can be asked and counted."""

import json
import os
from pathlib import Path

import pytest

import eval_real_clips as script
from dynimg_vl.motion.questions import CHOICES

CLIPS = Path(os.environ.get("DYNIMG_VL_VIDEOS", Path(__file__).parents[3] / "shared" / "videos"))
TRUTH = json.loads(script.TRUTH.read_text())


def test_what_is_true_is_a_possible_answer():
    assert {question for known in TRUTH.values() for question in known} == set(script.QUESTIONS)
    for known in TRUTH.values():
        assert all(answer in ("", *CHOICES[question]) for question, answer in known.items())


def test_a_name_may_have_a_stretch():
    assert script.split_name("a.mp4") == ("a.mp4", None)
    assert script.split_name("a.mp4#t=0,2.7") == ("a.mp4", (0.0, 2.7))
    for name in TRUTH:
        _, stretch = script.split_name(name)
        assert stretch is None or 0 <= stretch[0] < stretch[1]


def test_right_answers_are_counted_by_what_is_true():
    truth = {
        "a": {"anything": "Yes.", "camera": ""},
        "b": {"anything": "Yes.", "camera": "It stays still."},
        "c": {"anything": "No."},
        "c#t=0,1": {"direction": "It moves left."},
    }
    answers = {
        "a": {"anything": "Yes.", "camera": "It pans left."},
        "b": {"anything": "No.", "camera": "It stays still."},
        "c": {"anything": "Yes."},
        "c#t=0,1": {"direction": "It moves right."},
    }
    assert script.count(truth, answers) == {
        "anything": {"Yes.": "1 of 2", "all": "1 of 3", "No.": "0 of 1"},
        "camera": {"It stays still.": "1 of 1", "all": "1 of 1"},
        "direction": {"It moves left.": "0 of 1", "all": "0 of 1"},
    }


def test_every_question_is_asked_of_the_stretch_that_it_is_about(monkeypatch, tmp_path):
    class Recorder:
        """Answers with what it was shown and asked."""

        processor = video_processor = property(lambda self: self)

        def load(self, path, *, num_dynimgs, clip):
            return Path(path).name, num_dynimgs, clip

        def answer_all(self, items):
            return [f"{video}: {question}" for video, question in items]

    truth = {"a.mp4": {"anything": "", "camera": "It stays still."}, "a.mp4#t=1,2.5": {"direction": "It moves up."}}
    assert script.answers_of(Recorder(), tmp_path, truth) == {
        "a.mp4": {
            "anything": "('a.mp4', 1, None): Does anything move?",
            "camera": "('a.mp4', 1, None): How does the camera move?",
        },
        "a.mp4#t=1,2.5": {"direction": "('a.mp4', 1, (1.0, 2.5)): Which way does the object move?"},
    }


def test_the_files_that_are_named_are_there():
    if not CLIPS.is_dir():
        pytest.skip(f"there is no {CLIPS}; set DYNIMG_VL_VIDEOS to the folder of the shared clips")
    assert {script.split_name(name)[0] for name in TRUTH} <= {path.name for path in CLIPS.iterdir()}
