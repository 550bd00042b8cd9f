"""Scores against made-up answers that were counted by hand."""

import pytest

from dynimg_vl.training.motion.scores import (
    MOTION_KINDS,
    Answer,
    as_table,
    by_binding,
    by_camera,
    by_family,
    by_kind,
    is_right,
    paired_loss,
    score,
)


def row(family="direction", wanted="x", given="x", clip=0, question=0, is_choice=False, num_objects=1, **other):
    shown = {"kind": "", "group": "g", "camera": "still", "speed": 0.0, **other}
    return Answer(
        clip=clip,
        question=question,
        family=family,
        is_choice=is_choice,
        is_single=False,
        num_objects=num_objects,
        wanted=wanted,
        given=given,
        is_right=wanted == given,
        **shown,
    )


@pytest.mark.parametrize(
    ("wanted", "given", "is_choice", "right"),
    [
        ("It moves left.", "It moves left.", False, True),
        ("It moves left.", "It moves left", False, False),
        ("(A)", "(A)", True, True),
        ("Best option: (B)", "Best option:(B)", True, True),
        ("(B)", "B) left", True, True),
        ("(B)", "(A)", True, False),
        ("(B)", "left", True, False),
        ("(B)", "", True, False),
    ],
)
def test_answers_are_compared_whole_and_choices_by_letter(wanted, given, is_choice, right):
    assert is_right(wanted, given, is_choice) is right


def test_families_have_their_baselines():
    answers = [
        row(family="a", wanted="x", given="x", group="1"),
        row(family="a", wanted="x", given="y", group="1"),
        row(family="a", wanted="y", given="y", group="2"),
        row(family="a", wanted="y", given="y", group="2"),
        row(family="a", wanted="z", given="y", group="2"),
        row(family="b", wanted="k", given="k", group="1"),
    ]
    found = by_family(answers)
    assert found["a"] == {"exact": 0.6, "error": 0.2191, "majority": 0.4, "group_majority": 0.8, "questions": 5}
    assert found["b"]["exact"] == 1.0
    # Of all: the best constant of each family, 2 and 1 of 6.
    assert found["all"] == {"exact": 0.6667, "error": 0.1925, "majority": 0.5, "group_majority": 0.8333, "questions": 6}
    assert found["mean of families"] == {"exact": 0.8, "questions": 6}
    assert by_family([]) == {}


def test_binding_is_counted_where_there_are_two_objects_and_one_of_them_is_meant():
    answers = [
        row(family="direction_of", given="x", num_objects=2),
        row(family="direction_of", given="y", num_objects=2),
        row(family="moves", given="x", num_objects=2),
        row(family="moves", given="y", num_objects=3),
        row(family="moves", given="y", num_objects=1),
        row(family="count", given="y", num_objects=2),
        row(family="moves", given="y", num_objects=2, is_choice=True),
    ]
    found = by_binding(answers)
    assert {name: (numbers["exact"], numbers["questions"]) for name, numbers in found.items()} == {
        "direction_of": (0.5, 2),
        "moves": (1.0, 1),
        "all": (0.6667, 3),
        "mean of families": (0.75, 3),
    }
    assert by_binding(answers, 3)["all"]["exact"] == 0.0
    assert by_binding([]) == {}


def test_kinds_of_motion_are_averaged_over_those_that_are_promised():
    answers = [row(kind="still", given="x")] + [row(kind="still", given="n")] * 3
    answers += [row(kind="circle", given="x"), row(kind="turn", given="n"), row(kind="", given="n")]
    answers += [row(family="speed", kind="circle", given="n")]
    found = by_kind(answers)
    assert {name: numbers["exact"] for name, numbers in found.items()} == {
        "still": 0.25,
        "circle": 1.0,
        "turn": 0.0,
        "all of these kinds": 0.4,
        "mean of these kinds": 0.625,
    }
    assert len(MOTION_KINDS) == 11


def test_cameras_are_counted_by_speed():
    answers = [
        row(family="camera", camera="left", speed=0.1, given="n"),
        row(family="camera", camera="left", speed=0.2),
        row(family="camera", camera="in", speed=0.5),
        row(family="camera", camera="up", speed=0.79, given="n"),
        row(family="camera", camera="still"),
        row(family="camera", camera="change", given="n"),
        row(family="anything", camera="left", speed=0.5, given="n"),
    ]
    found = {name: (numbers.get("exact"), numbers["questions"]) for name, numbers in by_camera(answers).items()}
    assert found["camera left"] == (0.5, 2)
    assert found["speed 0.1 to 0.2"] == (0.0, 1)
    assert found["speed 0.2 to 0.4"] == (1.0, 1)
    assert found["speed 0.6 to 0.8"] == (0.0, 1)
    assert found["moves, 0.2 or more"] == (0.6667, 3)
    assert found["0.2 or more, still and changing"] == (0.6, 5)


def test_the_loss_is_that_of_the_same_questions():
    before = [row(clip=n, given="x" if n < 6 else "n") for n in range(10)]  # 6 of 10 right
    after = [row(clip=n, given="x" if n in (0, 1, 2, 3, 9) else "n") for n in range(10)]  # 4 and 5 lost, 9 won
    found = paired_loss(before, after)
    differences = [0, 0, 0, 0, 1, 1, 0, 0, 0, -1]
    mean = sum(differences) / 10
    error = (sum((each - mean) ** 2 for each in differences) / 10 / 10) ** 0.5
    assert found == {"loss": 0.1, "error": round(error, 4), "lost": 2, "won": 1, "questions": 10}
    assert paired_loss(before[:3], after[5:]) == {"questions": 0}


def test_tables_are_markdown():
    text = as_table({"a": score([row(), row(given="n")]), "b": {"questions": 0}}, "family")
    assert text.splitlines() == [
        "| family | exact | error | questions |",
        "|---|---|---|---|",
        "| a | 0.500 | 0.354 | 2 |",
        "| b |  |  | 0 |",
    ]
