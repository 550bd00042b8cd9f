"""The judges themselves: rules, and a language model behind an endpoint."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...inference.chat_client import ChatClient, ChatError
from ...text_formats import is_utf8
from .cache import JudgeCache
from .cases import Case, Judgement
from .prompts import QA, JudgePrompts
from .rules import RULES
from .verdicts import parse_verdict

DEFAULT_MODEL = "gpt-3.5-turbo-0125"  # the paper's judge (Section 4.1)
MAX_ASKS = 3

# A verdict has about ten tokens; a judge that says much more is cut off, and asked again for the verdict alone.
MAX_NEW_TOKENS = 256
_REMINDER = "That could not be read. Reply with the dictionary and nothing else, in this form: {form}"
_FORMS = {True: '{"pred": "yes", "score": 4}, with yes or no, and a whole number from 0 to 5'}
_FORMS[False] = '{"score": 4}, with a whole number from 0 to 5'


@dataclass(frozen=True)
class RuleJudge:
    """Judge by a rule of `RULES`; it says right or wrong and gives no score."""

    name: str

    def describe(self) -> dict[str, Any]:
        """Tell who judges."""
        return {"kind": "rule", "name": self.name}

    def judge(self, case: Case) -> Judgement:
        """Decide one answered case."""
        verdict = RULES[self.name](case.values["answer"], case.values["prediction"])
        return Judgement.of(case, "judged", is_correct=verdict.is_correct)


@dataclass
class Spending:
    """Add up what was used: requests and their tokens, and how many verdicts the cache had."""

    num_requests: int = 0
    num_cached: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    num_without_counts: int = 0

    def describe(self, price: "Price | None") -> dict[str, Any]:
        """Give everything in values that JSON knows; `cost_usd` is None where no price is known."""
        cost = None if price is None else price.cost(self.prompt_tokens, self.new_tokens)
        return {**vars(self), "cost_usd": cost}


@dataclass(frozen=True)
class Price:
    """Hold a price in US dollars for a million tokens, and the day from which it is known."""

    prompt: float
    new: float
    date: str

    def cost(self, prompt_tokens: int, new_tokens: int) -> float:
        """Give what tokens cost, in US dollars."""
        return (prompt_tokens * self.prompt + new_tokens * self.new) / 1_000_000


# As published by the vendor on the day given; there is no other price that this project vouches for.
KNOWN_PRICES = {DEFAULT_MODEL: Price(0.5, 1.5, "2024-01-25")}


@dataclass
class EndpointJudge:
    """Ask a language model for each verdict, at temperature 0; what it says is kept in the cache."""

    client: ChatClient
    prompts: JudgePrompts
    cache: JudgeCache
    max_new_tokens: int = MAX_NEW_TOKENS
    spending: Spending = field(default_factory=Spending)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._limit: dict[str, Any] = {"max_tokens": self.max_new_tokens}

    @property
    def name(self) -> str:
        """Give the name that files carry: the model's, with a piece of the prompt's hash where that is not our own."""
        name = re.sub(r"[^\w.+-]", "_", self.client.model)
        return name if self.prompts.source == "built-in" else f"{name}-{self.prompts.hash[:8]}"

    def describe(self) -> dict[str, Any]:
        """Tell who judges and how."""
        return {
            "kind": "endpoint",
            "name": self.name,
            "model": self.client.model,
            "endpoint": self.client.endpoint,
            "temperature": 0,
            "max_asks": MAX_ASKS,
            "max_new_tokens": self.max_new_tokens,
            "prompt": {"source": self.prompts.source, "sha256": self.prompts.hash},
        }

    def key_of(self, case: Case) -> str:
        """Hash everything that a verdict rests on: endpoint, model, wording, and the texts that are judged."""
        facts = [self.client.endpoint, self.client.model, self.prompts.hash_of(case.aspect), dict(case.values)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def is_cached(self, case: Case) -> bool:
        """Tell whether a verdict on this case is in the cache."""
        return self._from_cache(case, self.key_of(case)) is not None

    def prompt_characters(self, case: Case) -> int:
        """Count the characters of the messages for a case."""
        return sum(len(message["content"]) for message in self.prompts.messages(case.aspect, case.values))

    def judge(self, case: Case) -> Judgement:
        """Decide one answered case: from the cache, or by asking, again where the reply cannot be read.

        Raises:
            ChatStopped: where the endpoint will answer nothing more.
            InputError: where the cache cannot be written.
        """
        key = self.key_of(case)
        kept = self._from_cache(case, key)
        if kept is not None:
            with self._lock:
                self.spending.num_cached += 1
            return kept
        messages: list[dict[str, Any]] = list(self.prompts.messages(case.aspect, case.values))
        if not all(is_utf8(str(message["content"])) for message in messages):
            said = "half a surrogate pair, which no request can hold, is in its texts"
            return Judgement.of(case, "rejected", key=key, message=said)
        replies: list[str] = []
        model = None
        for _ in range(MAX_ASKS):
            try:
                reply = self._ask(messages)
            except ChatError as error:
                return Judgement.of(case, error.kind, replies=tuple(replies), model=model, key=key, message=str(error))
            replies.append(reply.text)
            model = reply.model
            decided = self._decided(case, key, tuple(replies), model)
            if decided is not None:
                self.cache.put(key, {"replies": replies, "model": model})
                return decided
            reminder = _REMINDER.format(form=_FORMS[case.aspect == QA])
            messages += [{"role": "assistant", "content": reply.text}, {"role": "user", "content": reminder}]
        return Judgement.of(
            case, "unparsed", replies=tuple(replies), model=model, key=key, message="no verdict in the replies"
        )

    def _ask(self, messages: list[dict[str, Any]]) -> Any:
        # What this request is sent with: another thread may have changed the judge's by the time of an error.
        limit = self._limit
        adapts = partial(_wants_newer_name, limit)
        try:
            reply = self.client.complete(messages, adapts=adapts, temperature=0, **limit)
        except ChatError as error:
            if not adapts(error):
                raise
            self._limit = limit = {"max_completion_tokens": self.max_new_tokens}
            reply = self.client.complete(messages, temperature=0, **limit)
        with self._lock:
            self.spending.num_requests += 1
            self.spending.prompt_tokens += reply.prompt_tokens or 0
            self.spending.new_tokens += reply.new_tokens or 0
            self.spending.num_without_counts += reply.prompt_tokens is None
        return reply

    def _from_cache(self, case: Case, key: str) -> Judgement | None:
        kept = self.cache.get(key)
        replies, model = (kept or {}).get("replies"), (kept or {}).get("model")
        if not isinstance(replies, list) or not all(isinstance(reply, str) for reply in replies):
            return None
        return self._decided(case, key, tuple(replies), str(model)) if replies else None

    def _decided(self, case: Case, key: str, replies: tuple[str, ...], model: str | None) -> Judgement | None:
        # The words are kept, not the verdict: whoever reads them again, with a better parser, needs no endpoint.
        verdict = parse_verdict(replies[-1], with_decision=case.aspect == QA)
        if verdict is None:
            return None
        return Judgement.of(case, "judged", replies=replies, model=model, key=key, **vars(verdict))


def _wants_newer_name(limit: Mapping[str, Any], error: ChatError) -> bool:
    # Newer models of the vendor want the limit under its newer name, older servers under the older one.
    return error.kind == "rejected" and "max_completion_tokens" in str(error) and "max_tokens" in limit


Judge = RuleJudge | EndpointJudge


def estimate(judge: EndpointJudge, cases: list[Case], progress: Callable[[int, int], None]) -> Mapping[str, int]:
    """Estimate what judging cases takes: those that the cache lacks, at four characters and sixteen new tokens each."""
    num_requests = num_characters = 0
    for number, case in enumerate(cases, start=1):
        if case.state == "answered" and not judge.is_cached(case):
            num_requests += 1
            num_characters += judge.prompt_characters(case)
        progress(number, len(cases))
    return {"num_requests": num_requests, "prompt_tokens": num_characters // 4, "new_tokens": 16 * num_requests}
