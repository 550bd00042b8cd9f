# ruff: noqa: RUF001  (letters of other scripts)
"""Reading answers to questions with options: what means one option, and nothing else."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynimg_vl.evaluation.letters import parse_letter

LEFT, RIGHT = "to the left", "to the right"
CHOICES = (RIGHT, LEFT, "up", "down")

ACCEPTED = [
    "(B)", "B.", "B", "b", "[B]", "{B}", "(b)", "B)", "B:", "B,", "( B )", " B \n", "**B**", "`(B)`", '"B"', "B!",
    "(B", "（Ｂ）", "Ｂ．",
    "Answer: B", "answer: (B)", "Answer is B.", "the answer is (B).", "The correct answer is: (B)", "Option B",
    "Choice (B)", "My answer: B", "Best option: (B)", "The best option is option (B)", "So the answer is B",
    "B is correct", "B is the correct answer.", "(B) is the best option",
    "to the left", "To the left.", "TO THE LEFT", "'to the left'", "Answer: to the left", "The answer is To the left.",
    "(B) to the left", "B to the left", "B. To the left.", "B: to the left", "The answer is (B) to the left",
    "B - to the left", "B \u2014 to the left", "(B) - to the left.", "B (to the left)", "B;", "B; it moves left",
    "B\n\nThe ball moves left.", "(B)\nThe ball", "Answer:\nB\nIt moves left.", "**B**\n\nIt does.",
    "(B) moving left", "B. Because the ball rolls there.", "B, because it moves left", "(B) a ball moves",
    "(B) to the left, where a man stands", "(B), a ball goes there",
    "The ball rolls. So the answer is (B).", "First it goes up. The answer is (B). So the best option is (B).",
    "Let me think step by step. It starts right and ends left, therefore the answer is: B",
]  # fmt: skip

REFUSED = [
    "", " ", "\n", "(", ")", "()", "( )", ".", "?", "Answer", "Answer:", "the answer is", "Option", "-",
    "E", "(E)", "Answer: E", "I", "I.", "I think so", "1", "2.", "(2)", "В", "Б", "β", "é", "🅱", "ⓩ",
    "A man runs", "a man runs", "The answer is a man", "The answer is A man", "Because", "Dance",
    "By the left", "(Blue)",
    "B or C", "A and B", "Both A and B", "A, B", "A/B", "(A) or (B)", "(A)/(B)", "(A)(B)", "A B", "A. B", "B.C", "BC",
    "(B), C", "b) or c)", "(b), c", "(B) or (C) maybe", "either B or C", "(B) but could be C", "B. Not C",
    "A or B, so the answer is open", "The answer is B or C",
    "(B) to the left. C", "(B) to the left, not C", "(B) to the left (C)",
    "not B", "Not (B)", "the answer is not B", "B is wrong", "(B) is wrong", "(B) is not correct", "(B) isn't it",
    "neither", "none of them", "all of the above",
    "B to the right", "(B) to the right", "B. up", "to the left or up", "up down",
    "The answer is A or the answer is B", "The answer is (A) or the answer is (B)", "Answer: A, or maybe answer: B",
    "The answer is A and then the answer is B", "The answer is A or B. So the answer is B",
    "The answer is A is wrong. The answer is B",
    "A\nor\nB", "A\nB", "B\nor C", "B\n\nNo, C", "B\nExplanation: A is as good", "B - to the right", "B - up",
    "It is\na\nmystery", "B\nis wrong",
    "The answer is A. No, the answer is B.", "Option A. Option B.", "to the lef", "to the leftmost",
]  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_means_one_option(text):
    assert parse_letter(text, CHOICES) == 1


@pytest.mark.parametrize("text", REFUSED)
def test_what_means_none_or_several(text):
    assert parse_letter(text, CHOICES) is None


@pytest.mark.parametrize(
    ("text", "choices", "index"),
    [
        ("A man runs", ("x", "A man runs"), 1),
        ("A man runs", ("man runs", "x"), 0),
        ("A man runs", ("man runs", "A man runs"), None),  # letter and text say different things
        ("A", ("B", "A"), None),
        ("(A) B", ("B", "A"), 0),
        ("Yes", ("Yes", "No"), 0),
        ("yes, it does", ("Yes", "No"), None),
        ("(A) Yes. No other", ("Yes", "No"), 0),
        ("3", ("2", "3", "4"), 1),
        ("Answer: 3.", ("2", "3", "4"), 1),
        ("A -3", ("3", "-3"), None),
        ("B -3", ("3", "-3"), 1),
        ("(C) 3", ("2", "3", "4"), None),  # letter of one, text of another
        ("I", tuple("qrstuvwxy"), 8),  # nine options have a letter I
        ("3", ("3", "3"), 0),  # one text twice: either is it
        ("The man opened the door, then left", ("left", "The man opened the door, then left."), 1),
        ("(A) walking and (B) running", ("walking and (b) running", "x"), 0),
        ("é", ("é", "e"), 0),
        ("e\u0301", ("é", "e"), 0),  # composed or not
        ("向左", ("向右", "向左"), 1),
        ("（Ｂ）向左", ("向右", "向左"), 1),
        ("B", ("only",), None),
    ],
)
def test_by_options(text, choices, index):
    assert parse_letter(text, choices) == index


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=12), min_size=2, max_size=6))
def test_whatever_is_said_the_result_is_an_option_or_none(text, choices):
    index = parse_letter(text, choices)
    assert index is None or 0 <= index < len(choices)


@given(st.integers(2, 26), st.data())
def test_every_letter_in_every_dress(count, data):
    choices = [f"option number {rank}" for rank in range(count)]
    index = data.draw(st.integers(0, count - 1))
    letter = string.ascii_uppercase[index]
    dress = data.draw(st.sampled_from(["{}", "({})", "{}.", "Answer: {}", "Answer: ({}).", "{} " + choices[index]]))
    assert parse_letter(dress.format(letter), choices) == index


@given(st.data())
def test_two_letters_are_never_one(data):
    first, second = data.draw(st.permutations("ABCD"))[:2]
    joint = data.draw(st.sampled_from([" or ", " and ", ", ", "/", " & ", " ", " vs "]))
    dress = data.draw(st.sampled_from(["{}", "({})", "option {}"]))
    lead = data.draw(st.sampled_from(["", "Answer: ", "The answer is ", "Either "]))
    assert parse_letter(lead + dress.format(first) + joint + dress.format(second), CHOICES) is None


@given(st.permutations(CHOICES), st.sampled_from(CHOICES), st.sampled_from(["{}", "{}.", "Answer: {}", " {}\n"]))
def test_a_text_means_its_option_wherever_it_stands(choices, text, dress):
    assert parse_letter(dress.format(text), choices) == list(choices).index(text)


@given(st.text(alphabet=string.ascii_lowercase + " ", max_size=40))
def test_prose_without_a_letter_of_its_own_means_nothing(text):
    text = " ".join(word for word in text.split() if len(word) > 1)
    said = {choice.casefold() for choice in CHOICES} | {"is " + choice for choice in CHOICES}
    if not any(choice in text for choice in said):
        assert parse_letter(text, CHOICES) is None


@pytest.mark.parametrize("piece", ["answer is ", "(", "the answer is B or ", "A ", ", A", "option option ", "\u0300"])
def test_endless_answers_come_to_an_end(piece):
    assert parse_letter(piece * 50_000, CHOICES) is None
