"""Official annotation files: lists of entries in JSON or JSONL, whose every complaint names file, entry and field."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..numeric import is_number

MAX_BYTES = 256 * 2**20
"""Largest annotation file: over ten times that of MSRVTT-QA, the largest of them."""
MAX_ENTRIES = 1_000_000

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}


@dataclass(frozen=True)
class Entry:
    """Hold one entry of an annotation file and where it stands; `number` counts from 0."""

    values: dict[str, Any]
    path: Path
    number: int
    task: str
    part: str = ""

    @property
    def place(self) -> str:
        """Name the entry for messages, counted from 1."""
        return f"{self.path}: entry {self.number + 1}{self.part}"

    def require(self, *names: str) -> None:
        """Make sure that fields are there.

        Raises:
            InputError: naming those that are not, and those that are instead.
        """
        missing = [name for name in names if name not in self.values]
        if missing:
            there = ", ".join(str(name)[:40] for name in list(self.values)[:8]) or "nothing"
            raise InputError(
                f"{self.place} lacks {', '.join(missing)} (it has {there}); is this the file for {self.task}?"
            )

    def text(self, name: str) -> str:
        """Give a field that must be a text with something in it; numbers count as texts (answers such as 2)."""
        self.require(name)
        value = self.values[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise InputError(f"{self.place}: {name} must be a text, not {kind_of(value)}")
        if not value.strip():
            raise InputError(f"{self.place}: {name} is empty")
        return value.strip()

    def seconds(self, name: str) -> float:
        """Give a field that must be a number of seconds."""
        self.require(name)
        value = self.values[name]
        if not is_number(value):
            raise InputError(f"{self.place}: {name} must be a number of seconds, got {json.dumps(value)[:40]}")
        return float(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Give a field that must be a list of two to 26 texts."""
        self.require(name)
        values = self.values[name]
        if not isinstance(values, list) or not 2 <= len(values) <= 26:
            raise InputError(f"{self.place}: {name} must be a list of 2 to 26 options")
        inner = [Entry({name: value}, self.path, self.number, self.task, f", {name}") for value in values]
        return tuple(entry.text(name) for entry in inner)

    def entries(self, name: str) -> "Iterator[Entry]":
        """Yield the objects of a field that must be a list of them."""
        self.require(name)
        values = self.values[name]
        if not isinstance(values, list):
            raise InputError(f"{self.place}: {name} must be a list, not {kind_of(values)}")
        for rank, value in enumerate(values, start=1):
            part = f", {name} {rank}"
            if not isinstance(value, dict):
                raise InputError(f"{self.place}{part} is no object but {kind_of(value)}")
            yield Entry(value, self.path, self.number, self.task, part)

    def extra(self, *names: str) -> dict[str, Any]:
        """Keep what the file says besides, where it says it in plain values."""
        found = {name: self.values[name] for name in names if name in self.values}
        return {name: value for name, value in found.items() if isinstance(value, str | int | float)}


@dataclass
class Annotations:
    """Read annotation files below a data folder, and remember their hashes for the record of a run."""

    task: str
    hashes: dict[str, str] = field(default_factory=dict)

    def read(self, root: Path, name: str) -> list[Entry]:
        """Read a JSON list of objects, or JSONL by the suffix.

        Raises:
            InputError: where it is missing, too large, no JSON, or no list of objects.
        """
        path = root / name
        content = _read_bytes(path)
        self.hashes[name] = hashlib.sha256(content).hexdigest()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text (byte {error.start}); download it again") from error
        values = list(_parse_lines(text, path)) if path.suffix == ".jsonl" else _parse_list(text, path)
        if len(values) > MAX_ENTRIES:
            raise InputError(f"{path} has {len(values)} entries, over the limit of {MAX_ENTRIES}")
        if not values:
            raise InputError(f"{path} holds no entries; download it again")
        for number, value in enumerate(values, start=1):
            if not isinstance(value, dict):
                raise InputError(f"{path}: entry {number} is no object but {kind_of(value)}")
        return [Entry(value, path, number, self.task) for number, value in enumerate(values)]


def find_root(data: Path, task: str, folders: Sequence[str], names: Sequence[str]) -> tuple[Path, str]:
    """Find the folder of a benchmark: the data folder itself, or one below it that has a known name.

    Args:
        data: what the user gave.
        task: its name, for messages.
        folders: names under which the benchmark is known, in lower case.
        names: paths of its first annotation file within that folder, in the order in which they are tried.

    Returns:
        The folder, and the path of the annotation file within it.

    Raises:
        InputError: where there is no such folder or file.
    """
    if not data.is_dir():
        raise InputError(f"no such folder of data: {data}; give the folder that holds {folders[0]}")
    below = [path for path in sorted(data.iterdir()) if path.name.lower() in folders and path.is_dir()]
    for root in [data, *below]:
        for name in names:
            if (root / name).is_file():
                return root, name
    tried = f"{data} or {data / folders[0]}"
    raise InputError(
        f"{task}: no {names[0]} in {tried}; dynimg-vl eval check {task} --data {data} says what to download"
    )


def kind_of(value: Any) -> str:
    """Name the JSON type of a value."""
    return _KINDS.get(type(value), "a number")


def _read_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path} has {size} bytes, over the limit of {MAX_BYTES}; is it an annotation file?")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def _parse_list(text: str, path: Path) -> list[Any]:
    values = _json(text, str(path))
    if not isinstance(values, list):
        raise InputError(f"{path} must hold a list of entries, not {kind_of(values)}")
    return values


def _parse_lines(text: str, path: Path) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _json(line, f"{path}: line {number}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of too many digits
        raise InputError(f"{where} is not usable JSON: {str(error)[:80]}") from error
