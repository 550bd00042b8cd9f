"""Judging through an endpoint that fails in every way it can."""

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from dynimg_vl.errors import InputError
from dynimg_vl.evaluation.judges.cache import JudgeCache
from dynimg_vl.evaluation.judges.cases import read_judgements
from dynimg_vl.evaluation.judges.judge import EndpointJudge, Price
from dynimg_vl.evaluation.judges.prompts import read_prompts
from dynimg_vl.evaluation.judges.run import judge_plan, plan_judging
from dynimg_vl.inference.chat_client import ChatClient, ChatStopped, Patience
from evaluation_folders import dialogue_folder, open_folder
from openai_server import (
    Fault,
    OpenAIServer,
    Reply,
    api_error,
    bad_request,
    cut,
    hang,
    html,
    no_such_model,
    nonsense,
    quota_exhausted,
    rate_limited,
    server_error,
    wrong_key,
)  # fmt: skip

pytest.importorskip("openai")

QUICK = Patience(attempts=4, backoff_seconds=0.001, longest_seconds=0.5, timeout_seconds=2.0, failures=6)
YES, NO = "{'pred': 'yes', 'score': 4}", "{'pred': 'no', 'score': 1}"


def rows(count):
    return [(f"vid{number % 3}", f"What is item {number}?", "dog", f"prediction {number}") for number in range(count)]


def number_in(body):
    return int(re.search(r"prediction (\d+)", body["messages"][1]["content"])[1])


def verdict_of(body):
    """Judge like a machine: even items are right, with a score that follows from the number."""
    number = number_in(body)
    return str({"pred": "no" if number % 2 else "yes", "score": number % 6})


def judge_with(server, folder, *, patience=QUICK, concurrency=4, prompts=None, name="judge-1", **options):
    client = ChatClient(name, "sk-very-secret", server.base_url, patience)
    judge = EndpointJudge(client, prompts or read_prompts(), JudgeCache(folder / "cache.sqlite3"))
    result = judge_plan(plan_judging(folder), judge, concurrency=concurrency, **options)
    return result, read_judgements(folder / f"judgements-{judge.name}.jsonl")


def test_scores_are_those_of_a_ten_line_reference(tmp_path):
    folder = open_folder(tmp_path, rows(25))
    with OpenAIServer(verdict_of) as server:
        result, judgements = judge_with(server, folder)
    yes = scores = 0
    for number in range(25):
        reply = json.loads(verdict_of({"messages": [{}, {"content": f"prediction {number}"}]}).replace("'", '"'))
        yes += reply["pred"] == "yes"
        scores += reply["score"]
    assert result["metrics"]["accuracy"] == pytest.approx(100 * yes / 25)
    assert result["metrics"]["score"] == pytest.approx(scores / 25)
    assert result["counts"] == {"total": 25, "judged": 25}
    assert [judgement.id for judgement in judgements] == [f"msvd/test/{number}" for number in range(25)]
    assert json.loads((folder / "result-judge-1.json").read_text()) == json.loads(json.dumps(result))


def test_the_request_is_the_protocol_s_and_the_result_says_who_judged(tmp_path):
    folder = open_folder(tmp_path, rows(1))
    with OpenAIServer(verdict_of, model="judge-1-2026") as server:
        result, _ = judge_with(server, folder, price=Price(1.0, 2.0, "2026-01-01"))
    [request] = server.requests
    assert request["temperature"] == 0
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    judge = result["judge"]
    assert (judge["model"], judge["models_returned"]) == ("judge-1", ["judge-1-2026"])
    assert judge["prompt"] == {"source": "built-in", "sha256": read_prompts().hash}
    assert result["spending"]["cost_usd"] == pytest.approx((10 * 1.0 + 2 * 2.0) / 1e6)
    assert {"python", "openai", "dynimg-vl"} <= result["versions"].keys()
    assert "very-secret" not in "".join(path.read_text("latin-1") for path in folder.iterdir())


