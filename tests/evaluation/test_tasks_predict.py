"""From official files to predictions and scores: nothing is lost, dropped or counted twice."""

import errno
import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import miniature
from dynimg_vl.errors import InputError
from dynimg_vl.evaluation.items import Answered, Item, read_answered, read_items, write_items
from dynimg_vl.evaluation.letters import parse_letter
from dynimg_vl.evaluation.predict import Settings, predict_task, read_outcome
from dynimg_vl.evaluation.prompts import Prompt, read_prompt
from dynimg_vl.evaluation.scoring import STATES, give_verdict, score_choices
from dynimg_vl.evaluation.tasks import find_task
from dynimg_vl.evaluation.tasks.mvbench import FILES
from dynimg_vl.inference.requests import Prediction
from miniature import FakeEngine

MVBENCH = find_task("mvbench")
WORDS = ["A)", "B) right", "(C)", "left", "no idea", "A or B", "", "Z", "D.", "up"]


def says(request):
    """Answer by the id alone, so that the order of requests does not matter."""
    return random.Random(request.id).choice(WORDS)


@pytest.fixture(scope="module")
def mvbench(tmp_path_factory):
    return miniature.choices_of(tmp_path_factory.mktemp("data") / "MVBench", FILES.subtasks)


def read_json(path):
    return json.loads(path.read_text())


def test_mvbench_against_a_literal_reference(tmp_path, mvbench):
    outcome = predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path)
    result = read_json(tmp_path / "mvbench" / "result.json")
    assert result == outcome.result
    shares = []
    for subtask in FILES.subtasks:
        entries = read_json(mvbench / "json" / f"{subtask.name}.json")
        right = 0
        for number, entry in enumerate(entries[:-1]):  # the last has no video
            said = random.Random(f"mvbench/{subtask.name}/{number}").choice(WORDS)
            index = parse_letter(said if said[:1] in ("(", "l", "u") else "(" + said, entry["candidates"])
            right += index is not None and entry["candidates"][index] == entry["answer"]
        shares.append(right / 2)
        assert result["subtasks"][subtask.name]["accuracy"] == right / 2
        assert result["subtasks"][subtask.name]["if_missing_are_wrong"] == right / 3
        assert result["subtasks"][subtask.name]["num_missing"] == 1
    assert 0 < sum(shares) < 20
    assert result["accuracy"] == result["mean_of_subtasks"]["accuracy"] == pytest.approx(sum(shares) / 20)
    assert result["overall"]["accuracy"] == pytest.approx(sum(shares) * 2 / 40)
    assert result["overall"]["num_unparsed"] > 0
    assert result["counts"] == {
        "items": 60, "official": 4000, "answered": 40, "failed": 0, "missing": 20, "pending": 0,
    }  # fmt: skip
    assert result["is_complete"] is False


