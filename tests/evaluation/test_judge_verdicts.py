"""What counts as a verdict, and what the rules and the wording do."""

import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynimg_vl.errors import InputError
from dynimg_vl.evaluation.judges.prompts import DIMENSIONS, PLACEHOLDERS, QA, read_prompts
from dynimg_vl.evaluation.judges.rules import judge_containment, judge_exact, normalised_words
from dynimg_vl.evaluation.judges.verdicts import Verdict, parse_verdict

DECIDED = {
    "{'pred': 'yes', 'score': 4}": (True, 4),
    '{"pred": "no", "score": 0}': (False, 0),
    "{'pred': 'Yes', 'score': '5'}": (True, 5),
    "{'pred': 'no.', 'score': 1.0}": (False, 1),
    '{"pred": true, "score": 3}': (True, 3),
    "{'Pred': 'yes', 'Score': 2,}": (True, 2),
    "Sure! Here it is:\n```json\n{\"pred\": \"yes\", \"score\": 4}\n```": (True, 4),
    "{'pred': 'yes', 'score': 4} - as said, {'pred': 'yes', 'score': 4}": (True, 4),
    "pred: yes, score: 4": (True, 4),
    "**Pred**: no\n**Score**: 1/5": (False, 1),
    "'pred': 'yes', 'score': 4": (True, 4),
    "Prediction: yes. The score is 3.": (True, 3),
    "<think>Is it {'pred': 'no', 'score': 2}?\nNo.</think>\n{'pred': 'yes', 'score': 4}": (True, 4),
    "yes 4": (True, 4),
    "Yes, 4/5.": (True, 4),
    "no (0)": (False, 0),
    "No. Score: 1": (False, 1),
    "yes, 5 out of 5": (True, 5),
}  # fmt: skip
UNDECIDED = [
    "", " ", "yes", "4", "no score", "I am sorry, but I cannot help with that.", "yes or no, 4", "yes 4 or 5", "yes 6",
    "yes -1", "yes 45", "yes 4.5", "maybe 4", "{'pred': 'yes', 'score': 4.8}", "{'pred': 'yes'}", "{'score': 4}",
    "{'pred': 'yes', 'score': 4} or {'pred': 'no', 'score': 1}", "{'pred': 'yes', 'score': 9}",
    "{'pred': 'yes', 'score': True}", "{'pred': 'yes', 'score': nan}", "{'pred': 'yes', 'score': 1e400}",
    "{'pred': 'perhaps', 'score': 4}", "{'pred': ['yes'], 'score': [4]}", "{'pred': 'yes', 'score': __import__('os')}",
    "{'pred': 'yes', 'score': -1}", "score: -4 pred: yes", "score: 4.7, pred: no", "pred: yes, score: 4, score: 2",
    "pred: yes, pred: no, score: 2", "{" * 10_000, "{'pred': 'yes', 'score': " + "(" * 400 + "}",
    "yes 4" + " " * 30_000, '<script>alert("yes 4")</script>',
    "The answer is yes because there are 4 dogs.", "score: 44 pred: yes",
]  # fmt: skip


@pytest.mark.parametrize("text", DECIDED)
def test_a_verdict_is_read(text):
    assert parse_verdict(text, with_decision=True) == Verdict(*DECIDED[text])


@pytest.mark.parametrize("text", UNDECIDED, ids=lambda text: repr(text[:40]))
def test_what_can_mean_two_things_is_no_verdict(text):
    assert parse_verdict(text, with_decision=True) is None


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("{'score': 4}", 4), ('{"score": "3"}', 3), ("Score: 4/5", 4), ("4", 4), ("4/5", 4), ("**5**", 5), (" 0. ", 0),
        ("3 out of 5", 3), ("The score is 2.", 2), ("{'score': 4.8}", None), ("4.8", None), ("6", None), ("4/10", None),
        ("between 3 and 4", None), ("-3", None), ("score: 4 or score: 5", None), ("", None), ("good", None),
    ],
)  # fmt: skip
def test_a_score_alone_is_read(text, score):
    verdict = parse_verdict(text, with_decision=False)
    assert verdict == (None if score is None else Verdict(None, score))


@given(st.text(max_size=200))
def test_any_text_is_a_verdict_or_none(text):
    for with_decision in (True, False):
        verdict = parse_verdict(text, with_decision=with_decision)
        assert verdict is None or verdict.score in range(6)


