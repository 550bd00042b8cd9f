"""Annotation files as they are found: the public question-and-answer lists of VideoChat2-IT, and chat JSONL.

Both become `Sample`s: messages in the form that chat templates take, and the clips that their video parts stand for.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...numeric import is_number

Message = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """Name a video file, or a stretch of it from `start` to `end` in seconds on the clock of the file."""

    path: str
    start: float | None = None
    end: float | None = None

    @property
    def bounds(self) -> tuple[float | None, float | None] | None:
        """Give the stretch as selection takes it; None is the whole video."""
        return None if self.start is None and self.end is None else (self.start, self.end)


@dataclass(frozen=True)
class Sample:
    """Hold one conversation: `clips` in the order of the video parts of `messages`, and where it was annotated.

    `entry` counts from 1: the place in a JSON list, or the line of a JSONL file.
    """

    messages: tuple[Message, ...]
    clips: tuple[Clip, ...]
    source: str
    entry: int

    @property
    def place(self) -> str:
        """Name where this sample comes from, for messages."""
        return f"{self.source} entry {self.entry}"

    def text_of(self, *roles: str) -> str:
        """Join what these roles say; all of them where none is named."""
        said = (message for message in self.messages if not roles or message["role"] in roles)
        return "\n".join(part["text"] for message in said for part in message["content"] if part["type"] == "text")


def read_annotations(path: Path, source: str, first_entry: int = 1) -> Iterator[Sample]:
    """Read an annotation file: a JSON list of {"video", "QA", "start"?, "end"?}, or JSONL of {"messages"}.

    Paths of videos stay as they are written. `first_entry` is the number of the first entry in messages about it.

    Raises:
        InputError: naming file, entry and what is missing, where the file cannot be read or an entry is not complete.
    """
    parse = _parse_chat if path.suffix == ".jsonl" else _parse_exchanges
    for entry, value in _entries(path):
        where = f"{path}: entry {entry}"
        if not isinstance(value, dict):
            raise InputError(f"{where} is no object but {_kind(value)}")
        messages, clips = parse(value, where)
        yield Sample(tuple(messages), tuple(clips), source, first_entry + entry - 1)


def _entries(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read annotations {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start})") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, _json(line, f"{path}: entry {number}")
        return
    values = _json(text, str(path))
    if not isinstance(values, list):
        raise InputError(f"{path} must hold a list of entries, not {_kind(values)}; one object per line is .jsonl")
    yield from enumerate(values, start=1)


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of too many digits
        raise InputError(f"{where} is not usable JSON: {str(error)[:80]}") from error


def _parse_exchanges(value: dict[str, Any], where: str) -> tuple[list[Message], list[Clip]]:
    """Turn {"video", "QA": [{"i", "q", "a"}]} into turns; the instruction opens the question that it belongs to."""
    clip = _clip(value, "video", where)
    exchanges = value.get("QA")
    if not isinstance(exchanges, list) or not exchanges:
        raise InputError(f"{where} lacks QA, a list of questions and answers")
    messages: list[Message] = []
    instruction = ""
    for number, exchange in enumerate(exchanges, start=1):
        at = f"{where}, QA {number}"
        if not isinstance(exchange, dict):
            raise InputError(f"{at} is no object but {_kind(exchange)}")
        if "i" not in exchange and "q" not in exchange:
            raise InputError(f"{at} lacks a question (q, or an instruction i)")
        said = _text(exchange, "i", at, "")
        question = [_text(exchange, "q", at, "")]
        if said != instruction:  # conversations repeat theirs in every turn
            question.insert(0, said)
            instruction = said
        content: list[dict[str, Any]] = [{"type": "video"}] if number == 1 else []
        if any(question):
            content.append({"type": "text", "text": "\n".join(filter(None, question))})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": _text(exchange, "a", at)}]})
    return messages, [clip]


def _parse_chat(value: dict[str, Any], where: str) -> tuple[list[Message], list[Clip]]:
    """Check {"messages": [{"role", "content"}]}; a video part is {"type": "video", "path" or "video", "start"?, ..}."""
    given = value.get("messages")
    if not isinstance(given, list) or not given:
        raise InputError(f"{where} lacks messages, a list of turns")
    messages: list[Message] = []
    clips: list[Clip] = []
    for number, message in enumerate(given, start=1):
        at = f"{where}, message {number}"
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise InputError(f"{at} lacks a role: system, user or assistant")
        content = message.get("content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise InputError(f"{at} lacks content: a text, or a list of parts")
        parts = [_part(part, f"{at}, part {rank}", clips) for rank, part in enumerate(content, start=1)]
        messages.append({"role": message["role"], "content": parts})
    _check_turns(messages, where)
    return messages, clips


def _part(part: Any, where: str, clips: list[Clip]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return {"type": "text", "text": _text(part, "text", where)}
    if kind == "video":
        clips.append(_clip(part, "path" if "path" in part else "video", where))
        return {"type": "video"}
    raise InputError(f"{where} must have the type text or video, got {kind if kind else _kind(part)}")


def _check_turns(messages: list[Message], where: str) -> None:
    # ChatML: perhaps a system message, then user and assistant in turn.
    roles = [message["role"] for message in messages]
    spoken = roles[1:] if roles[0] == "system" else roles
    if not spoken or len(spoken) % 2 or any(role != ("user", "assistant")[n % 2] for n, role in enumerate(spoken)):
        raise InputError(
            f"{where}: messages must go user, assistant, .. and end with assistant; got {', '.join(roles)}"
        )
    for message in messages:
        if message["role"] != "user" and any(part["type"] == "video" for part in message["content"]):
            raise InputError(f"{where}: only user messages may show a video, not {message['role']}")


def _clip(value: dict[str, Any], name: str, where: str) -> Clip:
    path = value.get(name)
    if not isinstance(path, str) or not path:
        raise InputError(f"{where} lacks {'the path of its' if name == 'path' else 'a'} video")
    if "://" in path:
        raise InputError(f"{where}: {path} is an address; download the video and give its path")
    start, end = (_seconds(value, bound, where) for bound in ("start", "end"))
    if start is not None and end is not None and start >= end:
        raise InputError(f"{where}: the clip from {start:g} s to {end:g} s is empty")
    return Clip(path, start, end)


def _seconds(value: dict[str, Any], name: str, where: str) -> float | None:
    seconds = value.get(name)
    if seconds is None:
        return None
    if not is_number(seconds):
        raise InputError(f"{where}: {name} must be a number of seconds, got {json.dumps(seconds)[:40]}")
    return float(seconds)


def _text(value: dict[str, Any], name: str, where: str, default: str | None = None) -> str:
    text = value.get(name, default)
    if not isinstance(text, str):
        found = "is missing" if name not in value else f"is {_kind(text)}, not text"
        raise InputError(f"{where}: {name} {found}")
    # A line break at its start would melt with the one before it into another token than generation starts from.
    return text.strip()


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
