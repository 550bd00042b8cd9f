"""Endpoints that fail: what is tried again, what is the error of one request, and what ends a run."""

import json
import threading

import pytest

from dynimg_vl import InputError
from dynimg_vl.inference.chat_client import ChatClient, ChatStopped, Patience
from dynimg_vl.inference.requests import Request
from endpoints import ask, content_of, engine_of
from openai_server import (
    Fault,
    OpenAIServer,
    Reply,
    cut,
    hang,
    html,
    no_such_model,
    nonsense,
    quota_exhausted,
    rate_limited,
    server_error,
    wrong_key,
)


@pytest.fixture
def question(ball_video):
    return Request("1", str(ball_video), "Which way?", max_new_tokens=7)


@pytest.mark.parametrize(
    "fault", [rate_limited(), rate_limited(None), server_error(), server_error(503), cut(), cut(20), nonsense()],
    ids=["429", "429 without a time", "500", "503", "no answer", "half an answer", "no JSON"],
)  # fmt: skip
def test_what_may_pass_is_tried_again(question, fault):
    with OpenAIServer(faults=[fault, fault]) as server:
        (prediction,) = ask(server, question)
    assert prediction.text == "yes"
    assert len(server.requests) == 3
    assert server.requests[0] == server.requests[2]


@pytest.mark.parametrize("fault", [server_error(), nonsense(), nonsense(b'{"choices": []}'), cut(20)])
def test_what_does_not_pass_is_the_error_of_its_request_alone(question, fault):
    requests = [question, Request("2", None, "hm")]
    with OpenAIServer(faults=lambda number, body: fault if len(content_of(body)) > 1 else None) as server:
        found = {p.id: p for p in ask(server, *requests)}
    assert found["1"].text == ""
    assert "3 attempts" in found["1"].error
    assert "\n" not in found["1"].error
    assert found["1"].frames["num_pictures"] == 4
    assert (found["2"].text, found["2"].error) == ("yes", None)
    assert len(server.requests) == 4


def completion(**changes):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return nonsense(json.dumps({**whole, **changes}).encode())


@pytest.mark.parametrize(
    "fault",
    [
        completion(choices=[None]), completion(choices=["x"]), completion(choices={"a": 1}), completion(choices=5),
        completion(choices=[{"message": "hi"}]), completion(choices=[{"message": None}]), nonsense(b"[" * 100_000),
        nonsense(b"[1]"), nonsense(b"5"),
    ],
    ids=["null", "text", "object", "number", "message is text", "message is null", "deep", "list", "int"],
)  # fmt: skip
def test_any_json_may_come_in_place_of_a_completion(question, fault):
    with OpenAIServer(faults=lambda number, body: fault if len(content_of(body)) > 1 else None) as server:
        found = {p.id: p for p in ask(server, question, Request("2", None, "hm"))}
    assert "no completion (3 attempts)" in found["1"].error
    assert found["2"].text == "yes"


def test_odd_fields_of_a_completion_do_no_harm(question):
    choice = {"finish_reason": {"a": 1}, "message": {"content": ["x"], "refusal": 5}}
    with OpenAIServer(faults=[completion(choices=[choice], usage="x", model={"a": 1})]) as server:
        (prediction,) = ask(server, question)
    assert prediction.text == ""


def stream_of(*chunks):
    lines = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return Fault(200, lines + b"data: [DONE]\n\n", content_type="text/event-stream")


@pytest.mark.parametrize(
    "choices",
    [
        ["x"], [None], {"a": 1}, [{"finish_reason": "stop"}], [{"delta": None}], [{"delta": "hi"}],
        [{"delta": {"refusal": 5}}],
    ],
)  # fmt: skip
def test_any_json_may_come_in_place_of_a_chunk(question, choices):
    chunk = {"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": choices}
    heard = []
    with OpenAIServer(faults=lambda number, body: stream_of(chunk)) as server:
        (prediction,) = engine_of(server).stream([question], heard.append)
    assert prediction.text == ""
    assert heard == []


@pytest.mark.parametrize("key", ["sk-abc\nSECRETSECRET", "sk-ab cSECRETSECRET", "sk-\u200bSECRETSECRET"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key):
    with pytest.raises(InputError, match="the API key has a blank") as caught:
        ChatClient("m", key, "http://127.0.0.1:1/v1")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:x/v1", "http://[::1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="cannot use the endpoint"):
        ChatClient("m", "none", address)


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 0, -1, 1e9])
def test_a_timeout_is_a_number_of_seconds(seconds):
    with pytest.raises(InputError, match="a timeout must be a number of seconds up to"):
        Patience(timeout_seconds=seconds)


def test_the_time_to_wait_is_what_the_endpoint_asks_for(question, monkeypatch):
    waits = []
    with OpenAIServer(faults=[rate_limited(7), server_error(), server_error()]) as server:
        engine = engine_of(server, patience=Patience(attempts=4, backoff_seconds=2))
        monkeypatch.setattr(engine.client.stopping, "wait", waits.append)
        list(engine.predict([question]))
    assert waits[0] == 7
    assert 2 <= waits[1] < waits[2] * 3 <= 36  # doubled each time, from 2 s on, give or take a half


def test_a_wait_that_is_too_long_ends_the_run(question):
    with OpenAIServer(faults=[rate_limited(3600)]) as server, pytest.raises(ChatStopped, match="asks to wait 3600 s"):
        ask(server, question)