def test_the_five_dimensions_and_both_averages(tmp_path):
    folder = dialogue_folder(tmp_path, num_videos=3)
    words = {"factually": 4, "detail": 3, "context": 5, "time": 2, "consistent": 1}

    def reply(body):
        [score] = [score for word, score in words.items() if word in body["messages"][0]["content"].split(". It")[0]][
            :1
        ]
        return str({"score": score})

    with OpenAIServer(reply) as server:
        result, judgements = judge_with(server, folder)
    means = {name: result["metrics"][name] for name in ("CI", "DO", "CU", "TU", "CO")}
    assert means == {"CI": 4, "DO": 3, "CU": 5, "TU": 2, "CO": 1}
    assert result["metrics"]["mean_of_five"] == pytest.approx(3.0)
    assert result["metrics"]["sample_weighted"] == pytest.approx((12 * (4 + 3 + 5) + 3 * 2 + 3 * 1) / (12 * 3 + 3 + 3))
    assert len(judgements) == len(server.requests) == 12 * 3 + 3 + 3
    pairs = [body["messages"][1]["content"] for body in server.requests if "Second question" in str(body)]
    assert len(pairs) == 3
    for text in pairs:
        # The first answer beside the first question, the second beside the second, of the same item.
        number = re.search(r"First question: What of consistency (\d+)", text)[1]
        assert f"Second question: And consistency {number}?" in text
        assert f"first question: answer to videochatgpt/consistency/{number}/q1" in text
        assert f"second question: answer to videochatgpt/consistency/{number}/q2" in text


def test_all_that_passes_is_retried_until_it_works(tmp_path):
    # An answer first: an endpoint that begins with a web page is a wrong address.
    faults = [
        None, rate_limited(0.001), rate_limited(None), server_error(500), server_error(503), cut(0), cut(40),
        html(502), html(200), nonsense(), nonsense(b""), nonsense(b"null"),
        nonsense(b"[]"), nonsense(b"{}"), nonsense(b'{"choices": []}'),
        nonsense(b'{"choices": [{"message": null}]}'), nonsense(b'{"error": {"message": "within 200"}}'),
        api_error(429, "slow down", Retry_After="Sat, 01 Jan 2000 00:00:00 GMT"),
        api_error(408, "timeout", retry_after_ms="1"), api_error(429, "slow down", Retry_After="soon"),
    ]  # fmt: skip
    folder = open_folder(tmp_path, rows(10))
    with OpenAIServer(verdict_of, faults) as server:
        result, judgements = judge_with(server, folder, patience=Patience(25, 0.001, 0.01, 5.0, 100), concurrency=1)
    assert result["counts"] == {"total": 10, "judged": 10}
    assert len(server.requests) == 10 + len(faults) - 1
    assert [judgement.score for judgement in judgements] == [number % 6 for number in range(10)]


def test_a_server_that_says_how_long_is_obeyed(tmp_path):
    folder = open_folder(tmp_path, rows(1))
    moments = []

    def faults(number, body):
        moments.append(time.monotonic())
        return rate_limited(0.2) if number == 0 else None

    with OpenAIServer(verdict_of, faults) as server:
        judge_with(server, folder)
    assert moments[1] - moments[0] >= 0.2


def test_silence_ends_with_the_timeout_and_is_recorded(tmp_path):
    folder = open_folder(tmp_path, rows(3))
    # Whoever does answer has a second, and a second try: far more than it takes.
    patience = Patience(attempts=2, backoff_seconds=0.001, longest_seconds=0.1, timeout_seconds=1.0, failures=10)
    with OpenAIServer(verdict_of, lambda number, body: hang() if number_in(body) == 1 else None) as server:
        result, judgements = judge_with(server, folder, patience=patience)
    assert result["counts"] == {"total": 3, "judged": 2, "unreachable": 1}
    assert judgements[1].message == "no answer within 1 s (2 attempts)"
    assert result["metrics"]["accuracy"] == 100.0
    assert result["metrics"]["accuracy_bounds"] == [pytest.approx(200 / 3), 100.0]


def test_what_cannot_be_read_is_asked_again_then_recorded_and_never_a_zero(tmp_path):
    folder = open_folder(tmp_path, rows(4))

    def reply(body):
        number, asked = number_in(body), len(body["messages"])
        if number == 1:
            return "I would rather not say."
        return "Hmm." if number == 2 and asked == 2 else YES

    with OpenAIServer(reply) as server:
        result, judgements = judge_with(server, folder)
    assert result["counts"] == {"total": 4, "judged": 3, "unparsed": 1}
    assert result["metrics"] == {"accuracy": 100.0, "accuracy_bounds": [75.0, 100.0], "score": 4.0}
    assert judgements[1].replies == ("I would rather not say.",) * 3
    assert (judgements[1].is_correct, judgements[1].score) == (None, None)
    assert judgements[2].replies == ("Hmm.", YES)
    assert len(server.requests) == 1 + 3 + 2 + 1


