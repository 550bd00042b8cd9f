"""Reading a YAML file of keys, as recipes and mixtures are."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..text_formats import load_yaml


def read_yaml(path: Path, what: str, keys: Iterable[str]) -> dict[str, Any]:
    """Read a YAML file whose top level has keys; nothing in it is executed.

    Args:
        path: the file.
        what: its kind, to name it in a message.
        keys: those that it may have, for the message only.

    Raises:
        InputError: where it cannot be read, is no YAML, or has no keys.
    """
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no {what}; it must have keys: {', '.join(keys)}")
    return values
