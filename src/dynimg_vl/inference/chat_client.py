"""Talk to an OpenAI-compatible endpoint: retries, and what goes wrong told apart by what can be done about it."""

import random
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, TypeVar

from ..errors import InputError
from .chat_stream import Joined, Listener, OnText, join_chunks, text_or_none

Value = TypeVar("Value")
Result = TypeVar("Result")

_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_KEY_IN_TEXT = re.compile(r"\b(sk|key)-[\w*-]{4,}")
_HTTP_LIBRARIES = {"httpx", "httpx2", "httpcore", "httpcore2"}
_WEB_PAGE = re.compile(r"<(!doctype html|html)\b", re.IGNORECASE)
_MESSAGE_LENGTH = 300
_SHORTEST_KEY = 8
_A_DAY = 86_400
_CHECK_ADDRESS = "check the address, which often ends in /v1"

NO_KEY = "none"
"""What is sent in place of a key to an endpoint that needs none; the protocol's client insists on something."""


class ChatError(Exception):
    """Report one request that got no answer: `kind` is "refused", "rejected" (the request) or "unreachable"."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class ChatStopped(InputError):
    """Report that no further request will be answered either: no key, no quota, no such model, no endpoint."""


class _TransientError(Exception):
    def __init__(self, message: str, wait_seconds: float | None = None):
        super().__init__(message)
        self.wait_seconds = wait_seconds


@dataclass(frozen=True)
class ChatReply:
    """Hold one answer; `model` is the one that the endpoint says it was, token counts are None where it says none."""

    text: str
    model: str
    prompt_tokens: int | None
    new_tokens: int | None
    finish_reason: str | None = None


@dataclass(frozen=True)
class Patience:
    """Say how long to try: attempts, seconds before the second one (doubled from then on), and the longest wait.

    `failures` requests in a row without an answer end the run.

    Raises:
        InputError: where a time is no number of seconds up to a day.
    """

    attempts: int = 6
    backoff_seconds: float = 1.0
    longest_seconds: float = 120.0
    timeout_seconds: float = 60.0
    failures: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= _A_DAY:
            raise InputError(f"a timeout must be a number of seconds up to {_A_DAY}, got {self.timeout_seconds}")


@dataclass
class ChatClient:
    """Ask one model of one endpoint; may be shared by threads.

    Args:
        model: as the endpoint names it.
        api_key: sent with every request and to be found in no message or file.
        base_url: of the endpoint, up to and with /v1; None for OpenAI's own.
        patience: when to give up.
        stopping: once set, waits are cut short and requests raise `ChatStopped`.
    """

    model: str
    api_key: str = field(repr=False)
    base_url: str | None = None
    patience: Patience = field(default_factory=Patience)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError("the openai package is missing; pip install 'dynimg-vl[eval]'") from error
        if not re.fullmatch(r"[!-~]*", self.api_key):
            raise InputError("the API key has a blank, a line break or a letter beyond ASCII in it; copy it again")
        try:
            self._client = openai.OpenAI(
                api_key=self.api_key,
                base_url=self.base_url or "https://api.openai.com/v1",
                timeout=self.patience.timeout_seconds,
                max_retries=0,
                # What is asked, key and pictures included, goes to this endpoint and nowhere it points to.
                http_client=openai.DefaultHttpxClient(follow_redirects=False),
            )
        except Exception as error:  # of its HTTP library, which has a class of its own for an address that is none
            raise InputError(f"cannot use the endpoint {self.endpoint}: {self._line(error)}") from error
        if self._client.base_url.host != "api.openai.com":
            # Read from OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS, and no business of other servers.
            self._client.organization = self._client.project = None
            self._client._custom_headers = {}
        self._lock = threading.Lock()
        self._num_failures = 0

    @property
    def endpoint(self) -> str:
        """Give the address without what may be secret in it."""
        return re.sub(r"//[^/@]*@", "//", (self.base_url or "https://api.openai.com/v1").split("?")[0])

    def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        on_text: OnText | None = None,
        adapts: Callable[[ChatError], bool] | None = None,
        **options: Any,
    ) -> ChatReply:
        """Ask, again where that can help; `options` go to `chat.completions.create` (temperature, max_tokens ...).

        With `on_text` the answer is streamed to it piece by piece; once there was one, nothing is asked again.
        `adapts` tells whether the caller will ask otherwise after an error; such a one does not count as a failure.

        Raises:
            ChatError: where this request has no answer.
            ChatStopped: where no other will have one either.
        """
        try:
            reply = self._with_retries(messages, options, None if on_text is None else Listener(on_text))
        except ChatError as error:
            # Many requests are under way before the first has told how this endpoint wants to be asked.
            if adapts is not None and adapts(error):
                raise
            with self._lock:
                self._num_failures += error.kind != "refused"
                if self._num_failures >= self.patience.failures:
                    # Not the count itself: other threads may have raised it further by now.
                    raise ChatStopped(
                        f"{self.patience.failures} requests in a row to {self.endpoint} failed, the last: {error}; "
                        "check the address and the model"
                    ) from error
            raise
        with self._lock:
            self._num_failures = 0
        return reply

    def models(self) -> list[str]:
        """List the names of the models that the endpoint serves.

        Raises:
            ChatError: where it does not say.
            ChatStopped: where it will not answer at all.
        """
        import openai

        try:
            return [str(model.id) for model in self._client.models.list().data]
        except openai.NotFoundError as error:
            raise ChatError("unreachable", f"{self.endpoint} does not tell which models it serves") from error
        except openai.OpenAIError as error:
            translated = self._translated(error)
            if isinstance(translated, _TransientError):
                translated = ChatError("unreachable", str(translated))
            raise translated from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ChatError("unreachable", f"{self.endpoint} lists no models") from error

    def _with_retries(
        self, messages: list[dict[str, Any]], options: Mapping[str, Any], listener: Listener | None
    ) -> ChatReply:
        delay = self.patience.backoff_seconds
        for attempt in range(1, self.patience.attempts + 1):
            if self.stopping.is_set():
                raise ChatStopped("stopped")
            try:
                return self._once(messages, options, listener)
            except _TransientError as error:
                if listener is not None and listener.num_characters:
                    heard = f"the answer broke off after {listener.num_characters} characters"
                    raise ChatError("unreachable", f"{heard} ({error})") from error
                if attempt == self.patience.attempts:
                    raise ChatError("unreachable", f"{error} ({attempt} attempts)") from error
                seconds = delay * random.uniform(0.5, 1.5) if error.wait_seconds is None else error.wait_seconds
                if seconds > self.patience.longest_seconds:
                    if error.wait_seconds is not None:
                        raise ChatStopped(
                            f"{self.endpoint} asks to wait {seconds:.0f} s ({error}); start again later"
                        ) from error
                    seconds = self.patience.longest_seconds
                self.stopping.wait(seconds)
                delay *= 2
        raise AssertionError("the last attempt returns or raises")

    def _once(self, messages: list[dict[str, Any]], options: Mapping[str, Any], listener: Listener | None) -> ChatReply:
        import openai

        chat: Any = self._client.chat.completions
        asked = {"model": self.model, "messages": messages, **options}
        try:
            if listener is None:
                return self._read(chat.create(**asked))
            chunks = chat.create(**asked, stream=True, stream_options={"include_usage": True})
            if "html" in chunks.response.headers.get("content-type", ""):
                raise self._of_page("<html>")
            return self._read_joined(join_chunks(chunks, listener))
        except openai.OpenAIError as error:
            raise self._translated(error) from error
        except (ChatError, ChatStopped, _TransientError):
            raise
        except Exception as error:
            # In the middle of a stream, older clients let the errors of their HTTP library through.
            # A body of nothing but brackets is too deep for the JSON reader.
            known = isinstance(error, ValueError | RecursionError)
            if not known and type(error).__module__.partition(".")[0] not in _HTTP_LIBRARIES:
                raise
            raise _TransientError(f"{self.endpoint} answered with something that is no completion") from error

    def _translated(self, error: Any) -> Exception:
        import openai

        if isinstance(error, openai.APIStatusError):
            return self._classified(error)
        if isinstance(error, openai.APITimeoutError):
            return _TransientError(f"no answer within {self.patience.timeout_seconds:g} s")
        if isinstance(error, openai.APIConnectionError):
            return _TransientError(f"no connection to {self.endpoint} ({self._line(error.__cause__ or error)})")
        return _TransientError(f"{self.endpoint} answered with something that is no completion")

    def _read(self, completion: Any) -> ChatReply:
        from openai.types.chat import ChatCompletion

        if isinstance(completion, str):
            raise self._of_page(completion)
        # The client checks no types: whatever JSON the endpoint sends may stand in each place.
        choices = completion.choices if isinstance(completion, ChatCompletion) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        message: Any = getattr(choice, "message", None)
        if not hasattr(message, "content"):
            raise _TransientError(f"{self.endpoint} answered with something that is no completion")
        reason = getattr(choice, "finish_reason", None)
        refusal = text_or_none(getattr(message, "refusal", None)) or ""
        content = text_or_none(message.content) or ""
        return self._reply(Joined(content, refusal, completion.model, text_or_none(reason), completion.usage))

    def _read_joined(self, joined: Joined) -> ChatReply:
        if joined.finish_reason is None:
            raise _TransientError(f"{self.endpoint} ended before the answer did")
        return self._reply(joined)

    def _reply(self, joined: Joined) -> ChatReply:
        finish_reason = joined.finish_reason
        if joined.refusal or finish_reason == "content_filter":
            raise ChatError("refused", f"the endpoint refused: {self._line(joined.refusal or finish_reason)}")
        return ChatReply(
            text=joined.content,
            model=str(joined.model or self.model),
            prompt_tokens=_count(joined.usage, "prompt_tokens"),
            new_tokens=_count(joined.usage, "completion_tokens"),
            finish_reason=finish_reason,
        )

    def _of_page(self, page: str) -> Exception:
        # Tried again: a proxy may show one for a moment.
        if _WEB_PAGE.search(page):
            return _TransientError(f"{self.endpoint} answers with a web page, which is no completion; {_CHECK_ADDRESS}")
        return _TransientError(f"{self.endpoint} answered with something that is no completion")

    def _classified(self, error: Any) -> Exception:
        status, code, message = error.status_code, str(error.code or error.type or ""), self._line(error)
        if 300 <= status < 400:
            return ChatStopped(f"{self.endpoint} points to another address, which is not followed; give that one")
        if status in (401, 403) and self.api_key == NO_KEY:
            return ChatStopped(f"{self.endpoint} asks for an API key ({message}); set OPENAI_API_KEY")
        if status in (401, 403):
            return ChatStopped(f"{self.endpoint} does not accept the API key ({message}); set another one")
        if status == 402 or code in _QUOTA_CODES:
            return ChatStopped(f"the quota of {self.endpoint} is exhausted ({message}); start again once it is raised")
        if status == 404 and "model" not in f"{code} {message}".lower():
            return ChatStopped(f"{self.endpoint} has no chat completions ({message}); {_CHECK_ADDRESS}")
        if status == 404:
            return ChatStopped(f"{self.endpoint} has no model {self.model!r} ({message}); check both names")
        if status in (408, 409, 429) or status >= 500:
            page = " with a web page" if "html" in error.response.headers.get("content-type", "") else ""
            said = f"{self.endpoint} answered{page}: {message}"
            return _TransientError(said, _retry_after(error.response.headers))
        return ChatError("refused" if code == "content_filter" else "rejected", message)

    def _line(self, error: Any) -> str:
        """Give an error's words in one short line without the key, which endpoints like to repeat."""
        text = " ".join(str(error).split())
        if _WEB_PAGE.search(text):
            return "a web page"
        # A shorter one is a placeholder for a local server, and may be part of what tells how to ask: max_tokens.
        if self.api_key and len(self.api_key) >= _SHORTEST_KEY:
            text = text.replace(self.api_key, "***")
        text = _KEY_IN_TEXT.sub("***", text)
        return text if len(text) <= _MESSAGE_LENGTH else text[:_MESSAGE_LENGTH] + "..."