def test_half_a_surrogate_pair_is_not_sent(tmp_path):
    folder = open_folder(tmp_path, [("vid", "What?", "dog", "a \ud83d"), *rows(1)])
    with OpenAIServer(verdict_of) as server:
        result, judgements = judge_with(server, folder)
    assert [judgement.state for judgement in judgements] == ["rejected", "judged"]
    assert len(server.requests) == 1
    assert result["counts"] == {"total": 2, "judged": 1, "rejected": 1}


def test_refusals_and_rejected_requests_are_told_apart(tmp_path):
    folder = open_folder(tmp_path, rows(4))

    def reply(body):
        number = number_in(body)
        if number == 1:
            return Reply(None, refusal="I can't help with that")
        return Reply("", finish_reason="content_filter") if number == 2 else Reply(YES, usage=None)

    with OpenAIServer(reply, lambda _, body: bad_request() if number_in(body) == 3 else None) as server:
        result, judgements = judge_with(server, folder)
    assert [judgement.state for judgement in judgements] == ["judged", "refused", "refused", "rejected"]
    assert "maximum context length" in judgements[3].message
    assert result["spending"]["num_without_counts"] == 1


def test_items_without_an_answer_are_counted_and_not_asked(tmp_path):
    table = [
        ("a", "q", "dog", "prediction 0"),
        ("b", "q", "dog", None),
        ("c", "q", "dog", ValueError("torn")),
        ("d", "q", "dog", ...),
    ]
    folder = open_folder(tmp_path, table)
    with OpenAIServer(verdict_of) as server:
        result, _ = judge_with(server, folder)
    assert result["counts"] == {"total": 4, "judged": 1, "failed": 1, "missing": 1, "pending": 1}
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (wrong_key(), "does not accept the API key"),
        (api_error(403, "country not supported"), "does not accept the API key"),
        (quota_exhausted(), "quota .* exhausted"),
        (api_error(402, "pay first"), "quota .* exhausted"),
        (no_such_model(), "no model 'judge-1'"),
        (api_error(429, "try tomorrow", Retry_After="86400"), "asks to wait 86400 s"),
        (bad_request("temperature is not supported"), "6 requests in a row .* temperature is not supported"),
        (html(200), "6 requests in a row .* no completion"),
        (cut(0), "6 requests in a row .* no connection"),
    ],
)
def test_what_will_not_pass_stops_at_once_and_everything_is_kept(tmp_path, fault, message):
    folder = open_folder(tmp_path, rows(40))
    with OpenAIServer(verdict_of, lambda number, _: fault if number >= 8 else None) as server:  # noqa: SIM117
        with pytest.raises(ChatStopped, match=message) as caught:
            judge_with(server, folder, concurrency=2)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(server.requests) < 80
    assert not list(folder.glob("result-*"))
    client = ChatClient("judge-1", "another-key", server.base_url, QUICK)
    judge = EndpointJudge(client, read_prompts(), JudgeCache(folder / "cache.sqlite3"))
    assert sum(judge.is_cached(case) for case in plan_judging(folder).cases) == 8


def test_judging_again_costs_nothing_and_another_wording_or_model_is_another_judge(tmp_path):
    folder = open_folder(tmp_path, rows(5))
    other = tmp_path / "prompt.txt"
    other.write_text("=== qa user\nGrade {prediction} against {answer}.")
    with OpenAIServer(lambda body: YES if "Grade" in str(body) else NO) as server:
        first, _ = judge_with(server, folder)
        again, judgements = judge_with(server, folder)
        assert (again["spending"]["num_requests"], again["spending"]["num_cached"]) == (0, 5)
        assert first["metrics"] == again["metrics"]
        reworded, _ = judge_with(server, folder, prompts=read_prompts(other))
        assert reworded["metrics"]["accuracy"] == 100.0
        judge_with(server, folder, name="org/judge 2")
        assert len(server.requests) == 5 + 5 + 5
    assert judgements[0].replies == (NO,)
    names = sorted(path.name for path in folder.glob("result-*"))
    assert names == sorted(
        ["result-judge-1.json", f"result-judge-1-{read_prompts(other).hash[:8]}.json", "result-org_judge_2.json"]
    )