def test_the_record_of_a_run(tmp_path, mvbench):
    predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path, Settings(limit=2))
    header = read_json(tmp_path / "mvbench" / "run.json")
    assert header["engine"] == {"kind": "fake", "name": "fake"}
    assert header["settings"]["task"] == "mvbench"
    assert header["settings"]["prompt"]["prefix"] == "Best option: ("
    assert len(header["settings"]["prompt"]["sha256"]) == 64
    assert len(header["settings"]["annotations"]) == 20
    assert header["evaluation"]["limit"] == 2
    assert header["evaluation"]["counts"]["answered"] == 40
    assert "finished" in header
    assert read_json(tmp_path / "mvbench" / "result.json")["limit"] == 2
    lines = [json.loads(line) for line in (tmp_path / "mvbench" / "verdicts.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [item.id for item in read_items(tmp_path / "mvbench")]
    assert {line["state"] for line in lines} <= set(STATES)


def test_open_ended_predictions_wait_for_a_judge(tmp_path):
    miniature.msvd(tmp_path)
    engine = FakeEngine()
    outcome = predict_task(find_task("msvd"), tmp_path, engine, tmp_path / "out")
    assert outcome.result is None
    answered = read_answered(tmp_path / "out" / "msvd")
    assert [one.state for one in answered] == ["answered"] * 4 + ["missing"]
    assert "Question: what moves?" in answered[0].texts[0]
    assert {request.prefix for request in engine.asked} == {"Answer: In the video,"}
    assert answered[4].item.video is None
    assert not (tmp_path / "out" / "msvd" / "result.json").exists()


def test_pairs_of_questions_come_back_in_their_order(tmp_path):
    miniature.video_chatgpt(tmp_path)
    predict_task(find_task("videochatgpt"), tmp_path, FakeEngine(), tmp_path / "out")
    pairs = [one for one in read_answered(tmp_path / "out" / "videochatgpt") if one.item.subtask == "consistency"]
    assert [one.texts for one in pairs] == [("first 0", "second 0"), ("first 1", "second 1")]


def test_unreadable_videos_fail_and_count_as_wrong(tmp_path, mvbench):
    def breaks(request):
        return Prediction(request.id, "", error="broken") if "action_count" in request.id else "(A) left"

    result = predict_task(MVBENCH, mvbench, FakeEngine(breaks), tmp_path).result
    row = result["subtasks"]["action_count"]
    assert (row["accuracy"], row["num_failed"], row["num_missing"]) == (0.0, 2, 1)


def test_likelihoods_need_no_letters(tmp_path, mvbench):
    def choose(request):
        return Prediction(request.id, request.choices[1], choice=1, scores=tuple(-abs(1.0 - n) for n in range(2)))

    for mode, shown in (("likelihood", "B)"), ("likelihood-text", "right")):
        engine = FakeEngine(choose)
        result = predict_task(MVBENCH, mvbench, engine, tmp_path / mode, Settings(mode=mode)).result
        assert {request.choices[1] for request in engine.asked} == {shown}
        assert result["overall"]["num_unparsed"] == 0
        assert result["overall"]["num_correct"] == 20  # the answer of every second question is the second option
        assert all(("(B)" in request.question) == (mode == "likelihood") for request in engine.asked)


def test_a_limit_may_grow_and_nothing_is_asked_twice(tmp_path, mvbench):
    first, then, again = FakeEngine(says), FakeEngine(says), FakeEngine(says)
    predict_task(MVBENCH, mvbench, first, tmp_path / "grown", Settings(limit=1))
    predict_task(MVBENCH, mvbench, then, tmp_path / "grown")
    predict_task(MVBENCH, mvbench, again, tmp_path / "grown")
    assert (len(first.asked), len(then.asked), len(again.asked)) == (20, 20, 0)
    whole = predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path / "whole").result
    grown = read_json(tmp_path / "grown" / "mvbench" / "result.json")
    assert {**grown, "date": ""} == {**whole, "date": ""}
    files = [(tmp_path / name / "mvbench" / "predictions.jsonl").read_text() for name in ("grown", "whole")]
    assert files[0] == files[1]


@pytest.mark.parametrize("stops", [0, 1, 17, 39])
def test_stopped_anywhere_it_goes_on_to_the_same_file(tmp_path, mvbench, stops):
    asked = []

    def interrupted(request):
        if len(asked) == stops:
            raise KeyboardInterrupt
        asked.append(request.id)
        return says(request)

    with pytest.raises(KeyboardInterrupt):
        predict_task(MVBENCH, mvbench, FakeEngine(interrupted), tmp_path / "stopped")
    states = [one.state for one in read_answered(tmp_path / "stopped" / "mvbench")]
    assert (states.count("answered"), states.count("pending")) == (stops, 40 - stops)
    assert not (tmp_path / "stopped" / "mvbench" / "result.json").exists()
    rest = FakeEngine(says)
    predict_task(MVBENCH, mvbench, rest, tmp_path / "stopped")
    assert len(asked) + len(rest.asked) == 40
    predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path / "whole")
    for name in ("predictions.jsonl", "items.jsonl", "verdicts.jsonl"):
        assert (tmp_path / "stopped" / "mvbench" / name).read_text() == (
            tmp_path / "whole" / "mvbench" / name
        ).read_text()


