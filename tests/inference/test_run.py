"""A run that is stopped anywhere and started again ends in the same file; nothing is lost, nothing is doubled."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynimg_vl import InputError
from dynimg_vl.inference import journal
from dynimg_vl.inference.journal import RunFiles
from dynimg_vl.inference.records import decode_record, encode_record, read_predictions
from dynimg_vl.inference.requests import Prediction, Request
from dynimg_vl.inference.run import run, share_of

WORKER = Path(__file__).parent / "run_worker.py"


class Echo:
    """Answer each question with itself, in another order than asked; fail at ids in `failing`, stop before `stop`."""

    def __init__(self, failing=(), stop=None, name="echo"):
        self.failing, self.stop, self.name = failing, stop, name
        self.asked = []

    def describe(self):
        return {"kind": "echo", "model": self.name, "layout": {"size": (1, 2)}}

    def predict(self, requests):
        for number, request in enumerate(sorted(requests, key=lambda request: request.question, reverse=True)):
            if number == self.stop:
                raise KeyboardInterrupt
            self.asked.append(request.id)
            error = "no such video" if request.id in self.failing else None
            text = "" if error else f"{request.question}\u2028é\ud800"
            yield Prediction(request.id, text, error=error, usage={"new": number % 3}, seconds={"answer": time.time()})


def requests_of(count):
    return [Request(f"id{number}", f"clip{number // 3}.mp4", f"question {number:03d}") for number in range(count)]


def content(path):
    """Read a file of predictions without what may differ."""
    rows = [json.loads(line) for line in Path(path).read_bytes().split(b"\n")[:-1]]
    for row in rows:
        del row["seconds"]
        row["usage"] = {}  # of Echo: tells its place in a call
    return rows


@pytest.fixture
def whole(tmp_path):
    """Give the file of an uninterrupted run of 20 requests."""
    run(Echo(), requests_of(20), tmp_path / "whole")
    return content(tmp_path / "whole" / "predictions.jsonl")


# --- one process -----------------------------------------------------------------------------------------------------


def test_a_run_writes_one_line_for_each_request_in_their_order(tmp_path, whole):
    assert [row["id"] for row in whole] == [f"id{number}" for number in range(20)]
    pairs = list(read_predictions(tmp_path / "whole" / "predictions.jsonl"))
    assert [request for request, _ in pairs] == requests_of(20)
    assert pairs[3][1].text == "question 003\u2028é\ud800"
    header = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert header["engine"]["model"] == "echo"
    assert header["num_failed"] == 0
    (tmp_path / "whole" / "predictions.jsonl").read_text(encoding="utf-8")  # whatever the answers hold


def test_each_line_is_there_as_soon_as_it_is_done(tmp_path):
    seen = []

    class Watched(Echo):
        def predict(self, requests):
            for prediction in super().predict(requests):
                yield prediction
                seen.append(len(content(tmp_path / "run" / "predictions.jsonl")))

    run(Watched(), requests_of(5), tmp_path / "run")
    assert seen == [1, 2, 3, 4, 5]


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400)), max_size=4), count=st.integers(0, 12))
def test_interrupted_anywhere_it_ends_in_the_same_file(tmp_path_factory, cuts, count):
    """Stop after some answers and cut some bytes off what is written, as a power cut does, again and again."""
    folder = tmp_path_factory.mktemp("cuts")
    requests = requests_of(count)
    run(Echo(), requests, folder / "whole")
    for stop, num_bytes in cuts:
        try:
            run(Echo(stop=stop), requests, folder / "run")
        except KeyboardInterrupt:
            path = folder / "run" / "predictions.jsonl"
            with open(path, "r+b") as file:
                file.truncate(max(0, path.stat().st_size - num_bytes))
    result = run(Echo(), requests, folder / "run")
    assert result.is_joined
    assert content(result.path) == content(folder / "whole" / "predictions.jsonl")


def test_nothing_is_asked_twice(tmp_path, whole):
    asked = []
    for stop in (7, 5, None):
        engine = Echo(stop=stop)
        with contextlib.suppress(KeyboardInterrupt):
            result = run(engine, requests_of(20), tmp_path / "run")
        asked += engine.asked
    assert sorted(asked) == sorted(row["id"] for row in whole)
    assert result.num_new == 8
    again = run(engine := Echo(), requests_of(20), tmp_path / "run")
    assert (again.num_new, again.num_done, engine.asked) == (0, 20, [])


def test_a_line_that_is_damaged_in_the_middle_is_asked_again(tmp_path, whole):
    result = run(Echo(), requests_of(20), tmp_path / "run")
    lines = result.path.read_bytes().split(b"\n")
    lines[4] = lines[4][:30] + b"\x00\xff"
    lines[9] = b'{"id": 3}'
    result.path.write_bytes(b"\n".join(lines))
    assert run(Echo(), requests_of(20), tmp_path / "run").num_new == 2
    assert content(result.path) == whole


def test_errors_are_kept_and_asked_again(tmp_path, whole):
    failing = ("id3", "id7")
    first = run(Echo(failing), requests_of(20), tmp_path / "run")
    assert (first.num_failed, first.is_joined) == (2, True)
    assert [row["id"] for row in content(first.path) if row["error"]] == list(failing)
    engine = Echo()
    assert run(engine, requests_of(20), tmp_path / "run", retry_errors=False).num_failed == 2
    assert engine.asked == []
    assert run(Echo(("id3",)), requests_of(20), tmp_path / "run").num_failed == 1
    second = run(engine, requests_of(20), tmp_path / "run")
    assert engine.asked == ["id3"]
    assert second.num_failed == 0
    assert content(second.path) == whole


def test_what_an_engine_forgets_is_an_error(tmp_path):
    class Forgetful(Echo):
        def predict(self, requests):
            return super().predict(requests[1:])

    result = run(Forgetful(), requests_of(4), tmp_path / "run")
    assert result.num_failed == 1
    assert content(result.path)[0]["error"] == "the engine gave no answer"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"engine": Echo(name="other")}, 'engine.model is "other" now and was "echo"'),
        ({"requests": requests_of(19)}, "requests.count is 19 now and was 20"),
        ({"requests": [*requests_of(19), replace(requests_of(20)[-1], max_new_tokens=3)]}, "requests.sha256"),
        ({"settings": {"task": "b"}}, 'settings.task is "b" now and was "a"'),
        ({"settings": {}}, 'settings.task is null now and was "a"'),
    ],
)
def test_another_run_is_not_mixed_in(tmp_path, change, words):
    same = {"engine": Echo(), "requests": requests_of(20), "settings": {"task": "a"}, "out": tmp_path / "run"}
    run(**same)
    before = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    with pytest.raises(InputError, match=words.replace(".", r"\.")) as caught:
        run(**{**same, **change})
    assert "\n" not in str(caught.value)
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before
    assert run(**{**same, **change}, resume=False).is_joined


def test_what_cannot_be_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="two requests have the id 'id0'"):
        run(Echo(), [*requests_of(2), *requests_of(1)], tmp_path / "run")
    with pytest.raises(InputError, match="shard must be"):
        run(Echo(), requests_of(2), tmp_path / "run", shard=(2, 2))
    with pytest.raises(InputError, match="only a single process"):
        run(Echo(), requests_of(2), tmp_path / "run", shard=(0, 2), resume=False)
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot write to"):
        run(Echo(), requests_of(2), tmp_path / "file")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "predictions.jsonl").write_text("mine")
    with pytest.raises(InputError, match=r"not run\.json"):
        run(Echo(), requests_of(2), tmp_path / "foreign")
    assert (tmp_path / "foreign" / "predictions.jsonl").read_text() == "mine"
    (tmp_path / "foreign" / "run.json").write_text("{torn")
    with pytest.raises(InputError, match="cannot be read"):
        run(Echo(), requests_of(2), tmp_path / "foreign")


def test_the_output_may_be_a_file(tmp_path, whole):
    result = run(Echo(), requests_of(20), tmp_path / "new" / "answers.jsonl")
    assert content(tmp_path / "new" / "answers.jsonl") == whole
    visible = {path.name for path in result.path.parent.iterdir() if not path.name.startswith(".")}
    assert visible == {"answers.jsonl", "answers.run.json"}


def test_a_full_disk_is_one_line_and_keeps_what_there_is(tmp_path, whole, monkeypatch):
    real = open

    class Full:
        def __init__(self, file):
            self.file, self.room = file, 1500

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if self.room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = self.file.write(data[: self.room])  # a disk that fills up takes a part
            self.room -= written
            return written

    def opened(path, mode, **options):
        return Full(real(path, mode, **options)) if "a" in mode else real(path, mode, **options)

    monkeypatch.setattr(journal, "open", opened, raising=False)
    with pytest.raises(InputError, match="No space left on device") as caught:
        run(Echo(), requests_of(20), tmp_path / "run")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    kept = (tmp_path / "run" / "predictions.jsonl").read_bytes()
    assert kept.endswith(b"\n")
    assert kept.count(b"\n") > 3
    result = run(Echo(), requests_of(20), tmp_path / "run")
    assert result.num_new == 20 - kept.count(b"\n")
    assert content(result.path) == whole


def test_progress_counts_from_where_it_goes_on(tmp_path):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        run(Echo(stop=2), requests_of(4), tmp_path / "run", progress=lambda *numbers: seen.append(numbers))
    run(Echo(), requests_of(4), tmp_path / "run", progress=lambda *numbers: seen.append(numbers))
    assert seen == [(0, 4), (1, 4), (2, 4), (2, 4), (3, 4), (4, 4)]


@given(
    st.builds(
        Prediction,
        id=st.text(),
        text=st.text(),
        error=st.none() | st.text(),
        choice=st.none() | st.integers(0, 9),
        scores=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
        usage=st.dictionaries(st.text(), st.integers()),
        cost=st.none() | st.floats(0, 9),
    ),
    st.builds(
        Request,
        id=st.just(""),
        video=st.none() | st.text(),
        question=st.text(st.characters()),
        clip=st.none() | st.tuples(st.floats(0, 9), st.floats(0, 9)),
        choices=st.lists(st.text()).map(tuple),
    ),
)
def test_a_line_can_be_read_back(tmp_path_factory, prediction, request_):
    request_ = replace(request_, id=prediction.id)
    line = encode_record(request_, prediction)
    assert line.count(b"\n") == 1
    path = tmp_path_factory.mktemp("record") / "p.jsonl"
    path.write_bytes(line)
    assert list(read_predictions(path)) == [(request_, prediction)]
    for cut in range(0, len(line) - 1, 7):
        assert decode_record(line[:cut]) is None


# --- several processes -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 5))
def test_shares_are_the_whole(videos, count):
    requests = [Request(str(number), f"{video}.mp4", "what") for number, video in enumerate(videos)]
    shares = [share_of(requests, index, count) for index in range(count)]
    assert sorted(int(request.id) for share in shares for request in share) == list(range(len(requests)))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_who_finishes_last_joins(tmp_path, whole, order):
    results = [run(Echo(), requests_of(20), tmp_path / "run", shard=(index, 3)) for index in order]
    assert [result.is_joined for result in results] == [False, False, True]
    assert content(results[-1].path) == whole
    assert {path.name for path in (tmp_path / "run").iterdir() if path.name[0] != "."} == {
        "predictions.jsonl",
        "run.json",
    }


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_another_number_of_processes_goes_on(tmp_path, whole, before, after):
    asked = []
    for count, stop in ((before, 3), (after, None)):
        for index in range(count):
            engine = Echo(stop=stop, failing=("id5",) if stop else ())
            with contextlib.suppress(KeyboardInterrupt):
                result = run(engine, requests_of(20), tmp_path / "run", shard=(index, count))
            asked += engine.asked
    assert result.is_joined
    assert content(result.path) == whole
    assert len(asked) - len(set(asked)) <= 1  # id5 alone, where it was reached


def test_a_process_that_comes_late_to_a_joined_run_joins_again(tmp_path, whole):
    for index in (0, 1):
        run(Echo(("id5", "id2")), requests_of(20), tmp_path / "run", shard=(index, 2))
    for index in (0, 1):
        result = run(Echo(), requests_of(20), tmp_path / "run", shard=(index, 2))
        assert result.is_joined
    assert content(result.path) == whole


def test_two_do_not_write_the_same_part(tmp_path):
    folder = tmp_path / "run"

    class Nested(Echo):
        def predict(self, requests):
            for index, count in ((0, 2), (0, 1), (1, 3)):
                with pytest.raises(InputError, match="another process is writing"):
                    run(Echo(), requests_of(20), folder, shard=(index, count))
            # While one works, the other that ends does not join.
            assert not run(Echo(), requests_of(20), folder, shard=(1, 2)).is_joined
            yield from super().predict(requests)

    assert run(Nested(), requests_of(20), folder, shard=(0, 2)).is_joined
    assert RunFiles(folder).active() == []


# --- processes that are killed ---------------------------------------------------------------------------------------


def start(*arguments):
    return subprocess.Popen([sys.executable, WORKER, *map(str, arguments)], start_new_session=True)


def wait_for_lines(path, count, process):
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("kind", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_killed_and_started_again_it_ends_in_the_same_file(tmp_path, kind):
    """The worker stops in the middle of a line, after three of them and then after five more."""
    path = tmp_path / "run" / "predictions.jsonl"
    for count, own in ((3, 3), (8, 5)):
        process = start(tmp_path / "run", 0, 1, own)
        wait_for_lines(path, count, process)
        os.killpg(process.pid, kind)
        assert process.wait(30) == (-kind if kind == signal.SIGKILL else 130)
        assert RunFiles(tmp_path / "run").active() == []
    assert start(tmp_path / "run", 0, 1).wait(60) == 0
    assert start(tmp_path / "whole", 0, 1).wait(60) == 0
    assert content(path) == content(tmp_path / "whole" / "predictions.jsonl")


@pytest.mark.slow
def test_processes_at_once_and_one_killed(tmp_path):
    path = tmp_path / "run" / "predictions.jsonl"
    processes = [start(tmp_path / "run", index, 3, *([2] if index == 1 else [])) for index in range(3)]
    wait_for_lines(tmp_path / "run" / "predictions.1-of-3.jsonl", 2, processes[1])
    os.killpg(processes[1].pid, signal.SIGKILL)
    assert [process.wait(60) for process in processes] == [0, -signal.SIGKILL, 0]
    assert not path.exists()
    processes = [start(tmp_path / "run", index, 2) for index in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert start(tmp_path / "whole", 0, 1).wait(60) == 0
    assert content(path) == content(tmp_path / "whole" / "predictions.jsonl")