def test_silence_has_an_end(question):
    patience = Patience(attempts=2, backoff_seconds=0.001, timeout_seconds=0.3)
    with OpenAIServer(faults=[hang(), hang()]) as server:
        (prediction,) = ask(server, question, patience=patience)
    # Not what the server has noted: a busy one may read a request after its sender has given up.
    assert prediction.error == "no answer within 0.3 s (2 attempts)"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (wrong_key(), "does not accept the API key"),
        (quota_exhausted(), "quota"),
        (no_such_model(), "has no model 'some-model'"),
        (html(404), "has no chat completions (Error code: 404); check the address"),
        (Fault(307, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"}), "points to another address"),
    ],
    ids=["key", "quota", "model", "page with 404", "redirect"],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_what_no_request_can_pass_ends_the_run_at_once(question, fault, words, streamed):
    with OpenAIServer(faults=lambda number, body: fault) as server:
        engine = engine_of(server, concurrency=1)
        answers = engine.stream([question], print) if streamed else engine.predict([question] * 20)
        with pytest.raises(ChatStopped) as caught:
            list(answers)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) <= 2


@pytest.mark.parametrize("streamed", [False, True])
def test_a_web_page_in_place_of_an_answer_is_called_so(question, streamed):
    with OpenAIServer(faults=lambda number, body: html()) as server:
        engine = engine_of(server)
        (prediction,) = engine.stream([question], print) if streamed else engine.predict([question])
    assert "answers with a web page, which is no completion; check the address" in prediction.error
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_web_page_of_a_gateway_is_called_so_with_the_address_of_the_endpoint(question, status):
    with OpenAIServer(faults=lambda number, body: html(status)) as server:
        (prediction,) = ask(server, question)
    assert prediction.error == f"{server.base_url} answered with a web page: Error code: {status} (3 attempts)"


def test_without_a_key_it_is_asked_for(question):
    with OpenAIServer(faults=[wrong_key()]) as server, pytest.raises(ChatStopped, match="set OPENAI_API_KEY"):
        ask(server, question, key="none")


def test_an_address_where_nobody_is(question):
    with OpenAIServer() as server:
        engine = engine_of(server, patience=Patience(attempts=2, backoff_seconds=0.001, failures=3))
    requests = [Request(str(number), None, "hm") for number in range(20)]
    with pytest.raises(ChatStopped, match=r"3 requests in a row .* failed"):
        list(engine.predict(requests))


def test_a_stream_that_breaks_off_is_an_error_and_not_begun_again(question):
    event = '{"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [%s]}'
    begun = f"data: {event}\n\n" % '{"index": 0, "delta": {"content": "It mo"}, "finish_reason": null}'
    pieces = []
    with OpenAIServer(faults=[Fault(200, begun.encode(), content_type="text/event-stream")]) as server:
        (prediction,) = engine_of(server).stream([question], pieces.append)
    assert "broke off after 5 characters" in prediction.error
    assert (prediction.text, pieces) == ("", ["It mo"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("after", [300, 900])
def test_a_connection_that_is_lost_never_says_anything_twice(question, after):
    """What was under way when it was lost may have arrived or not."""
    pieces = []
    with OpenAIServer(reply=lambda body: "It moves to the right. " * 5, faults=[cut(after)]) as server:
        (prediction,) = engine_of(server).stream([question], pieces.append)
    if prediction.error is None:
        assert "".join(pieces).strip() == prediction.text
    else:
        assert "broke off after" in prediction.error
        assert ("It moves to the right. " * 5).startswith("".join(pieces))


def test_a_stream_that_has_not_begun_is_begun_again(question):
    pieces = []
    with OpenAIServer(faults=[server_error(), cut(), nonsense(b"data: {nonsense\n\n")]) as server:
        (prediction,) = engine_of(server, patience=Patience(4, 0.001)).stream([question], pieces.append)
    assert (prediction.text, "".join(pieces)) == ("yes", "yes")
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(None, refusal="I cannot."), "refused: I cannot."),
        (Reply("so", finish_reason="content_filter"), "refused"),
        (Reply(None, finish_reason="length"), "the answer is empty (it ended by length)"),
    ],
)
def test_an_answer_that_is_none(question, reply, words):
    with OpenAIServer(reply=lambda body: reply) as server:
        (prediction,) = ask(server, question)
        (streamed,) = engine_of(server).stream([question], lambda piece: None)
    assert words in prediction.error
    assert words in streamed.error
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request("1", "nothing.mp4", "What?"), "nothing.mp4"),
        (Request("1", None, " "), "question is empty"),
        (Request("1", None, "a \udcff"), "UTF-8"),
        (Request("1", None, "a", choices=("b", "c")), "likelihoods"),
        (Request("1", None, "a", max_new_tokens=0), "max_new_tokens"),
    ],
)
def test_what_cannot_be_asked_is_not_sent(request_, words):
    with OpenAIServer() as server:
        (prediction,) = ask(server, request_)
    assert words in prediction.error
    assert server.requests == []


def test_a_consumer_that_goes_away_ends_what_waits(ball_video):
    requests = [Request(str(number), None, "hm") for number in range(100)]
    with OpenAIServer() as server:
        answers = engine_of(server, concurrency=2).predict(iter(requests))
        next(answers)
        answers.close()
        assert len(server.requests) < 20
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor") and t.is_alive()]


@pytest.mark.parametrize(
    "options",
    [{"quality": 0}, {"concurrency": 0}, {"picture_format": "gif"}, {"policy": "best"}, {"nonsense": 1},
     {"num_workers": -1}, {"temperature": 3}, {"clip": (3, 2)}],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_refused_before_anything_is_sent(options):
    with OpenAIServer() as server, pytest.raises(InputError):
        engine_of(server, **options)
