"""Reading what others wrote: folders of models and of their parts, complete, damaged or none at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError

_LONGEST = 240  # characters of a foreign message that are passed on


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an `InputError` of one line that begins with `what`.

    A damaged file breaks the libraries that read it in any way they like (TypeError, KeyError, errors of their own), so
    every exception counts here; an `InputError` passes as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Give what an exception says on one line of bounded length, or its name where it says nothing."""
    said = " ".join(str(error).split())
    return (said if len(said) <= _LONGEST else f"{said[:_LONGEST]}...") or type(error).__name__


def check_model_name(name: str) -> None:
    """Refuse a name that is neither an existing folder nor of the form of a hub id, before anybody asks the hub.

    Raises:
        InputError: where it is neither.
    """
    if name and Path(name).is_dir():
        return
    if name and Path(name).exists():
        raise InputError(f"{name} is a file; a model is a folder or a hub id (owner/name)")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise InputError(f"no such folder: {name or '(an empty name)'}; a model is a folder or a hub id (owner/name)")
