"""`ask --batch` as a user meets it, and the same work shared by processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from dynimg_vl.cli.app import main
from dynimg_vl.inference.request_file import read_requests
from runs import group_lives


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tiny.save_tiny(path)
    return path


@pytest.fixture
def run(capsys):
    """Run the command line in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def questions(clips, tmp_path):
    """Write a file of questions about the clips, which lie in a folder beside it."""
    (tmp_path / "videos").symlink_to(Path(clips[0]).parent)
    rows = [
        {"video": f"videos/{Path(clips[number % 3]).name}", "question": f"what moves {'x' * number}"}
        for number in range(9)
    ]
    rows[4] |= {"id": "named", "clip": [0.1, 0.9], "max_new_tokens": 4}
    return write(tmp_path / "in.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path, without=("seconds",)):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in without} for row in rows]


def test_a_batch_answers_as_one_by_one(run, folder, questions, tmp_path):
    options = ["--model", folder, "--max-new-tokens", 6, "--device", "cpu"]
    out = tmp_path / "out"
    code, stdout, _ = run("ask", "--batch", questions, "-o", out, "--workers", 0, "--batch-size", 4, *options)
    assert code == 0
    assert stdout == f"{out / 'predictions.jsonl'}: 9 answers to 9 questions, 9 of them asked now\n"
    found = rows_of(out / "predictions.jsonl")
    assert [row["id"] for row in found] == ["1", "2", "3", "4", "named", "6", "7", "8", "9"]
    for row, request in zip(found, read_requests(questions), strict=True):
        clip = ["--start", 0.1, "--end", 0.9] if request.clip else []
        limit = ["--max-new-tokens", 4] if request.clip else []
        alone = json.loads(run("ask", request.video, request.question, *options, *clip, *limit, "--json")[1])
        assert row["text"] == alone["answer"]
        assert row["usage"]["visual"] == alone["num_visual_tokens"]
        assert row["frames"]["frames"] == alone["frames"]
    code, stdout, _ = run("ask", "--batch", questions, "-o", out, *options, "--json")
    assert json.loads(stdout) == {
        "predictions": str(out / "predictions.jsonl"), "num_requests": 9, "num_done": 9, "num_failed": 0, "num_new": 0,
    }  # fmt: skip


def test_what_fails_is_counted_and_named(run, folder, questions, tmp_path):
    with open(questions, "a") as file:
        file.write('\n{"video": "gone.mp4", "question": "what"}\n')
    arguments = ["ask", "--batch", questions, "-o", tmp_path / "out.jsonl", "--model", folder, "--workers", 0]
    code, stdout, stderr = run(*arguments, "--max-new-tokens", 2)
    assert code == 1
    assert "9 answers to 10 questions" in stdout
    assert stderr == f'1 without an answer: see "error" in {tmp_path / "out.jsonl"}\n'
    assert "gone.mp4" in rows_of(tmp_path / "out.jsonl")[-1]["error"]
    code, stdout, stderr = run(*arguments, "--max-new-tokens", 3)
    assert (code, stdout) == (2, "")
    assert "another run: requests.sha256" in stderr
    assert run(*arguments, "--max-new-tokens", 3, "--restart")[0] == 1


@pytest.mark.parametrize("name", ["predictions.jsonl", "run.json", "predictions.0-of-2.jsonl"])
def test_questions_among_the_files_of_the_output_are_not_removed(run, folder, questions, tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir()
    path.write_bytes(questions.read_bytes())
    code, _, stderr = run("ask", "--batch", path, "-o", path.parent, "--model", folder, "--restart")
    assert code == 2
    assert "is the file of the questions and one of the output" in stderr
    assert path.read_bytes() == questions.read_bytes()


GOOD = {"video": "a.mp4", "question": "what"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "a request is an object"),
        (json.dumps({"video": "a.mp4"}), "'question' is missing"),
        (json.dumps({"question": "what"}), "'video' is missing (null"),
        (json.dumps({**GOOD, "question": "  "}), "'question' must be text"),
        (json.dumps({**GOOD, "question": None}), "'question' must be text"),
        (json.dumps({**GOOD, "video": 3}), "'video' must be a path"),
        (json.dumps({**GOOD, "video": "a\0b"}), "'video' must be a path"),
        (json.dumps({**GOOD, "clip": [2, 1]}), "'clip' must be [first, last]"),
        (json.dumps({**GOOD, "clip": [0, float("inf")]}), "'clip' must be [first, last]"),
        (json.dumps({**GOOD, "max_new_tokens": True}), "'max_new_tokens' must be a whole number"),
        (json.dumps({**GOOD, "fps": 10**400}), "'fps' must be"),
        (json.dumps({**GOOD, "clip": [0, 10**400]}), "'clip' must be [first, last]"),
        (json.dumps({**GOOD, "choices": ["a"]}), "'choices' must be a list"),
        (json.dumps({**GOOD, "qestion": "what"}), "'qestion' is not known"),
        (json.dumps({**GOOD, "id": [1]}), "'id' must be"),
        (json.dumps({**GOOD, "id": 1}), "the id '1' is that of line 1"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_loaded(run, tmp_path, line, words):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n")
    code, stdout, stderr = run("ask", "--batch", path, "-o", tmp_path / "out", "--model", tmp_path / "no_model")
    assert (code, stdout) == (2, "")
    assert stderr.startswith(f"error: line 3 of {path}")
    assert words in stderr
    assert len(stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_line_says_all_that_a_request_has(tmp_path):
    row = {
        "id": 7, "video": None, "question": " what ", "system": "be brief", "prefix": "It ", "clip": [0, 2.5],
        "fps": 3, "choices": ["a", "b"], "max_new_tokens": 3,
    }  # fmt: skip
    (request,) = read_requests(write(tmp_path / "in.jsonl", [row]))
    expected = {**row, "id": "7", "question": "what", "clip": (0, 2.5), "choices": ("a", "b")}
    assert vars(request) == expected
    (request,) = read_requests(write(tmp_path / "in.jsonl", [{**GOOD, "video": "http://a/b.mp4"}]), max_new_tokens=9)
    assert (request.video, request.max_new_tokens) == ("http://a/b.mp4", 9)
    (request,) = read_requests(write(tmp_path / "in.jsonl", [{**GOOD, "video": "/abs/b.mp4"}]))
    assert request.video == "/abs/b.mp4"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a VIDEO and a QUESTION"),
        (["a.mp4"], "what is to be asked about a.mp4"),
        (["a.mp4", "what", "--batch-size", "3"], "--batch-size is for many questions"),
        (["a.mp4", "what", "-o", "x"], "--output is for many questions"),
        (["a.mp4", "what", "--restart"], "--restart is for many questions"),
        (["a.mp4", "what", "--batch", "IN", "-o", "OUT"], "leave VIDEO and QUESTION out"),
        (["--batch", "IN"], "where to?"),
        (["--batch", "IN", "-o", "IN"], "is the file of the questions"),
        (["--batch", "none.jsonl", "-o", "OUT"], "cannot read none.jsonl"),
        (["--batch", "EMPTY", "-o", "OUT"], "holds no request"),
        (["--batch", "IN", "-o", "OUT", "--stream"], "--stream is for one video"),
        (["--batch", "IN", "-o", "OUT", "--endpoint", "http://a", "--batch-size", "3"], "--concurrency"),
        (["--batch", "IN", "-o", "OUT", "--device", "nonsense"], "device nonsense"),
    ],
)
def test_what_does_not_go_together_is_refused(run, tmp_path, arguments, words):
    places = {"IN": write(tmp_path / "in.jsonl", [GOOD]), "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    places["EMPTY"].write_text("\n\n")
    code, stdout, stderr = run("ask", *(places.get(argument, argument) for argument in arguments))
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert len(stderr.splitlines()) == 1


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}


def ask(questions, out, folder, *more):
    words = ["ask", "--batch", questions, "-o", out, "--model", folder, "--device", "cpu", "--max-new-tokens", "6"]
    return [str(word) for word in (*words, *more)]


@pytest.mark.slow
def test_processes_share_a_batch(questions, folder, tmp_path):
    rows = [
        {**row, "id": f"{turn}.{number}", "video": str(tmp_path / row["video"])}
        for turn in range(4)
        for number, row in enumerate(map(json.loads, questions.read_text().splitlines()))
    ]
    many = write(tmp_path / "many.jsonl", rows)
    alone = [sys.executable, "-m", "dynimg_vl", *ask(many, tmp_path / "alone", folder)]
    subprocess.run(alone, env=environment(), check=True, timeout=300)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "dynimg_vl"]
    command = [*launch, *ask(many, tmp_path / "shared", folder, "--workers", 0)]
    result = subprocess.run(command, env=environment(), check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("36 answers to 36 questions") == 1
    assert {path.name for path in (tmp_path / "shared").glob("[!.]*")} == {"predictions.jsonl", "run.json"}
    assert rows_of(tmp_path / "shared" / "predictions.jsonl") == rows_of(tmp_path / "alone" / "predictions.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_batch_goes_on_and_leaves_no_process_behind(questions, folder, tmp_path, kind):
    command = [sys.executable, "-m", "dynimg_vl"]
    rows = [
        {**json.loads(line), "id": f"{turn} {line}"}
        for turn in range(20)
        for line in questions.read_text().splitlines()
    ]
    many = write(questions.parent / "many.jsonl", rows)
    options = ["--workers", 2, "--batch-size", 3]
    process = subprocess.Popen(
        [*command, *ask(many, tmp_path / "out", folder, *options)], env=environment(), start_new_session=True
    )
    path, deadline = tmp_path / "out" / "predictions.jsonl", time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(kind)
    assert process.wait(60) == (-kind if kind == signal.SIGKILL else 130)
    while group_lives(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 3 <= path.read_bytes().count(b"\n") < len(rows)
    for out in ("out", "whole"):
        subprocess.run([*command, *ask(many, tmp_path / out, folder, *options)], env=environment(), check=True)
    assert rows_of(path) == rows_of(tmp_path / "whole" / "predictions.jsonl")