def map_concurrently(
    job: Callable[[Value], Result], values: Iterable[Value], *, concurrency: int, stopping: threading.Event
) -> Iterator[Result]:
    """Yield the results of `job`, as they come; no more than twice `concurrency` values are taken ahead.

    An error of a job, or a consumer that goes away, sets `stopping`; jobs that have begun are waited for. After an
    error, or an interrupt, what they still bring is yielded before it is raised.
    """
    remaining = iter(values)
    pool = ThreadPoolExecutor(concurrency)
    waiting: set[Future[Result]] = set()
    num_free = 2 * concurrency
    try:
        while True:
            # One by one: where the values themselves end in an error, those before it are not lost.
            for value in islice(remaining, num_free):
                waiting.add(pool.submit(job, value))
            if not waiting:
                break
            done = wait(waiting, return_when=FIRST_COMPLETED).done
            for future in done:
                waiting.remove(future)
                yield future.result()
            num_free = len(done)
    except GeneratorExit:
        stopping.set()
        raise
    except BaseException:
        stopping.set()
        yield from _results_of_begun(waiting)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results_of_begun(futures: Iterable[Future[Result]]) -> Iterator[Result]:
    # Those that are called off are never waited for: no thread would wake whoever does.
    begun = [future for future in futures if not future.cancel()]
    for future in as_completed(begun):
        if future.exception() is None:
            yield future.result()


def _count(usage: Any, name: str) -> int | None:
    count = getattr(usage, name, None)
    return count if isinstance(count, int) else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how long the endpoint asks to wait: seconds or a date (RFC 9110, 10.2.3), or OpenAI's milliseconds."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after")
        if value is None:
            return None
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return float(value)
        moment = parsedate_to_datetime(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
