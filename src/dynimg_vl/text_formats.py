"""JSON and YAML that may be hostile: whatever comes in is a value or a ValueError, whatever goes out can be read."""

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

_MESSAGE_LENGTH = 200


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """Write JSON as UTF-8; what UTF-8 cannot hold (halves of surrogate pairs, as in odd file names) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent).encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent).encode()


def is_utf8(text: str) -> bool:
    """Tell whether a text can be sent: half a surrogate pair is no character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def finite(value: Any) -> Any:
    """Put None in place of numbers that JSON has not: NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def load_json(text: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: where it is none, is nested too deeply, or holds a number of too many digits.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def load_yaml(text: str) -> Any:
    """Read YAML; nothing in it is executed.

    Raises:
        ValueError: with one line, where it is none, or a value is not what its tag says.
    """
    import yaml

    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # All but the first out of values: 2001-99-99 is no date, !!int "" no number.
        raise ValueError(" ".join(str(error).split())[:_MESSAGE_LENGTH] or type(error).__name__) from error


def check_types(value: Any) -> None:
    """Compare the fields of a dataclass with its annotations, as far as these are plain types and containers of them.

    Raises:
        TypeError: naming the first field that holds something else.
    """
    kind: Any = type(value)
    hints = _hints(kind)
    for entry in fields(value):
        found = getattr(value, entry.name)
        if not _fits(found, hints[entry.name]):
            raise TypeError(f"{entry.name} is {type(found).__name__}")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is typing.Literal:
        return any(value is each or (type(value) is type(each) and value == each) for each in inner)
    if origin is tuple:
        each = inner[:1] * len(value) if inner[1:] == (...,) and isinstance(value, tuple) else inner
        return isinstance(value, tuple) and len(value) == len(each) and all(map(_fits, value, each))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(name, inner[0]) and _fits(each, inner[1]) for name, each in value.items()
        )
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool)
    return value is None if hint in (None, type(None)) else hint is Any or isinstance(value, hint)
