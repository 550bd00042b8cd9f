"""Requests from a file of JSON lines, checked before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..numeric import is_number
from .requests import Request

KEYS = ("id", "video", "question", "system", "prefix", "clip", "fps", "choices", "max_new_tokens")


def read_requests(path: Path, *, max_new_tokens: int | None = None) -> list[Request]:
    """Read a file with one request on each line: {"video": ..., "question": ...}, and what else `Request` has.

    A video that is no absolute path is looked for from the folder of the file; null stands for none. The id is the
    number of the line where it is not given. Empty lines are skipped. Whether the videos exist is not looked at.

    Args:
        path: the file.
        max_new_tokens: of the lines that do not say it.

    Raises:
        InputError: where the file cannot be read, or naming the first line that is no request.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    defaults = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    requests: list[Request] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            request = _request(json.loads(line), number, path.parent, defaults)
            if request.id in seen:
                raise InputError(f"the id {request.id!r} is that of line {seen[request.id]}")
        except InputError as error:
            raise InputError(f"line {number} of {path}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"line {number} of {path} is no JSON: {' '.join(str(error).split())[:120]}") from error
        seen[request.id] = number
        requests.append(request)
    if not requests:
        raise InputError(f"{path} holds no request; write one on each line, as JSON")
    return requests


def _request(row: Any, number: int, folder: Path, defaults: dict[str, Any]) -> Request:
    if not isinstance(row, dict):
        raise InputError('a request is an object: {"video": "clip.mp4", "question": "What moves?"}')
    if unknown := sorted(set(row) - set(KEYS)):
        raise InputError(f"{unknown[0]!r} is not known; a request has {', '.join(KEYS)}")
    for name in ("video", "question"):
        if name not in row:
            raise InputError(f"{name!r} is missing" + (" (null for a question without one)" if name == "video" else ""))
    given = {name: value for name, value in row.items() if value is not None and name not in ("id", "video")}
    for name, (is_right, kind) in _KINDS.items():
        if name in given and not is_right(given[name]):
            raise InputError(f"{name!r} must be {kind}")
    if "question" not in given:
        raise InputError("'question' must be text, not empty")
    given["question"] = given["question"].strip()
    for name in ("clip", "choices"):
        if name in given:
            given[name] = tuple(given[name])
    return Request(id=_id_of(row, number), video=_video_of(row["video"], folder), **{**defaults, **given})


def _id_of(row: dict[str, Any], number: int) -> str:
    name = row.get("id")
    if name is None:
        return str(number)
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        raise InputError("'id' must be text or a whole number")
    return str(name)


def _video_of(video: Any, folder: Path) -> str | None:
    if video is None:
        return None
    if not isinstance(video, str) or not video or "\0" in video:
        raise InputError("'video' must be a path, or null")
    # An address stays one, so that it is refused as such.
    return video if "://" in video else str(folder / video)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_clip(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and 0 <= value[0] < value[1]


def _is_choices(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_KINDS = {
    "question": (_is_text, "text, not empty"),
    "system": (_is_text, "text, not empty"),
    "prefix": (lambda value: value == "" or _is_text(value), "text"),
    "clip": (_is_clip, "[first, last] in seconds"),
    "fps": (lambda value: is_number(value) and value > 0, "a positive number"),
    "choices": (_is_choices, "a list of two texts or more"),
    "max_new_tokens": (_is_count, "a whole number from 1 on"),
}
