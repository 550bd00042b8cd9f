"""`ask` with a model behind an endpoint, as a user meets it."""

import json
import subprocess
import sys

import pytest

from dynimg_vl.cli import endpoint as options
from dynimg_vl.cli.app import main
from dynimg_vl.inference import pictures
from openai_server import Fault, OpenAIServer, Reply, html, quota_exhausted, server_error, wrong_key

KEY = "sk-test-0123456789abcdef"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def run(capsys, ball_video):
    """Ask about the sample clip in this process; returns (exit code, stdout, stderr)."""

    def call(*arguments, video=ball_video):
        about = [] if video is None else [video]
        with pytest.raises(SystemExit) as stop:
            main(["ask", *map(str, [*about, *arguments])])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def last_words(body):
    return body["messages"][-1]["content"][-1]["text"]


def test_the_choices_offered_are_those_that_exist():
    assert options.REPRESENTATIONS == pictures.KINDS
    assert options.EQUALS == pictures.EQUALS
    assert options.FORMATS == pictures.FORMATS


def test_several_questions_are_answered_in_their_order(run):
    def reply(body):
        return Reply(f"to {last_words(body)}", seconds=0.2 if last_words(body) == "one" else 0)

    with OpenAIServer(reply=reply) as server:
        code, out, err = run("one", "two", "three", "--endpoint", server.base_url, "--endpoint-model", "m")
    assert (code, out, err) == (0, "to one\nto two\nto three\n", "")
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_json_tells_what_was_sent_and_what_it_cost(run, ball_video):
    given = ("--representation", "grid", "--grid", "2x2", "--price", "1000/2000", "--num-dynimgs", "2", "--json")
    with OpenAIServer() as server:
        code, out, _ = run("What?", "--endpoint", server.base_url, *given)
    told = json.loads(out)
    assert code == 0
    assert (told["answer"], told["video"], told["question"]) == ("yes", str(ball_video), "What?")
    assert (told["model"], told["endpoint"]) == ("local-model-0001", server.base_url)
    assert told["usage"] == {"prompt": 10, "new": 2}
    assert told["cost_usd"] == pytest.approx(0.014)
    assert told["num_pictures"] == 1
    assert [len(row) for row in told["frames"]] == [4]
    assert told["representation"]["num_dynimgs"] == 2
    assert KEY not in out


def test_an_address_without_a_path_gets_one_and_a_single_model_needs_no_name(run):
    with OpenAIServer() as server:
        code, out, _ = run("What?", "--endpoint", server.base_url.removesuffix("/v1"))
    assert (code, out) == (0, "yes\n")
    assert server.requests[0]["model"] == "local-model-0001"


def test_a_stream_is_printed(run):
    with OpenAIServer(reply=lambda body: f"About {last_words(body)}") as server:
        code, out, _ = run("one", "two", "--endpoint", server.base_url, "--stream", "--max-new-tokens", "9")
    assert (code, out) == (0, "About one\nAbout two\n")
    assert all(body["stream"] and body["max_tokens"] == 9 for body in server.requests)