def test_either_of_two_options_that_say_the_same_is_right():
    item = Item("t/s/0", "t", "s", "v.mp4", "v", "q", "3", ("3", "4", "3"), 0)
    assert give_verdict(Answered(item, (Prediction(item.id, "(C)"),))).state == "correct"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_several_processes_leave_what_one_does(tmp_path, mvbench, order):
    outcomes = [
        predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path / "shared", shard=(index, 3)) for index in order
    ]
    assert [outcome.is_joined for outcome in outcomes] == [False, False, True]
    assert [outcome.result is None for outcome in outcomes] == [True, True, False]
    assert read_outcome(MVBENCH, tmp_path / "shared" / "mvbench") == outcomes[-1]
    alone = predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path / "alone")
    assert {**outcomes[-1].result, "date": ""} == {**alone.result, "date": ""}
    for name in ("predictions.jsonl", "items.jsonl", "verdicts.jsonl"):
        contents = [(tmp_path / out / "mvbench" / name).read_bytes() for out in ("shared", "alone")]
        assert contents[0] == contents[1]


@pytest.mark.parametrize("number", range(5))
def test_a_disk_that_is_full_at_any_file_is_one_line_and_keeps_what_there_is(tmp_path, mvbench, monkeypatch, number):
    """Items, the header twice, verdicts and the result are written whole; each write may be the one that fails."""
    synced = []

    def sync(handle):
        synced.append(handle)
        if len(synced) == number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dynimg_vl.inference.journal.os.fsync", sync)
    with pytest.raises(InputError, match=r"cannot write \S*mvbench/\w+\.jsonl?: No space left on device; .* make room"):
        predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path / "full")
    monkeypatch.undo()
    rest = FakeEngine(says)
    predict_task(MVBENCH, mvbench, rest, tmp_path / "full")
    assert len(rest.asked) in (0, 40)
    predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path / "whole")
    files = [{path.name for path in (tmp_path / name / "mvbench").glob("[!.]*")} for name in ("full", "whole")]
    assert files[0] == files[1]
    for name in ("predictions.jsonl", "items.jsonl", "verdicts.jsonl"):
        contents = [(tmp_path / out / "mvbench" / name).read_bytes() for out in ("full", "whole")]
        assert contents[0] == contents[1]


def test_what_a_killed_process_of_several_answered_is_not_taken_for_other_questions(tmp_path, mvbench):
    def dies(request):
        if engine.asked:
            raise KeyboardInterrupt
        return says(request)

    engine = FakeEngine(dies)
    with pytest.raises(KeyboardInterrupt):
        predict_task(MVBENCH, mvbench, engine, tmp_path / "out", shard=(0, 2))
    assert not (tmp_path / "out" / "mvbench" / "predictions.jsonl").exists()
    other = Settings(prompt=Prompt("{question}\n{options}"))
    with pytest.raises(InputError, match=r"is of another run: requests\.sha256"):
        predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path / "out", other)


def test_a_video_that_was_missing_is_asked_about_later(tmp_path):
    miniature.msvd(tmp_path)
    task, out = find_task("msvd"), tmp_path / "out"
    predict_task(task, tmp_path, FakeEngine(), out)
    miniature.clip(tmp_path / "MSVD_Zero_Shot_QA" / "videos" / "gone.gif")
    engine = FakeEngine()
    predict_task(task, tmp_path, engine, out)
    assert [request.id for request in engine.asked] == ["msvd/test/4"]
    assert [one.state for one in read_answered(out / "msvd")] == ["answered"] * 5


