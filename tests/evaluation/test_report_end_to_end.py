"""From official files to a report: predict, judge through a server that fails in every way, report; then go on."""

import json
import re
import threading
from collections import Counter

import pytest

import miniature
from dynimg_vl.cli.app import main
from dynimg_vl.evaluation.predict import predict_task
from dynimg_vl.evaluation.tasks import find_task
from dynimg_vl.evaluation.tasks.mvbench import FILES
from openai_server import OpenAIServer, Reply, cut, html, nonsense, rate_limited, server_error

pytest.importorskip("openai")

PASSING = [rate_limited(0.001), server_error(), cut(0), cut(30), html(502), nonsense(), nonsense(b"null"), None, None]


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setattr("dynimg_vl.inference.chat_client.Patience.__init__.__defaults__", (12, 0.001, 0.05, 5.0, 50))

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def verdict(body):
    """Right where the question has an even number of letters; some replies are nonsense, refused, or cut to pieces."""
    text = body["messages"][1]["content"]
    question = re.search(r"[Qq]uestion: (.*)", text)[1]
    if question == "q0":
        return "I cannot decide."
    if question == "q1":
        return Reply(None, refusal="No.")
    decision = '"pred": "yes", ' if len(question) % 2 == 0 else '"pred": "no", '
    return "{" + (decision if '"pred"' in text else "") + f'"score": {len(question) % 6}' + "}"


def test_predict_judge_report(run, tmp_path):
    makers = {
        "msvd": miniature.msvd,
        "videochatgpt": miniature.video_chatgpt,
        "mvbench": lambda root: miniature.choices_of(root, FILES.subtasks),
    }
    out = tmp_path / "out"
    for name, make in makers.items():
        root = tmp_path / "data" / name
        make(root)
        predict_task(find_task(name), root, miniature.FakeEngine(lambda request: "A"), out)
    asked, lock = Counter(), threading.Lock()

    def faults(number, body):
        # By how often this very question has come: counted over all, one request could meet nothing but faults.
        key = json.dumps(body["messages"])
        with lock:
            asked[key] += 1
            return PASSING[(len(key) + asked[key]) % len(PASSING)]

    with OpenAIServer(verdict, faults) as server:
        arguments = ("judge", out, "--base-url", server.base_url, "--judge-model", "j", "--json")
        code, text, _ = run(*arguments)
        assert code == 0
        num_first = len(server.requests)
        assert num_first > 20
        results = {result["task"]: result for result in json.loads(text)}
        # Only what got no verdict is asked again.
        again = {result["task"]: result for result in json.loads(run(*arguments)[1])}
    for name, result in results.items():
        assert again[name]["metrics"] == result["metrics"]
        items = [json.loads(line) for line in (out / name / "items.jsonl").read_text().splitlines()]
        lines = [json.loads(line) for line in (out / name / "judgements-j.jsonl").read_text().splitlines()]
        assert list(dict.fromkeys(line["item_id"] for line in lines)) == [item["id"] for item in items]
        missing = {item["id"] for item in items if item["video"] is None}
        assert missing
        assert {line["item_id"] for line in lines if line["state"] == "missing"} == missing
        judged = [line for line in lines if line["state"] == "judged"]
        assert result["counts"]["judged"] == len(judged) > 0
        if name == "msvd":
            right = sum(line["is_correct"] for line in judged)
            assert result["metrics"]["accuracy"] == pytest.approx(100 * right / len(judged))
            assert result["metrics"]["score"] == pytest.approx(sum(line["score"] for line in judged) / len(judged))
    states = {line["state"] for line in lines}
    assert {"unparsed", "refused"} <= states
    code, text, err = run("report", out, "--json")
    assert (code, err) == (0, "")
    measured = {one["task"]: one for one in json.loads(text)["measured"]}
    assert set(measured) == set(makers)
    for name, result in results.items():
        for metric, value in result["metrics"].items():
            if isinstance(value, float):
                assert measured[name]["scores"][metric]["value"] == pytest.approx(value), (name, metric)
    official = json.loads((out / "mvbench" / "result.json").read_text())
    assert measured["mvbench"]["scores"]["accuracy"]["value"] == pytest.approx(100 * official["accuracy"])
    # How options were chosen stands beside the numbers, as who judged does.
    facts = measured["mvbench"]["judge"]
    assert (facts["mode"], facts["prompt_sha256"]) == (official["mode"], official["prompt_sha256"])
    assert run("report", out, "-o", tmp_path / "report.html")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert "I cannot decide." in page
    assert "none needed: generate" in page
    assert official["prompt_sha256"][:12] in page
