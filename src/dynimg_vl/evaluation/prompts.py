"""How a question of a benchmark is put to the model: part of the protocol, hence part of every record."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..text_formats import load_yaml

_MAX_BYTES = 2**16
_MAX_NEW_TOKENS = 4096


@dataclass(frozen=True)
class Prompt:
    """Hold the words around a question.

    Args:
        question: the user's turn; {question} stands for the question, {options} for the lettered options.
        system: the system turn; None for none, as in training.
        prefix: what the answer has to begin with.
        max_new_tokens: longest answer.
    """

    question: str = "{question}"
    system: str | None = None
    prefix: str = ""
    max_new_tokens: int = 64

    def fill(self, question: str, choices: tuple[str, ...] = ()) -> str:
        """Give the user's turn for one question."""
        # Split first: a question may itself hold the word {options}.
        parts = self.question.split("{question}")
        options = "\n".join(f"({letter_of(rank)}) {choice}" for rank, choice in enumerate(choices))
        return question.join(part.replace("{options}", options) for part in parts)

    def describe(self) -> dict[str, Any]:
        """Give everything in values that JSON knows, with a hash over it."""
        values = asdict(self)
        return {**values, "sha256": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}


def letter_of(rank: int) -> str:
    """Give the letter of an option: 0 is A."""
    return chr(ord("A") + rank)


def read_prompt(path: Path, default: Prompt) -> Prompt:
    """Read a prompt from a YAML file with some of the keys question, system, prefix, max_new_tokens.

    Raises:
        InputError: where the file cannot be read, or a key is unknown or of the wrong kind.
    """
    names = [entry.name for entry in fields(Prompt)]
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} has more than {_MAX_BYTES} bytes; is it a prompt?")
        values = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the prompt {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict) or not set(values) <= set(names):
        raise InputError(f"{path} is no prompt; it may have the keys {', '.join(names)}")
    for name, value in values.items():
        kinds = {"max_new_tokens": int, "system": str | None}.get(name, str)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise InputError(f"{path}: {name} must be {'a number' if kinds is int else 'a text'}")
    if "{question}" not in values.get("question", default.question):
        raise InputError(f"{path}: question must hold {{question}}, for which the question stands in")
    if not 1 <= values.get("max_new_tokens", 1) <= _MAX_NEW_TOKENS:
        raise InputError(f"{path}: max_new_tokens must be from 1 to {_MAX_NEW_TOKENS}")
    return Prompt(**{**asdict(default), **values})
