"""`dynimg-vl judge` as a user meets it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynimg_vl.cli.app import main
from dynimg_vl.evaluation.judges.cases import Judgement, read_judgements
from dynimg_vl.evaluation.judges.judge import DEFAULT_MODEL
from dynimg_vl.evaluation.judges.scores import summarise
from evaluation_folders import choice_folder, dialogue_folder, open_folder
from openai_server import OpenAIServer, Reply, quota_exhausted

pytest.importorskip("openai")

ROWS = [("v1", "What?", "dog", "A dog runs."), ("v2", "Who?", "two men", "2 men"), ("v2", "How?", "fast", "slowly")]
YES = '{"pred": "yes", "score": 4}'


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line in this process, without a key; returns (exit code, stdout, stderr)."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def test_the_default_model_is_the_paper_s(run):
    assert f"[default: {DEFAULT_MODEL}]" in " ".join(run("judge", "--help")[1].split())


def test_rules_need_no_network_and_no_key(run, tmp_path):
    open_folder(tmp_path, ROWS)
    code, out, err = run("judge", tmp_path, "--judge", "containment", "--json")
    assert (code, err) == (0, "")
    [result] = json.loads(out)
    assert result["metrics"] == {
        "accuracy": pytest.approx(200 / 3),
        "accuracy_bounds": [pytest.approx(200 / 3)] * 2,
        "score": None,
    }
    assert result["judge"] == {"kind": "rule", "name": "containment"}
    [exact] = json.loads(run("judge", tmp_path / "msvd", "--judge", "exact", "--json")[1])
    assert exact["metrics"]["accuracy"] == pytest.approx(100 / 3)
    assert {path.name for path in (tmp_path / "msvd").glob("result-*")} == {
        "result-containment.json",
        "result-exact.json",
    }


def test_a_task_folder_named_from_within_has_the_same_cache(run, tmp_path, monkeypatch):
    open_folder(tmp_path, ROWS)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    with OpenAIServer(lambda body: YES) as server:
        given = ("--base-url", server.base_url, "--judge-model", "local/one")
        assert run("judge", folder, *given)[0] == 0
        monkeypatch.chdir(folder)
        assert "0 requests, 3 from the cache" in run("judge", ".", *given)[1]
    assert not list(folder.glob(".judge-cache*"))


def test_an_endpoint_end_to_end(run, tmp_path):
    open_folder(tmp_path, ROWS)
    dialogue_folder(tmp_path, 2)
    choice_folder(tmp_path, [("moving_count", "v", 0, "A")])
    with OpenAIServer(lambda body: YES if '"pred"' in str(body) else "{'score': 3}") as server:
        code, out, err = run(
            "judge", tmp_path, "--base-url", server.base_url, "--judge-model", "local/one", "--price", "1/2"
        )
        again = run("judge", tmp_path, "--base-url", server.base_url, "--judge-model", "local/one")
    assert code == again[0] == 0
    assert len(server.requests) == 3 + 2 * (4 * 3 + 2)
    assert f"31 requests to local/one at {server.base_url}" in err
    assert "US dollars at the price of 20" in err
    assert "accuracy 100.00, score 4.00 (judge local_one)" in out
    assert "mean_of_five 3.00, sample_weighted 3.00" in out
    assert "0 requests, 3 from the cache, 0 prompt and 0 new tokens, cost not known" in again[1]
    assert again[2] == ""
    assert (tmp_path / ".judge-cache.sqlite3").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no key for the judge: set OPENAI_API_KEY"),
        (["--judge-prompt", "nowhere.txt"], "nowhere.txt"),
        (["--price", "cheap"], "--price cheap"),
        (["--price", "-1/2"], "--price -1/2"),
        (["--judge", "psychic"], "psychic"),
        (["--base-url", "ftp://somewhere/v1"], "somewhere"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, arguments, message, monkeypatch):
    monkeypatch.setattr("dynimg_vl.inference.chat_client.Patience.__init__.__defaults__", (1, 0.001, 0.1, 1.0, 1))
    open_folder(tmp_path, ROWS)
    code, out, err = run("judge", tmp_path, *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_folders_that_hold_nothing_to_judge_are_one_line(run, tmp_path):
    assert "no evaluation in" in run("judge", tmp_path)[2]
    assert "no evaluation in" in run("judge", tmp_path / "nowhere")[2]
    folder = choice_folder(tmp_path / "a", [("moving_count", "v", 0, "A")])
    assert "nothing here needs a judge" in run("judge", folder)[2]
    dialogue_folder(tmp_path / "b", 1)
    assert "use --judge endpoint" in run("judge", tmp_path / "b", "--judge", "exact")[2]
    folder = open_folder(tmp_path / "c", ROWS)
    (folder / "predictions.jsonl").unlink()
    assert "no predictions yet" in run("judge", folder, "--judge", "exact")[2]
    (folder / "items.jsonl").write_text('{"id": 1}\n')
    code, out, err = run("judge", folder, "--judge", "exact")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_an_exhausted_quota_keeps_all_verdicts(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-top-secret-key")
    open_folder(tmp_path, [(f"v{n}", "What?", "dog", f"dog {n}") for n in range(20)])
    with OpenAIServer(lambda body: YES, lambda n, _: quota_exhausted() if 12 <= n < 20 else None) as server:
        arguments = ("judge", tmp_path, "--base-url", server.base_url, "--concurrency", 1)
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "quota" in err.splitlines()[-1]
        assert "exhausted" in err.splitlines()[-1]
        server._faults = ()
        before = len(server.requests)
        code, out, err = run(*arguments)
    assert code == 0
    assert "12 from the cache" in out
    assert len(server.requests) - before == 8
    assert b"top-secret" not in b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_full_disk_is_one_line(run, tmp_path):
    folder = open_folder(tmp_path, [(f"v{n}", "What?", "dog", f"dog {n}") for n in range(3)])
    with OpenAIServer(lambda body: YES) as server:
        code, out, err = run("judge", folder, "--base-url", server.base_url, "--cache", "/dev/full")
    assert (code, out) == (2, "")
    assert "cannot use the cache /dev/full" in err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_stopped_and_started_again_nothing_is_asked_twice(tmp_path, stop):
    """The ninth and the tenth request have no reply until the signal is sent, so that it always comes between."""
    folder = open_folder(tmp_path, [(f"v{n}", "What?", "dog", f"dog {n}") for n in range(30)])
    is_sent, is_over = threading.Event(), threading.Event()

    def reply(body):
        if len(server.requests) <= 8 or is_over.is_set():
            return YES
        is_sent.wait(60)
        return Reply(YES, seconds=0.2)

    with OpenAIServer(reply) as server:
        command = [sys.executable, "-m", "dynimg_vl", "judge", folder, "--base-url", server.base_url]
        command += ["--concurrency", "2"]
        environment = {**os.environ, "OPENAI_API_KEY": "k", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(server.requests) < 10:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(stop)
        is_sent.set()
        process.communicate(timeout=60)
        is_over.set()
        num_before = len(server.requests)
        assert process.returncode == (130 if stop == signal.SIGINT else -9)
        assert not list(folder.glob("result-*"))
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    # In flight when it was killed: at most as many as were asked at a time, and one that had just come back; where it
    # was interrupted, it waited for them.
    assert 30 <= len(server.requests) <= 30 + (0 if stop == signal.SIGINT else 3)
    assert num_before < 30
    judgements = read_judgements(folder / f"judgements-{DEFAULT_MODEL}.jsonl")
    assert [judgement.id for judgement in judgements] == [f"msvd/test/{number}" for number in range(30)]


STATES = ("judged", "unparsed", "missing", "failed", "unreachable")
judgements_of_a_task = st.lists(
    st.tuples(st.sampled_from(STATES), st.booleans(), st.integers(0, 5)), min_size=1, max_size=30
)


@settings(max_examples=50)
@given(judgements_of_a_task, st.randoms())
def test_shuffling_items_changes_no_score(rows, random):
    judgements = [
        Judgement(str(n), str(n), "test", f"v{n % 4}", "qa", state, *((yes, score) if state == "judged" else ()))
        for n, (state, yes, score) in enumerate(rows)
    ]
    summary = summarise(judgements)
    random.shuffle(judgements)
    assert summarise(judgements) == summary
    judged = [(yes, score) for state, yes, score in rows if state == "judged"]
    if judged:
        assert summary["metrics"]["accuracy"] == pytest.approx(100 * sum(yes for yes, _ in judged) / len(judged))
        assert summary["metrics"]["score"] == pytest.approx(sum(score for _, score in judged) / len(judged))
        low, high = summary["metrics"]["accuracy_bounds"]
        assert low <= summary["metrics"]["accuracy"] + 1e-9 <= high + 2e-9
    else:
        assert summary["metrics"]["accuracy"] is None
    assert sum(count for state, count in summary["counts"].items() if state != "total") == len(rows)
