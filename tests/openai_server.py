"""A local HTTP server that speaks the chat-completions protocol, streaming included, and fails on request.

    with OpenAIServer(reply=lambda body: "yes", faults=[rate_limited(), None, hang()]) as server:
        client = OpenAI(base_url=server.base_url, api_key="key")

`reply` is called with the request's JSON and gives the text of the answer (or a `Reply`, which says more). `faults` is
what goes wrong with the first, second, ... request (None: nothing; past its end: nothing), or a function
(number, body) -> fault or None, for faults that depend on what was asked. `server.requests` has what was asked,
`server.headers` the headers, their names in lower case.
"""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """An answer with what surrounds it; `usage` None leaves the token counts out, as some servers do."""

    text: str | None
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: dict[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 2})
    model: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    A `status` other than 200 with `body` and `headers`; `hang_seconds` of silence first; `cut_bytes`: the connection is
    reset after so many bytes of the answer's body (0: before the status line), of a stream too.
    """

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    hang_seconds: float = 0.0
    cut_bytes: int | None = None


def api_error(status: int, message: str, code: str | None = None, kind: str = "", **headers: str) -> Fault:
    """Fail as the service does: a status and {"error": {...}}; header names take _ for -."""
    body = {"error": {"message": message, "type": kind or "error", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status, json.dumps(body).encode(), named)


def rate_limited(retry_after: float | None = 0.01) -> Fault:
    headers = {} if retry_after is None else {"Retry_After": f"{retry_after:g}"}
    return api_error(429, "Rate limit reached", "rate_limit_exceeded", "requests", **headers)


def quota_exhausted() -> Fault:
    message = "You exceeded your current quota, please check your plan and billing details."
    return api_error(429, message, "insufficient_quota", "insufficient_quota")


def wrong_key() -> Fault:
    return api_error(401, "Incorrect API key provided: sk-secret", "invalid_api_key", "invalid_request_error")


def no_such_model() -> Fault:
    return api_error(404, "The model `nope` does not exist", "model_not_found", "invalid_request_error")


def bad_request(message: str = "This model's maximum context length is 16385 tokens.") -> Fault:
    return api_error(400, message, "context_length_exceeded", "invalid_request_error")


def server_error(status: int = 500) -> Fault:
    return api_error(status, "The server had an error", None, "server_error")


def hang(seconds: float = 30.0) -> Fault:
    """Say nothing for so long (or until the server is closed), then answer as if nothing had been."""
    return Fault(hang_seconds=seconds)


def cut(after_bytes: int = 0) -> Fault:
    return Fault(cut_bytes=after_bytes)


def html(status: int = 200) -> Fault:
    """Answer as a proxy or a login page does."""
    return Fault(status, b"<!doctype html><html><body><h1>It works!</h1></body></html>", content_type="text/html")


def nonsense(body: bytes = b'{"choices": [{"mess') -> Fault:
    """Answer 200 with a body that is not what the protocol says."""
    return Fault(200, body)


class OpenAIServer:
    """Serve POST /v1/chat/completions and GET /v1/models on a free local port, until the `with` block ends."""

    def __init__(
        self,
        reply: Callable[[dict[str, Any]], str | Reply] = lambda body: "yes",
        faults: Iterable[Fault | None] | Callable[[int, dict[str, Any]], Fault | None] = (),
        model: str = "local-model-0001",
    ):
        self.reply = reply
        self.model = model
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.peak_concurrency = 0
        self.closing = threading.Event()
        self._faults = faults if callable(faults) else list(faults)
        self._lock = threading.Lock()
        self._num_active = 0
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "OpenAIServer":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def begin(self, body: dict[str, Any], headers: dict[str, str]) -> Fault | None:
        """Note a request; tell what is to go wrong with it."""
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append(headers)
            self._num_active += 1
            self.peak_concurrency = max(self.peak_concurrency, self._num_active)
            if callable(self._faults):
                return self._faults(number, body)
            return self._faults[number] if number < len(self._faults) else None

    def end(self) -> None:
        with self._lock:
            self._num_active -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: OpenAIServer

    def handle_error(self, request, client_address):
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: in two, the client's delayed acknowledgement costs 40 ms
    server: _Server
    is_counted = False

    def log_message(self, *arguments):
        """Tests are quiet."""

    def do_GET(self):
        model = {"id": self.server.owner.model, "object": "model", "created": 0, "owned_by": "local"}
        self._send(200, json.dumps({"object": "list", "data": [model]}).encode())

    def do_POST(self):
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = owner.begin(body, {name.lower(): value for name, value in self.headers.items()}) or Fault()
        self.is_counted = True
        try:
            if fault.hang_seconds:
                owner.closing.wait(fault.hang_seconds)
            if not self.path.endswith("/chat/completions"):
                self._send(404, b'{"error": {"message": "no such path", "code": null}}')
            elif fault.body is not None:
                self._send(fault.status, fault.body, fault.content_type, fault.headers, fault.cut_bytes)
            else:
                self._answer(body, fault)
        finally:
            self._end()

    def _end(self) -> None:
        if self.is_counted:
            self.is_counted = False
            self.server.owner.end()

    def _answer(self, body: dict[str, Any], fault: Fault) -> None:
        owner = self.server.owner
        given = owner.reply(body)
        reply = given if isinstance(given, Reply) else Reply(given)
        if reply.seconds:
            time.sleep(reply.seconds)
        if body.get("stream"):
            with_usage = (body.get("stream_options") or {}).get("include_usage")
            content = "".join(f"data: {event}\n\n" for event in self._events(reply, with_usage))
            self._send(200, content.encode(), "text/event-stream", cut_bytes=fault.cut_bytes)
            return
        message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
        completion = self._envelope(reply, "chat.completion", [choice])
        if reply.usage is not None:
            completion["usage"] = _with_total(reply.usage)
        self._send(200, json.dumps(completion).encode(), cut_bytes=fault.cut_bytes)

    def _events(self, reply: Reply, with_usage: bool | None):
        kind = "chat.completion.chunk"
        text = reply.text or ""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": text[at : at + 4]} for at in range(0, len(text), 4)]
        if reply.refusal is not None:
            deltas.append({"refusal": reply.refusal})
        for delta in deltas:
            yield json.dumps(self._envelope(reply, kind, [{"index": 0, "delta": delta, "finish_reason": None}]))
        last = {"index": 0, "delta": {}, "finish_reason": reply.finish_reason}
        yield json.dumps(self._envelope(reply, kind, [last]))
        if with_usage and reply.usage is not None:
            yield json.dumps({**self._envelope(reply, kind, []), "usage": _with_total(reply.usage)})
        yield "[DONE]"

    def _envelope(self, reply: Reply, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        model = reply.model or self.server.owner.model
        return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": model, "choices": choices}

    def _send(
        self,
        status: int,
        content: bytes,
        content_type: str = "application/json",
        headers: dict[str, str] | None = None,
        cut_bytes: int | None = None,
    ) -> None:
        self._end()  # before the answer goes out: whoever has it may begin another at once
        if cut_bytes == 0:
            self._reset()
            return
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content if cut_bytes is None else content[:cut_bytes])
        self.wfile.flush()
        if cut_bytes is not None:
            self._reset()

    def _reset(self) -> None:
        # A linger of zero makes the close a reset, as a crashed server or a lost network does.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _with_total(usage: dict[str, int]) -> dict[str, int]:
    return {**usage, "total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}