@pytest.mark.parametrize(
    ("engine", "changed", "said"),
    [
        (FakeEngine(says, "other"), Settings(), "engine.name"),
        (FakeEngine(says), Settings(prompt=Prompt("{question}\n{options}")), "requests.sha256"),
        (FakeEngine(says), Settings(limit=1), "requests.count"),
    ],
)
def test_answers_of_another_run_are_not_mixed_and_not_lost(tmp_path, mvbench, engine, changed, said):
    predict_task(MVBENCH, mvbench, FakeEngine(says), tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "mvbench").iterdir() if path.is_file()}
    with pytest.raises(InputError, match=rf"is of another run: {said}"):
        predict_task(MVBENCH, mvbench, engine, tmp_path, changed)
    after = {path.name: path.read_bytes() for path in (tmp_path / "mvbench").iterdir() if path.is_file()}
    for name in ("predictions.jsonl", "run.json", "result.json", "items.jsonl", "verdicts.jsonl"):
        assert after[name] == before[name]


def test_corrected_references_do_not_come_beside_the_answers_of_another_run(tmp_path):
    """The questions are the same, so that the requests are; the items are not."""
    task, out = find_task("msvd"), tmp_path / "out"
    miniature.msvd(tmp_path)
    predict_task(task, tmp_path, FakeEngine(), out)
    before = (out / "msvd" / "items.jsonl").read_bytes()
    (path,) = [file for file in (tmp_path / "MSVD_Zero_Shot_QA").glob("*a.json") if "ball" in file.read_text()]
    path.write_text(path.read_text().replace("ball", "cube"))
    with pytest.raises(InputError, match=r"is of another run: settings\.annotations"):
        predict_task(task, tmp_path, FakeEngine(), out)
    assert (out / "msvd" / "items.jsonl").read_bytes() == before


def test_without_any_video_there_is_nothing_to_ask(tmp_path):
    miniature.open_ended(tmp_path, "msvd", "videos", [("v", "q", "a", "1")])
    with pytest.raises(InputError, match=r"none of the videos of 1 items is in .*; see dynimg-vl eval check"):
        predict_task(find_task("msvd"), tmp_path, FakeEngine(), tmp_path / "out")


STATE_OF = {"correct": "b", "wrong": "a", "unparsed": "a or b", "failed": None, "missing": None, "pending": None}


def answered_as(state, number, subtask):
    video = None if state == "missing" else "v.mp4"
    item = Item(f"t/{subtask}/{number}", "t", subtask, video, "v", "q", "b", ("a", "b", "c"), 1)
    text = STATE_OF[state]
    prediction = Prediction(item.id, text or "", error="e" if state == "failed" else None)
    return Answered(item, (None if state in ("missing", "pending") else prediction,))


rows = st.lists(
    st.tuples(st.sampled_from(STATES), st.sampled_from(["action_sequence", "object_shuffle", "odd"])), max_size=30
)


@given(rows, st.randoms())
@settings(max_examples=60)
def test_shuffling_items_changes_nothing(rows, rng):
    verdicts = [give_verdict(answered_as(state, number, name)) for number, (state, name) in enumerate(rows)]
    assert [verdict.state for verdict in verdicts] == [state for state, _ in rows]
    result = score_choices(MVBENCH, verdicts)
    shuffled = list(verdicts)
    rng.shuffle(shuffled)
    assert score_choices(MVBENCH, shuffled) == result
    # Ten lines that say what the numbers are.
    shares = []
    for name in {name for _, name in rows}:
        states = [state for state, other in rows if other == name]
        asked = [state for state in states if state not in ("missing", "pending")]
        if asked:
            shares.append(asked.count("correct") / len(asked))
            assert result["subtasks"][name]["accuracy"] == shares[-1]
        assert result["subtasks"][name]["num_items"] == len(states)
    expected = math.fsum(shares) / len(shares) if shares else None
    assert result["accuracy"] == (None if expected is None else pytest.approx(expected))
    assert sum(result["overall"][f"num_{state}"] for state in STATES) == len(rows)


