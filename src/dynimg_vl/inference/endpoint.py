"""Answer requests with whatever vision-language model stands behind an OpenAI-compatible endpoint."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from time import perf_counter
from typing import Any

from ..errors import InputError
from ..text_formats import is_utf8
from ..video.selection import check_request
from .ahead import Look, LookAhead, reason_of
from .chat_client import ChatClient, ChatError, ChatReply, map_concurrently
from .chat_stream import OnText
from .messages import WORDING, chat_messages, without_prefix
from .pictures import FORMATS, Representation, look_at_pictures
from .requests import Prediction, Request

SELECTION = ("policy", "clip", "fps", "max_pixels", "max_frames")


@dataclass(frozen=True)
class Price:
    """Hold what a million tokens cost in US dollars: those of the prompt, and new ones.

    Raises:
        InputError: where one is no price.
    """

    prompt: float
    new: float

    def __post_init__(self) -> None:
        if not (0 <= self.prompt < 1e6 and 0 <= self.new < 1e6):
            raise InputError(f"prices are dollars for a million tokens, from 0 on, got {self.prompt}/{self.new}")

    @classmethod
    def parse(cls, text: str) -> "Price":
        """Read a price such as 0.5/1.5: prompt tokens, then new ones."""
        try:
            prompt, new = (float(part) for part in text.split("/"))
        except ValueError as error:
            raise InputError(f"{text!r} is no price; give two numbers, as in 0.5/1.5") from error
        return cls(prompt, new)

    def cost(self, usage: Mapping[str, int]) -> float | None:
        """Give what an answer cost; None where the endpoint did not count its tokens."""
        if "prompt" not in usage or "new" not in usage:
            return None
        return (usage["prompt"] * self.prompt + usage["new"] * self.new) / 1_000_000


class EndpointEngine:
    """Send videos as pictures, with the question, to a model behind an endpoint.

    Args:
        client: the endpoint and the name of the model.
        representation: how a video becomes pictures.
        picture_format: `png`, which shows every pixel as it is, or `jpeg`, a fraction of the bytes.
        quality: of JPEG, 1 to 100.
        concurrency: requests under way at a time.
        num_workers: processes that decode videos ahead; 0 decodes in this one.
        price: for the costs of predictions; None where unknown.
        temperature: of sampling; 0 is greedy. Models that know no other than their own keep it.
        **selection: `policy`, `max_pixels`, `max_frames`, and `clip` and `fps` for requests without.

    Raises:
        InputError: where an option is unknown or out of range.
    """

    def __init__(
        self,
        client: ChatClient,
        representation: Representation | None = None,
        *,
        picture_format: str = "png",
        quality: int = 90,
        concurrency: int = 4,
        num_workers: int = 0,
        price: Price | None = None,
        temperature: float = 0.0,
        **selection: Any,
    ) -> None:
        self.client = client
        self.representation = shown = representation or Representation()
        unknown = set(selection).difference(SELECTION)
        if unknown:
            raise InputError(f"unknown option {min(unknown)}; these exist: {', '.join(SELECTION)}")
        check_request(
            shown.num_dynimgs, shown.layout.num_prompt_frames, selection.get("policy", "auto"), selection.get("clip")
        )
        if picture_format not in FORMATS:
            raise InputError(f"unknown picture format {picture_format!r}; these exist: {', '.join(FORMATS)}")
        for name, value, least, most in (
            ("quality", quality, 1, 100),
            ("concurrency", concurrency, 1, 256),
            ("num_workers", num_workers, 0, 256),
            ("temperature", temperature, 0, 2),
        ):
            if not least <= value <= most:
                raise InputError(f"{name} must lie between {least} and {most}, got {value}")
        self.picture_format, self.quality = picture_format, quality
        self.concurrency, self.num_workers, self.price = concurrency, num_workers, price
        self._selection = selection
        # What the protocol's dialects disagree on; adapted when the endpoint says so.
        self._limit_name = "max_tokens"
        self._sampling = self._asked_sampling = {"temperature": temperature}

    def describe(self) -> dict[str, Any]:
        """Tell what answers and what it is shown; concurrency, workers and price change nothing and are left out."""
        return {
            "kind": "endpoint",
            "model": self.client.model,
            "endpoint": self.client.endpoint,
            "representation": self.representation.describe(),
            "selection": dict(self._selection),
            "pictures": {"format": self.picture_format}
            | ({"quality": self.quality} if self.picture_format == "jpeg" else {}),
            "wording_sha256": WORDING,
            "sampling": self._asked_sampling,
            "versions": {name: version(name) for name in ("av", "openai", "pillow")},
        }

    def predict(self, requests: Iterable[Request]) -> Iterator[Prediction]:
        """Answer requests, several at a time, as answers come; what goes wrong with one becomes its `error`.

        Raises:
            ChatStopped: where no further request would be answered either: no key, no quota, no such model.
        """
        with self._look_ahead(2 * self.concurrency) as ahead:
            yield from map_concurrently(
                self._answer, ahead.look(requests), concurrency=self.concurrency, stopping=self.client.stopping
            )

    def stream(self, requests: Iterable[Request], on_text: OnText) -> Iterator[Prediction]:
        """Answer requests one after the other, giving each answer to `on_text` piece by piece as it comes."""
        with self._look_ahead(1) as ahead:
            for seen in ahead.look(requests):
                yield self._answer(seen, on_text)

    def _look_ahead(self, ahead: int) -> LookAhead:
        options = {"representation": self.representation, **self._selection}
        return LookAhead(options, num_workers=self.num_workers, ahead=ahead, looking=look_at_pictures)

    def _answer(self, seen: tuple[Request, Look | None], on_text: OnText | None = None) -> Prediction:
        request, look = seen
        seconds = {} if look is None else {"video": round(look.seconds, 4)}
        frames: Mapping[str, Any] = {} if look is None else look.frames
        started = perf_counter()
        try:
            _check(request, look)
            pictures = None if look is None else look.pixels
            messages = chat_messages(
                request, pictures, frames, picture_format=self.picture_format, quality=self.quality
            )
            reply = self._complete(messages, request.max_new_tokens, on_text)
        except ChatError as error:
            seconds["answer"] = round(perf_counter() - started, 4)
            return Prediction(request.id, "", error=reason_of(InputError(str(error))), seconds=seconds, frames=frames)
        seconds["answer"] = round(perf_counter() - started, 4)
        counts = {"prompt": reply.prompt_tokens, "new": reply.new_tokens}
        usage = {name: count for name, count in counts.items() if count is not None}
        cost = None if self.price is None else self.price.cost(usage)
        text = without_prefix(reply.text, request.prefix)
        lacking = None if text else f"the answer is empty (it ended by {reply.finish_reason}); allow more new tokens"
        return Prediction(request.id, text, lacking, usage=usage, seconds=seconds, frames=frames, cost=cost)

    def _complete(self, messages: list[dict[str, Any]], limit: int, on_text: OnText | None) -> ChatReply:
        while True:
            asked = {self._limit_name: limit, **self._sampling}
            adapts = partial(self._adapts, asked)
            try:
                return self.client.complete(messages, on_text=on_text, adapts=adapts, **asked)
            except ChatError as error:
                if not adapts(error):
                    raise

    def _adapts(self, asked: Mapping[str, Any], error: ChatError) -> bool:
        """Learn from a rejection how this endpoint wants to be asked; tell whether there is anything new to try."""
        if error.kind != "rejected":
            return False
        said = str(error)
        if "max_completion_tokens" in said and "max_tokens" in asked:
            self._limit_name = "max_completion_tokens"
            return True
        if "temperature" in said and "temperature" in asked:
            self._sampling = {}
            return True
        return False


def _check(request: Request, look: Look | None) -> None:
    """Find what cannot be asked; raised as the error of this one request."""
    said = None
    if look is not None and look.error:
        said = look.error
    elif request.choices:
        said = "an endpoint does not tell the likelihoods of choices; ask for a generated answer"
    elif not request.question.strip():
        said = "the question is empty; ask something, for example: Which way does the object move?"
    elif not is_utf8(request.question + request.prefix + (request.system or "")):
        said = "the question is not valid text (UTF-8); type it again"
    elif request.max_new_tokens < 1:
        said = f"max_new_tokens must be at least 1, got {request.max_new_tokens}"
    if said is not None:
        raise ChatError("rejected", said)
