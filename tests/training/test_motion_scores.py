"""Baselines of multiple choice against answers that were counted by hand."""

from dynimg_vl.training.motion.scores import Answer, baselines


def row(wanted, is_choice, group="g"):
    return Answer(
        clip=0, question=0, family="direction", is_choice=is_choice, is_single=False, num_objects=1, kind="",
        group=group, camera="still", speed=0.0, wanted=wanted, given="", is_right=False,
    )  # fmt: skip


def test_a_constant_letter_is_right_however_the_answer_introduces_it():
    choices = [row(wanted, True) for wanted in ("(A)", "Best option: (A)", "Best option:(A)", "(B)", "(B)", "A) left")]
    # Four of six; as whole texts, "(B)" would be first with two.
    assert baselines(choices) == {"majority": 0.6667, "group_majority": 0.6667}
    # What an open question wants is compared whole, also where it looks like a letter.
    assert baselines([*choices, row("(A)", False), row("(A) left", False)])["majority"] == 0.5


def test_letters_are_counted_within_what_a_keyframe_shows():
    rows = [
        row("(A)", True, "1"),
        row("Best option: (A)", True, "1"),
        row("(B)", True, "2"),
        row("Best option:(B)", True, "2"),
    ]
    assert baselines(rows) == {"majority": 0.5, "group_majority": 1.0}


def test_a_choice_without_a_letter_is_nobodys():
    assert baselines([row("left", True), row("left", True), row("(A)", True)])["majority"] == 0.3333