def test_a_server_without_keys_needs_none(run, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with OpenAIServer(faults=[None, wrong_key()]) as server:
        assert run("What?", "--endpoint", server.base_url)[:2] == (0, "yes\n")
        code, out, err = run("What?", "--endpoint", server.base_url)
    assert (code, out) == (2, "")
    assert "set OPENAI_API_KEY" in err


def test_a_batch_of_an_endpoint_goes_on_where_it_was(run, ball_video, tmp_path):
    lines = [{"id": str(n), "video": str(ball_video), "question": f"question {n}"} for n in range(6)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ("--batch", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--workers", "0", "--concurrency", "1",
             "--start", "0.5", "--retries", "0", "--endpoint-model", "m", "--price", "1/1")  # fmt: skip
    with OpenAIServer(reply=lambda body: f"to {last_words(body)}", faults=[None, None, quota_exhausted()]) as server:
        code, _, err = run(*given, "--endpoint", server.base_url, video=None)
        assert code == 2
        assert "quota" in err
        assert run(*given, "--endpoint", server.base_url, video=None)[0] == 0
    # Two answers, the one refused, and the four that were missing; with one at a time, a second may have been begun.
    assert 7 <= len(server.requests) <= 8
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in found] == [line["id"] for line in lines]
    assert [line["text"] for line in found] == [f"to question {n}" for n in range(6)]
    assert all(line["cost"] == pytest.approx(12e-6) for line in found)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY in path.read_text(errors="ignore")]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (wrong_key(), "does not accept the API key"),
        (quota_exhausted(), "quota"),
        (html(), "answers with a web page"),
        (server_error(), "The server had an error"),
        (Fault(200, b"{}"), "no completion"),
    ],
    ids=["key", "quota", "page", "500", "nonsense"],
)
def test_failures_are_one_line(run, fault, words):
    with OpenAIServer(faults=lambda number, body: fault) as server:
        code, out, err = run("What?", "--endpoint", server.base_url, "--endpoint-model", "m", "--retries", "0")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert words in err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--endpoint", "localhost:8000"], "is no address of an endpoint"),
        (["--endpoint", "file:///etc/passwd"], "is no address of an endpoint"),
        (["--endpoint", "http://127.0.0.1:9"], "no connection to http://127.0.0.1:9/v1"),
        (["--endpoint", "http://127.0.0.1:9", "--endpoint-model", "m", "--retries", "0"], "no connection to"),
        (["--endpoint", "http://127.0.0.1:9", "--model", "x"], "--model is for models of this machine"),
        (["--endpoint", "http://127.0.0.1:9", "--device", "cpu"], "--device is for models of this machine"),
        (["--endpoint", "http://127.0.0.1:9", "--grid", "3x2"], "--grid needs --representation grid"),
        (["--endpoint", "http://127.0.0.1:9", "--equal", "pixels"], "--equal needs --representation"),
        (["--endpoint", "http://127.0.0.1:9", "--representation", "grid", "--grid", "3"], "as in 3x2"),
        (["--endpoint", "http://127.0.0.1:9", "--representation", "grid", "--grid", "99x99"], "1 to 64 cells"),
        (["--endpoint", "http://127.0.0.1:9", "--price", "5"], "as in 0.5/1.5"),
        (["--endpoint", "http://127.0.0.1:9", "--num-prompts", "5"], "do not fit"),
        (["--endpoint", "http://127.0.0.1:9", "--stream", "--json"], "leave it or --json out"),
        (["--representation", "grid"], "--representation is for a model behind an endpoint"),
        (["--pictures", "jpeg"], "--pictures is for a model behind an endpoint"),
        (["--stream"], "--stream is for a model behind an endpoint"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_options_that_do_not_fit_are_one_line(run, given, words):
    code, out, err = run("What?", *given)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert words in err


def test_no_torch_is_loaded_for_an_endpoint(ball_video):
    code = """
import sys
from dynimg_vl.cli.app import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    sys.exit(stop.code or 9 * ("torch" in sys.modules or "transformers" in sys.modules))
"""
    with OpenAIServer() as server:
        arguments = ["ask", str(ball_video), "What?", "--endpoint", server.base_url]
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "yes\n"), result.stderr


def test_an_endpoint_that_lists_no_models_is_asked_about_one_that_is_named(run, monkeypatch):
    monkeypatch.setattr("openai_server._Handler.do_GET", lambda self: self._send(404, b'{"detail": "Not Found"}'))
    with OpenAIServer() as server:
        code, _, err = run("What?", "--endpoint", server.base_url)
        assert code == 2
        assert "does not tell which models it serves; check the address, or name a model with --endpoint-model" in err
        assert run("What?", "--endpoint", server.base_url, "--endpoint-model", "m")[:2] == (0, "yes\n")


def test_what_the_environment_holds_for_openai_goes_nowhere_else(run, monkeypatch):
    for name, value in (("ORG_ID", "mine"), ("PROJECT_ID", "mine"), ("CUSTOM_HEADERS", "X-Gateway: mine")):
        monkeypatch.setenv(f"OPENAI_{name}", value)
    with OpenAIServer() as server:
        assert run("What?", "--endpoint", server.base_url)[0] == 0
    assert not any("mine" in headers.values() for headers in server.headers)


def test_of_several_models_one_must_be_named(run, monkeypatch):
    monkeypatch.setattr("dynimg_vl.inference.chat_client.ChatClient.models", lambda self: ["small", "large"])
    code, _, err = run("What?", "--endpoint", "http://127.0.0.1:9")
    assert code == 2
    assert "serves small, large; name one with --endpoint-model" in err