def test_the_cache_outlives_kill_9(tmp_path):
    code = (
        "import os, sys; from dynimg_vl.evaluation.judges.cache import JudgeCache;"
        f"cache = JudgeCache({str(tmp_path / 'c.sqlite3')!r});"
        "[cache.put(str(n), {'replies': ['x']}) for n in range(20)]; os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    cache = JudgeCache(tmp_path / "c.sqlite3")
    assert all(cache.get(str(number)) == {"replies": ["x"]} for number in range(20))


def test_a_cache_that_is_something_else_is_one_line(tmp_path):
    path = tmp_path / "cache.sqlite3"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match=r"cannot use the cache .*not a database.*--cache"):
        JudgeCache(path)


def test_a_cache_whose_entries_were_tampered_with_is_asked_anew(tmp_path):
    folder = open_folder(tmp_path, rows(4))
    with OpenAIServer(verdict_of) as server:
        client = ChatClient("judge-1", "k", server.base_url, QUICK)
        judge = EndpointJudge(client, read_prompts(), JudgeCache(folder / "cache.sqlite3"))
        cases = plan_judging(folder).cases
        for case, value in zip(
            cases, ({"replies": [7]}, {"replies": []}, {"model": "x"}, {"replies": ["?"]}), strict=True
        ):
            judge.cache.put(judge.key_of(case), value)
        assert not any(judge.is_cached(case) for case in cases)


def test_concurrency_is_as_asked_and_changes_nothing(tmp_path):
    folders = [open_folder(tmp_path / str(number), rows(24)) for number in range(2)]
    results = []
    for folder, concurrency in zip(folders, (1, 6), strict=True):
        # No reply goes out before as many requests as may be under way are.
        together = threading.Barrier(concurrency, timeout=60)

        def reply(body, together=together):
            together.wait()
            return verdict_of(body)

        with OpenAIServer(reply) as server:
            patience = Patience(attempts=1, timeout_seconds=120)
            results.append(judge_with(server, folder, concurrency=concurrency, patience=patience)[1])
        assert server.peak_concurrency == concurrency
    strip = [[(row.id, row.is_correct, row.score, row.replies) for row in rows] for rows in results]
    assert strip[0] == strip[1]


def test_a_newer_name_of_the_length_limit_is_tried(tmp_path):
    folder = open_folder(tmp_path, rows(3))
    newer = bad_request("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    with OpenAIServer(verdict_of, lambda _, body: newer if "max_tokens" in body else None) as server:
        result, _ = judge_with(server, folder, concurrency=1)
    assert result["counts"]["judged"] == 3
    assert ["max_tokens" in body for body in server.requests] == [True, False, False, False]


@pytest.mark.parametrize(("concurrency", "failures"), [(8, 100), (16, 6)])
def test_so_it_is_where_many_requests_are_under_way_before_the_first_refusal(tmp_path, concurrency, failures):
    """Neither is a case lost to what another thread has learned, nor the run to refusals that taught something."""
    folder = open_folder(tmp_path, rows(40))
    newer = bad_request("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    together = threading.Barrier(concurrency, timeout=60)

    class Together(ChatClient):
        def complete(self, messages, **options):
            if "max_tokens" in options:
                together.wait()
            return super().complete(messages, **options)

    with OpenAIServer(verdict_of, lambda _, body: newer if "max_tokens" in body else None) as server:
        client = Together(
            "judge-1", "sk-very-secret", server.base_url, replace(QUICK, timeout_seconds=60, failures=failures)
        )
        judge = EndpointJudge(client, read_prompts(), JudgeCache(folder / "cache.sqlite3"))
        result = judge_plan(plan_judging(folder), judge, concurrency=concurrency)
    assert result["counts"] == {"total": 40, "judged": 40}
    assert len(server.requests) == 40 + concurrency


def test_a_fault_in_the_middle_of_a_body_is_a_fault():
    """Guard the server: what it is told to break is broken."""
    with OpenAIServer(faults=[Fault(418)]) as server:
        client = ChatClient("m", "k", server.base_url, QUICK)
        assert client.complete([{"role": "user", "content": "hi"}]).text == "yes"
