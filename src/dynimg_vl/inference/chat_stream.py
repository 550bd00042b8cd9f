"""Join the pieces of a streamed answer into what it would have been in one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

OnText = Callable[[str], None]


@dataclass
class Listener:
    """Hand the pieces of an answer on, and remember whether there was any."""

    on_text: OnText
    num_characters: int = 0

    def __call__(self, piece: str) -> None:
        """Take the next piece."""
        self.num_characters += len(piece)
        self.on_text(piece)


@dataclass
class Joined:
    """Hold what the chunks of a stream add up to; `finish_reason` is None where it broke off."""

    content: str = ""
    refusal: str = ""
    model: str | None = None
    finish_reason: str | None = None
    usage: Any = field(default=None, repr=False)


def join_chunks(chunks: Iterable[Any], on_text: OnText) -> Joined:
    """Read a stream to its end, giving every piece of text to `on_text` as it comes."""
    joined = Joined()
    pieces: list[str] = []
    for chunk in chunks:
        joined.model = getattr(chunk, "model", None) or joined.model
        joined.usage = getattr(chunk, "usage", None) or joined.usage
        # The chunk with the counts has no choices. The client checks no types.
        choices = getattr(chunk, "choices", None)
        for choice in choices[:1] if isinstance(choices, list) else ():
            joined.finish_reason = text_or_none(getattr(choice, "finish_reason", None)) or joined.finish_reason
            delta = getattr(choice, "delta", None)
            if piece := text_or_none(getattr(delta, "content", None)):
                pieces.append(piece)
                on_text(piece)
            joined.refusal += text_or_none(getattr(delta, "refusal", None)) or ""
    joined.content = "".join(pieces)
    return joined


def text_or_none(value: Any) -> str | None:
    """Take what should be text; None where the endpoint sent something else."""
    return value if isinstance(value, str) else None
