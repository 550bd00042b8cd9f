"""The files of a run: what is done is on disk at once, and several processes may take part and come and go.

`predictions.jsonl` with `run.json` beside it. Several processes write a file each, `predictions.I-of-N.jsonl`; whoever
finishes last joins them. A process that was killed leaves at most half a line and no lock.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import BaseFileLock, FileLock, Timeout

from ..errors import InputError
from ..text_formats import json_bytes, load_json
from .records import decode_record


@dataclass(frozen=True)
class Entry:
    """Hold one line of a journal, with its end, and whether it tells of an error."""

    line: bytes
    is_error: bool


class RunFiles:
    """Know the files of one run, as one of `count` processes.

    Args:
        out: the folder of the run, or the `.jsonl` file of its predictions.
        index: which of the processes this is.
        count: how many there are.
    """

    def __init__(self, out: Path, index: int = 0, count: int = 1) -> None:
        is_file = out.suffix == ".jsonl"
        self.predictions = out if is_file else out / "predictions.jsonl"
        self.header = out.with_suffix(".run.json") if is_file else out / "run.json"
        self.folder = self.predictions.parent
        self._stem = self.predictions.stem
        self._share = f"{index}-of-{count}"
        self.journal = self.predictions if count == 1 else self.folder / f"{self._stem}.{self._share}.jsonl"

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep all other processes of the run out for a moment, while its files are looked at or joined."""
        with FileLock(self.folder / f".{self._stem}.lock"):
            yield

    def check_free(self) -> None:
        """Make sure that this process's part of the run is free; call it, and `claim`, `guarded`.

        Raises:
            InputError: where another process has it, or the run is shared among another number of processes.
        """
        count = self._share.rpartition("-")[2]
        if any(share == self._share or share.rpartition("-")[2] != count for share in self.active()):
            raise InputError(f"another process is writing {self.predictions}; wait for it, or name another output")

    def claim(self) -> BaseFileLock:
        """Take this process's part of the run, until it is released or the process ends."""
        lock = FileLock(self._lock_path(self._share))
        lock.acquire(timeout=0)
        return lock

    def active(self) -> list[str]:
        """List the parts ("0-of-2") of the run that a living process has."""
        found = []
        for path in self._matching(r"\.{stem}\.(\d+-of-\d+)\.lock"):
            lock = FileLock(path)
            try:
                with lock.acquire(timeout=0):
                    continue
            except Timeout:
                found.append(path.name.split(".")[-2])
        return found

    def written(self) -> list[Path]:
        """List the files of predictions that are there, those of single processes included."""
        return [path for path in (self.predictions, *self._shards()) if path.exists()]

    def read(self) -> dict[str, Entry]:
        """Read the latest entry for each id from all files of the run; an answer is never replaced by an error."""
        entries: dict[str, Entry] = {}
        for path in sorted(self.written(), key=_modified):
            for line in path.read_bytes().split(b"\n")[:-1]:
                record = decode_record(line)
                if record is None:
                    continue
                entry = Entry(line + b"\n", record.get("error") is not None)
                before = entries.get(record["id"])
                if before is None or before.is_error or not entry.is_error:
                    entries[record["id"]] = entry
        return entries

    def check_header(self, facts: Mapping[str, Any]) -> None:
        """Write what the run is made of, or make sure that it is what was written before.

        Raises:
            InputError: naming the first difference; also where there are predictions and nothing tells whose.
        """
        facts = load_json(json_bytes(facts))
        if not self.header.exists():
            if self.written():
                raise InputError(
                    f"{self.predictions} is there, but not {self.header.name}: it is of no run that can go on"
                )
            replace_file(self.header, json_bytes(facts, 2) + b"\n")
            return
        try:
            before = load_json(self.header.read_bytes())
        except ValueError as error:
            raise InputError(f"{self.header} cannot be read; name another output, or --restart") from error
        known = before if isinstance(before, dict) else {}
        for name, now, then in differences(facts, {key: known.get(key) for key in facts}):
            raise InputError(
                f"{self.predictions} is of another run: {name} is {_short(now)} now and was {_short(then)}; "
                "name another output, or --restart"
            )

    def join(self, ids: Sequence[str], entries: Mapping[str, Entry], extra: Mapping[str, Any]) -> None:
        """Write the final file, in the order of `ids`, and add facts to the header; remove what it was joined from."""
        content = b"".join(entries[name].line for name in ids)
        if not self.predictions.exists() or self.predictions.read_bytes() != content:
            replace_file(self.predictions, content)
        before = load_json(self.header.read_bytes())
        replace_file(self.header, json_bytes({**before, **extra}, 2) + b"\n")
        self._remove_parts()

    def remove(self) -> None:
        """Remove all files of the run."""
        self._remove_parts()
        for path in (self.predictions, self.header):
            path.unlink(missing_ok=True)

    def _remove_parts(self) -> None:
        for path in (*self._shards(), *self._matching(r"\.{stem}\.(\d+-of-\d+)\.lock")):
            path.unlink(missing_ok=True)

    def _shards(self) -> list[Path]:
        return self._matching(r"{stem}\.(\d+-of-\d+)\.jsonl")

    def _lock_path(self, share: str) -> Path:
        return self.folder / f".{self._stem}.{share}.lock"

    def _matching(self, pattern: str) -> list[Path]:
        wanted = re.compile(pattern.replace("{stem}", re.escape(self._stem)))
        return sorted(path for path in self.folder.iterdir() if wanted.fullmatch(path.name))


class JournalWriter:
    """Append whole lines to a journal: each is in the file when `write` returns.

    What a write that was cut off left at the end is removed first. Use as a context.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "JournalWriter":
        self._file: BinaryIO = open(self._path, "a+b", buffering=0)
        self._end = _end_of_lines(self._file)
        self._file.truncate(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, line: bytes) -> None:
        """Append a line.

        Raises:
            InputError: where the disk does not take it; the lines before stay as they are.
        """
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            self._file.truncate(self._end)
            raise InputError(
                f"cannot write {self._path}: {error.strerror}; what is in it is kept: make room and start again"
            ) from error
        self._end += len(line)


def differences(now: Any, then: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs between two values of JSON: its dotted name and both values, None for what is not there."""
    if isinstance(now, dict) and isinstance(then, dict):
        for key in {**now, **then}:
            yield from differences(now.get(key), then.get(key), f"{name}.{key}" if name else str(key))
    elif now != then:
        yield name, now, then


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: where the disk does not take it; a file that was there before stays as it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # The error of a write or a sync names no file.
        raise InputError(
            f"cannot write {path}: {error.strerror}; what is there is kept: make room and start again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _end_of_lines(file: BinaryIO) -> int:
    """Find where the last whole line of a file ends."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 2**16)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _modified(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _short(value: Any) -> str:
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 40 else f"{said[:36]}..."
