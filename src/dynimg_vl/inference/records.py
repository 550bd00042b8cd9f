"""Predictions as lines of JSON: written as they come, read back whatever the last write left behind.

A line holds a prediction beside its request: `id`, `text`, `error`, what else the prediction has, `request` (what it
has beyond its defaults), and last `seconds`, the only part in which two runs of the same model may differ.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..text_formats import check_types, json_bytes, load_json
from .requests import Prediction, Request


def encode_record(request: Request, prediction: Prediction) -> bytes:
    """Write one line, with its end; always the same bytes for the same pair."""
    result = asdict(prediction)
    seconds = result.pop("seconds")
    head = {name: result.pop(name) for name in ("id", "text", "error")}
    rest = {name: value for name, value in result.items() if value not in (None, (), {})}
    return json_bytes({**head, **rest, "request": _beyond_defaults(request), "seconds": seconds}) + b"\n"


def decode_record(line: bytes) -> dict[str, Any] | None:
    """Read one line; None where it is none, as after a write that was cut off."""
    try:
        record = load_json(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("id"), str) and isinstance(record.get("text"), str)
    return record if whole and "seconds" in record else None


def read_predictions(path: Path) -> Iterator[tuple[Request, Prediction]]:
    """Read a file of predictions with their requests, in the order of the file.

    Raises:
        InputError: where it cannot be read, or a line of it is no prediction.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        record = decode_record(line)
        try:
            if record is None:
                raise TypeError
            known = {name: record.pop(name) for name in ("request", "seconds")}
            asked = {**known["request"], "id": record["id"]}
            pair = Request(**_tupled(asked)), Prediction(**_tupled(record), seconds=known["seconds"])
            check_types(pair[0])
            check_types(pair[1])
        except (TypeError, KeyError) as error:
            raise InputError(f"line {number} of {path} is no prediction; finish the run that writes it") from error
        yield pair


def digest_of_requests(requests: Iterable[Request]) -> str:
    """Hash a list of requests, their order included."""
    digest = hashlib.sha256()
    for request in requests:
        digest.update(json_bytes(asdict(request)) + b"\n")
    return digest.hexdigest()


def _beyond_defaults(request: Request) -> dict[str, Any]:
    given = {field.name: getattr(request, field.name) for field in fields(request)}
    defaults = {field.name: field.default for field in fields(request) if field.default is not MISSING}
    del given["id"]
    return {name: value for name, value in given.items() if name not in defaults or value != defaults[name]}


def _tupled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
