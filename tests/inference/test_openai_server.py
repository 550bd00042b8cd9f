"""The server of these tests speaks the protocol: the official client, by itself and with no code of ours, says so."""

import pytest

from openai_server import OpenAIServer, cut, rate_limited, server_error, wrong_key

openai = pytest.importorskip("openai")

ASKED = {"model": "m", "messages": [{"role": "user", "content": "Does it move?"}]}


def client_of(server):
    return openai.OpenAI(api_key="key", base_url=server.base_url, max_retries=0, timeout=30)


def test_the_official_client_reads_an_answer():
    with OpenAIServer(lambda body: body["messages"][0]["content"][::-1], model="m") as server:
        found = client_of(server).chat.completions.create(**ASKED)
        names = [each.id for each in client_of(server).models.list()]
    assert found.choices[0].message.content == "?evom ti seoD"
    assert (found.choices[0].finish_reason, found.usage.prompt_tokens, found.usage.completion_tokens) == ("stop", 10, 2)
    assert names == ["m"]


def test_the_official_client_reads_a_stream():
    with OpenAIServer(lambda body: "It moves right.") as server:
        stream = client_of(server).chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "It moves right."
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [2]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (rate_limited(), "RateLimitError"),
        (server_error(), "InternalServerError"),
        (wrong_key(), "AuthenticationError"),
        (cut(0), "APIConnectionError"),
    ],
)
def test_the_official_client_calls_faults_by_their_names(fault, error):
    with OpenAIServer(faults=[fault]) as server, pytest.raises(getattr(openai, error)):
        client_of(server).chat.completions.create(**ASKED)