@given(st.booleans(), st.integers(0, 5), st.sampled_from([repr, json.dumps]), st.text("abc .,\n`", max_size=20))
def test_a_dictionary_is_read_wherever_it_stands(is_correct, score, write, around):
    text = around + write({"pred": "yes" if is_correct else "no", "score": score}) + around
    assert parse_verdict(text, with_decision=True) == Verdict(is_correct, score)


@given(st.booleans(), st.integers(0, 5))
def test_the_protocol_s_own_reading_agrees(is_correct, score):
    """The reference takes the reply as a literal and looks at two keys."""
    text = str({"pred": "yes" if is_correct else "no", "score": score})
    official = ast.literal_eval(text)
    verdict = parse_verdict(text, with_decision=True)
    assert (verdict.is_correct, verdict.score) == ("yes" in official["pred"].lower(), int(official["score"]))


@pytest.mark.parametrize(
    ("answer", "prediction", "exact", "containment"),
    [
        ("dog", "Dog.", True, True), ("dog", "A dog", True, True), ("two", "2", True, True), ("dog", "", False, False),
        ("dog", "a hot dog is eaten", False, True), ("cat", "a whole category", False, False),
        ("play guitar", "the man plays guitar", False, False), ("hot dog", "dog hot", False, False),
        ("", "anything", False, False), ("the", "the", False, False), ("man", "woman", False, False),
        ("it's", "its", True, True), ("\uff44og", "dog", True, True), ("Caf\u00e9", "cafe\u0301", True, True),
    ],
)  # fmt: skip
def test_rules(answer, prediction, exact, containment):
    assert judge_exact(answer, prediction) == Verdict(exact, None)
    assert judge_containment(answer, prediction) == Verdict(containment, None)


@given(st.text(max_size=40), st.text(max_size=40))
def test_what_is_equal_is_contained(answer, around):
    if judge_exact(answer, answer).is_correct:
        assert judge_containment(answer, f"{around} {answer} {around}").is_correct
    assert normalised_words(" ".join(normalised_words(answer))) == normalised_words(answer)


def test_the_built_in_wording_has_every_aspect_and_asks_for_what_is_read():
    prompts = read_prompts()
    assert set(prompts.texts) == {QA, *DIMENSIONS}
    values = {name: f"<{name}>" for name in PLACEHOLDERS}
    for aspect in prompts.texts:
        system, user = prompts.messages(aspect, values)
        assert (system["role"], user["role"]) == ("system", "user")
        shown = ["question", "answer", "prediction"] + (["question_2", "prediction_2"] if aspect == "CO" else [])
        assert all(f"<{name}>" in user["content"] for name in shown)
        form = user["content"].splitlines()[-1].partition("form: ")[2]
        assert parse_verdict(form, with_decision=aspect == QA) == Verdict(True if aspect == QA else None, 4)


def test_an_answer_cannot_pull_in_another_placeholder():
    values = {"question": "{answer}", "answer": "secret", "prediction": "{answer} {prediction}"}
    user = read_prompts().messages(QA, values)[-1]["content"]
    assert user.count("secret") == 1
    assert "Model's answer: {answer} {prediction}" in user


def test_a_file_of_the_official_kind_keeps_its_braces(tmp_path):
    path = tmp_path / "official.txt"
    path.write_text("=== qa user\nQ {question} A {answer} P {prediction}\nlike {'pred': 'yes', 'score': 4.8}.\n")
    prompts = read_prompts(path)
    [message] = prompts.messages(QA, {"question": "q", "answer": "a", "prediction": "p"})
    assert message == {"role": "user", "content": "Q q A a P p\nlike {'pred': 'yes', 'score': 4.8}."}
    assert prompts.hash != read_prompts().hash
    with pytest.raises(InputError, match="=== CI user"):
        prompts.messages("CI", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no section"),
        ("hello\n=== qa user\n{prediction}", "line 1 stands before"),
        ("=== QA user\n{prediction}", "no aspect QA"),
        ("=== qa user\n{question}", r"does not hold \{prediction\}"),
        ("=== CO user\n{prediction}", r"does not hold \{prediction_2\}"),
        ("=== qa system\nx", r"does not hold \{prediction\}"),
        ("=== qa user\n{prediction}\n=== qa user\n{prediction}", "a second section"),
        (b"\xff\xfe=", "not UTF-8"),
        (b"x" * (1 << 21), "larger than a prompt"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_no_wording_is_one_line(tmp_path, text, message):
    path = tmp_path / "prompt.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)