def test_motionbench_counts_all_questions_alike():
    verdicts = [give_verdict(answered_as("correct", number, "one")) for number in range(3)]
    verdicts.append(give_verdict(answered_as("wrong", 9, "two")))
    result = score_choices(find_task("motionbench"), verdicts)
    assert (result["accuracy"], result["mean_of_subtasks"]["accuracy"]) == (0.75, 0.5)


def test_the_bracket_of_the_prompt_belongs_to_the_answer():
    item = Item("t/s/0", "t", "s", "v.mp4", "v", "q", "left", ("right", "left"), 1)
    states = {"B) left": "correct", "(B)": "correct", "left": "correct", "The answer is (B)": "correct", "B": "correct"}
    states |= {"A man": "unparsed", "A) or B)": "unparsed", "A": "wrong", "A) left": "unparsed", "": "unparsed"}
    for text, state in states.items():
        one = Answered(item, (Prediction(item.id, text),))
        assert give_verdict(one, "Best option: (").state == state


def test_items_survive_the_disk(tmp_path):
    items = [
        Item("t/s/0", "t", "s", None, "v\ud800", "q\u2028?", "a\n", ("x", "y"), 1, (0.5, 2.0), 3.0, {"type": "why"}),
        Item("t/s/1", "t", "s", "v.mp4", "v", "q", "a", extra={"question_2": "q2"}),
    ]
    write_items(tmp_path, items)
    assert read_items(tmp_path) == items
    whole = json.loads((tmp_path / "items.jsonl").read_bytes().splitlines()[1])
    wrong = [{"task": ["a"]}, {"extra": None}, {"id": [1]}, {"video": ["a"]}, {"answer": 5}, {"answer_index": "1"}]
    for text in ['{"id": 1}', "[" * 100_000, *(json.dumps({**whole, **change}) for change in wrong)]:
        (tmp_path / "items.jsonl").write_text(text + "\n")
        with pytest.raises(InputError, match="line 1 is no item; run dynimg-vl eval again"):
            read_items(tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*; run dynimg-vl eval first"):
        read_items(tmp_path / "none")


def test_a_prompt_from_a_file(tmp_path):
    path = tmp_path / "prompt.yaml"
    path.write_text('question: "Q: {question} {options}"\nsystem: Be brief.\n')
    prompt = read_prompt(path, MVBENCH.prompt)
    assert prompt == Prompt("Q: {question} {options}", "Be brief.", "Best option: (", 32)
    # What stands in a question is no place for anything.
    assert prompt.fill("a {options} {question.__class__}", ("x",)) == "Q: a {options} {question.__class__} (A) x"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("question: no place", r"question must hold \{question\}"), ("max_new_tokens: 0", "from 1 to 4096"),
        ("max_new_tokens: true", "must be a number"), ("prefix: 3", "prefix must be a text"), ("- a", "is no prompt"),
        ("what: x", "is no prompt; it may have the keys question, system, prefix, max_new_tokens"),
        (":\n:", "is not YAML"), ("a" * 70_000, "is it a prompt"), ("question: 2001-99-99", "is not YAML: month must"),
    ],
)  # fmt: skip
def test_a_prompt_that_is_none(tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_prompt(tmp_path / "p.yaml", Prompt())


def test_an_answer_that_is_no_option_is_refused():
    item = Item("t/s/0", "t", "s", "v.mp4", "v", "q", "left", ("right", "left"), 1)
    for choice in (99, -1):
        with pytest.raises(InputError, match=f"the answer to t/s/0 is option {choice} of 2; answer it anew"):
            give_verdict(Answered(item, (Prediction(item.id, "", choice=choice),)))


def test_options_must_be_shown_where_letters_are_asked_for(tmp_path, mvbench):
    with pytest.raises(InputError, match=r"must hold \{options\}"):
        predict_task(MVBENCH, mvbench, FakeEngine(), tmp_path, Settings(prompt=Prompt()))
    with pytest.raises(InputError, match="unknown mode 'best'; known: generate, likelihood"):
        predict_task(MVBENCH, mvbench, FakeEngine(), tmp_path, Settings(mode="best"))
