"""Answer a list of requests into a file, in a run that may be stopped anywhere and started again."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import BaseFileLock

from ..errors import InputError
from .journal import Entry, JournalWriter, RunFiles
from .records import digest_of_requests, encode_record
from .requests import Engine, Prediction, Request

TOGETHER = 16
"""Requests about one video that one process asks in a row: it is decoded once, and no process waits for long."""

FORMAT = 1
"""Of the files; a run of another format is not continued."""


@dataclass(frozen=True)
class RunResult:
    """Hold how a run stands where this process leaves it.

    Args:
        path: the file of predictions.
        num_requests: of the whole run.
        num_done: how many of them have a line, answers and errors.
        num_failed: how many of those are errors.
        num_new: how many this call asked.
        is_joined: whether the final file is written: False where others are still at work, or some were lost.
    """

    path: Path
    num_requests: int
    num_done: int
    num_failed: int
    num_new: int
    is_joined: bool


def run(
    engine: Engine,
    requests: Iterable[Request],
    out: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = True,
    retry_errors: bool = True,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Answer requests into `predictions.jsonl`, one line as soon as each is done.

    Interrupted anywhere and started again, with whatever number of processes, it ends in the file of an uninterrupted
    run: one line for each request, in their order, equal in everything but `seconds`. `run.json` keeps what made it.

    Args:
        engine: who answers.
        requests: each with an id of its own.
        out: a folder, made where missing, or the `.jsonl` file to write, with `NAME.run.json` beside it.
        settings: what else the run is made of, as plain JSON values; part of what must not change.
        resume: go on with what is there; False removes it first, which only a single process can.
        retry_errors: ask again what ended in an error.
        shard: which of how many processes this is; each takes a part, and who finishes last joins them.
        progress: called with the numbers of this process's requests that are done, and of all of them.

    Raises:
        InputError: where two requests have one id, the files are of another run or in use, or cannot be written.
    """
    requests = _checked(requests)
    index, count = shard
    if not 0 <= index < count:
        raise InputError(f"shard must be (index, count) with 0 <= index < count, got {shard}")
    if not resume and count > 1:
        raise InputError("only a single process can start anew; remove the output first")
    files = RunFiles(Path(out), index, count)
    _make_folder(files)
    facts = {
        "format": FORMAT,
        "engine": engine.describe(),
        "requests": {"count": len(requests), "sha256": digest_of_requests(requests)},
        "settings": dict(settings or {}),
    }
    entries, claimed = _start(files, facts, resume)
    mine = share_of(requests, index, count)
    todo = [request for request in mine if _is_open(entries.get(request.id), retry_errors)]

    def report(num_new: int) -> None:
        if progress is not None:
            progress(len(mine) - len(todo) + num_new, len(mine))

    try:
        with JournalWriter(files.journal) as journal:
            _answer(engine, todo, journal, report)
        with files.guarded():
            claimed.release()  # in here, so that of two who end at once one is the last
            return _finish(files, requests, len(todo))
    finally:
        claimed.release()


def _start(files: RunFiles, facts: Mapping[str, Any], resume: bool) -> tuple[dict[str, Entry], BaseFileLock]:
    """Take this process's part of the run, and read what all have done so far."""
    with files.guarded():
        files.check_free()
        if not resume:
            files.remove()
        files.check_header(facts)
        return files.read(), files.claim()


def share_of(requests: Sequence[Request], index: int, count: int) -> list[Request]:
    """Give the part of one of several processes: what is asked of one video in a row stays together, up to a number."""
    parts: list[list[Request]] = []
    for _, group in groupby(requests, key=lambda request: (request.video, request.clip)):
        row = list(group)
        parts.extend(row[start : start + TOGETHER] for start in range(0, len(row), TOGETHER))
    return [request for part in parts[index::count] for request in part]


def _answer(engine: Engine, todo: Sequence[Request], journal: JournalWriter, report: Callable[[int], None]) -> None:
    waiting = {request.id: request for request in todo}
    report(0)
    predictions: Any = engine.predict(todo) if todo else ()
    # What an engine has open (processes, connections) is closed at once, also where the run is interrupted.
    with closing(predictions) if hasattr(predictions, "close") else nullcontext():
        for prediction in predictions:
            journal.write(encode_record(waiting.pop(prediction.id), prediction))
            report(len(todo) - len(waiting))
    for request in waiting.values():
        journal.write(encode_record(request, Prediction(request.id, "", error="the engine gave no answer")))


def _finish(files: RunFiles, requests: Sequence[Request], num_new: int) -> RunResult:
    """Join the parts, unless others still work on theirs or something is missing."""
    entries = files.read()
    done = [entries[request.id] for request in requests if request.id in entries]
    num_failed = sum(entry.is_error for entry in done)
    is_joined = len(done) == len(requests) and not files.active()
    if is_joined:
        finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
        files.join([request.id for request in requests], entries, {"num_failed": num_failed, "finished": finished})
    return RunResult(files.predictions, len(requests), len(done), num_failed, num_new, is_joined)


def _checked(requests: Iterable[Request]) -> list[Request]:
    found = list(requests)
    seen: set[str] = set()
    for request in found:
        if request.id in seen:
            raise InputError(f"two requests have the id {request.id!r}; give each its own")
        seen.add(request.id)
    return found


def _make_folder(files: RunFiles) -> None:
    try:
        files.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {files.folder}: {error.strerror}; name another output") from error


def _is_open(entry: Entry | None, retry_errors: bool) -> bool:
    return entry is None or (entry.is_error and retry_errors)
