"""Many requests under way at a time: what a run that stops keeps, and how all learn what an endpoint wants."""

import threading

import pytest

from dynimg_vl import InputError
from dynimg_vl.inference.chat_client import ChatClient, ChatError, ChatStopped, Patience, map_concurrently
from dynimg_vl.inference.requests import Request
from dynimg_vl.inference.run import run
from endpoints import KEY, engine_of
from openai_server import OpenAIServer, bad_request, quota_exhausted

NEWER_LIMIT = bad_request("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
OWN_TEMPERATURE = bad_request("Unsupported value: 'temperature' does not support 0 with this model.")


def questions(count):
    return [Request(str(number), None, f"item {number}") for number in range(count)]


def threads_of_pools():
    return [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]


# --- what is kept where a run stops ----------------------------------------------------------------------------------


class Jobs:
    """Begin three at once; number 1 may fail, and all others end only when the run is to stop."""

    def __init__(self, error=None):
        self.error = error
        self.stopping = threading.Event()
        self.together = threading.Barrier(3, timeout=60)
        self.begun = []

    def __call__(self, number):
        self.begun.append(number)
        if number < 3:
            self.together.wait()
        if number == 1 and self.error is not None:
            raise self.error
        assert self.stopping.wait(60)
        return number


@pytest.mark.parametrize("error", [ChatStopped("no quota"), ValueError("a bug")])
def test_jobs_under_way_when_one_fails_bring_their_results(error):
    jobs, found = Jobs(error), []
    with pytest.raises(type(error)) as caught:
        found.extend(map_concurrently(jobs, range(100), concurrency=3, stopping=jobs.stopping))
    assert caught.value is error
    # `extend` keeps what it was given before the error.
    assert {0, 2} <= set(found)
    assert sorted(found) == sorted(set(jobs.begun) - {1})
    assert len(found) < 6
    assert not threads_of_pools()


@pytest.mark.parametrize("error", [InputError("a torn file"), KeyboardInterrupt()])
def test_so_do_they_where_the_values_end_in_an_error_or_an_interrupt(error):
    def values():
        yield from range(3)
        jobs.together.wait()
        raise error

    jobs, found = Jobs(), []
    jobs.together = threading.Barrier(4, timeout=60)
    with pytest.raises(type(error)) as caught:
        found.extend(map_concurrently(jobs, values(), concurrency=3, stopping=jobs.stopping))
    assert caught.value is error
    assert sorted(found) == [0, 1, 2]
    assert not threads_of_pools()


def test_the_first_error_is_raised_where_the_others_fail_for_its_sake():
    def job(number):
        together.wait()
        if number == 1:
            raise ChatStopped("no quota")
        assert stopping.wait(60)
        raise ChatStopped("stopped")

    together, stopping = threading.Barrier(4, timeout=60), threading.Event()
    with pytest.raises(ChatStopped, match="no quota"):
        list(map_concurrently(job, range(4), concurrency=4, stopping=stopping))


def test_a_consumer_may_go_away_after_an_error_too():
    jobs = Jobs(ChatStopped("no quota"))
    answers = map_concurrently(jobs, range(100), concurrency=3, stopping=jobs.stopping)
    assert next(answers) != 1
    answers.close()
    assert jobs.stopping.is_set()
    assert list(answers) == []
    assert not threads_of_pools()


def test_answers_that_were_paid_for_are_kept_when_the_quota_ends(tmp_path, monkeypatch):
    """All that the endpoint answered is in the journal: nothing of it is asked again."""
    others_sent, is_raised = threading.Event(), threading.Event()

    def faults(number, body):
        if number == 2:
            others_sent.set()
        return quota_exhausted() if "item 1" in str(body) and not is_raised.is_set() else None

    with OpenAIServer(faults=faults) as server:
        engine = engine_of(server, concurrency=4)
        complete = engine.client.complete

        def after_the_others(messages, **options):
            assert "item 1" not in str(messages) or others_sent.wait(60)
            return complete(messages, **options)

        def reply(body):
            assert engine.client.stopping.wait(60)
            return "yes"

        monkeypatch.setattr(engine.client, "complete", after_the_others)
        monkeypatch.setattr(server, "reply", reply)
        with pytest.raises(ChatStopped, match="quota"):
            run(engine, questions(4), tmp_path / "out")
        assert len(server.requests) == 4
        is_raised.set()
        result = run(engine_of(server), questions(4), tmp_path / "out")
        assert (result.num_new, result.num_done, result.num_failed) == (1, 4, 0)
        assert len(server.requests) == 5


# --- what an endpoint wants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_learning_how_to_ask_is_no_failure(streamed):
    def refuse(number, body):
        if "max_tokens" in body:
            return NEWER_LIMIT
        return OWN_TEMPERATURE if "temperature" in body else None

    with OpenAIServer(faults=refuse) as server:
        engine = engine_of(server, concurrency=10, patience=Patience(backoff_seconds=0.001, failures=1))
        found = engine.stream(questions(1), print) if streamed else engine.predict(questions(40))
        assert {(prediction.text, prediction.error) for prediction in found} == {("yes", None)}


@pytest.mark.parametrize("fault", [bad_request(), NEWER_LIMIT, OWN_TEMPERATURE], ids=["plain", "limit", "temperature"])
def test_an_endpoint_that_refuses_whatever_is_asked_ends_the_run(fault):
    found = []
    with OpenAIServer(faults=lambda number, body: fault) as server:
        engine = engine_of(server, concurrency=1, patience=Patience(failures=5))
        with pytest.raises(ChatStopped, match="5 requests in a row"):
            found.extend(engine.predict(questions(40)))
    assert len(found) == 4
    assert all(prediction.error for prediction in found)


def test_only_what_the_caller_adapts_to_does_not_count():
    messages = [{"role": "user", "content": "hi"}]
    with OpenAIServer(faults=lambda number, body: NEWER_LIMIT) as server:
        client = ChatClient("m", KEY, server.base_url, Patience(failures=2))
        for _ in range(5):
            with pytest.raises(ChatError):
                client.complete(messages, adapts=lambda error: error.kind == "rejected")
        with pytest.raises(ChatError):
            client.complete(messages, adapts=lambda error: False)
        with pytest.raises(ChatStopped, match="2 requests in a row"):
            client.complete(messages)
