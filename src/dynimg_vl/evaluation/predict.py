"""Predict the answers of a benchmark: official files in, `items.jsonl`, `predictions.jsonl` and `run.json` out.

Tasks with options are scored at once; the others are judged from these files, as often as one likes.
"""

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..inference.journal import RunFiles, replace_file
from ..inference.records import digest_of_requests, read_predictions
from ..inference.requests import Engine, Request
from ..inference.run import run
from ..text_formats import json_bytes, load_json
from .items import RESULT_FILE, RUN_FILE, VERDICTS_FILE, Answered, Item, read_answered, request_ids, write_items
from .prompts import Prompt, letter_of
from .scoring import give_verdict, score_choices
from .tasks import Loaded, Task

MODES = ("generate", "likelihood", "likelihood-text")
"""Of tasks with options: a free answer that is read, the likelihood of "A)", "B)" .., or of the options' own words."""


@dataclass(frozen=True)
class Settings:
    """Say how a task is put to a model.

    Args:
        mode: one of `MODES`; open-ended tasks are always generated.
        prompt: other words than the task's own.
        limit: only the first so many items of each subtask.
        retry_errors: ask again what ended in an error before.
    """

    mode: str = "generate"
    prompt: Prompt | None = None
    limit: int | None = None
    retry_errors: bool = True


@dataclass(frozen=True)
class Outcome:
    """Hold how a task stands: counts of states, and the result of a task with options, None while parts are open.

    Parts are open (`is_joined` is False) until the last of several processes is done; counts leave out what is in them.
    """

    task: Task
    folder: Path
    counts: dict[str, int]
    result: dict[str, Any] | None
    is_joined: bool = True

    @property
    def is_complete(self) -> bool:
        """Tell whether all parts are there, and every item of the benchmark has an answer."""
        return self.is_joined and self.counts["items"] == self.counts["official"] == self.counts["answered"]

    def describe(self) -> dict[str, Any]:
        """Give everything in values that JSON knows."""
        head = {"task": self.task.name, "kind": self.task.kind, "folder": str(self.folder)}
        return {**head, "is_complete": self.is_complete, "counts": self.counts, "result": self.result}


def predict_task(
    task: Task,
    data: Path,
    engine: Engine,
    out: Path,
    settings: Settings | None = None,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Ask a model all items of a task whose video is there, going on where an earlier run stopped.

    Args:
        task: the benchmark.
        data: folder of its official files, or the one above it.
        engine: who answers.
        out: OUT; the files go to OUT/TASK.
        settings: how it is asked.
        shard: which of how many processes this is.
        progress: told how many requests of this process are done, of how many.

    Raises:
        InputError: where an official file is not what it should be, no video is there, or OUT/TASK is of another run.
    """
    settings = settings or Settings()
    prompt = prompt_of(task, settings)
    loaded = task.read(data)
    items = limited(loaded.items, settings.limit)
    requests = requests_of(task, replace(loaded, items=items), prompt, settings.mode)
    if not requests:
        raise InputError(
            f"{task.name}: none of the videos of {len(items)} items is in {loaded.root}; see dynimg-vl eval check"
        )
    folder = _folder(out, task)
    protocol = {
        "task": task.name,
        "mode": settings.mode if task.kind == "choice" else "generate",
        "prompt": prompt.describe(),
        "annotations": dict(loaded.hashes),
    }
    if shard == (0, 1):
        let_grow(folder, requests, engine.describe(), protocol)
    # Of another run, they stay as they are: `run` refuses.
    if _is_of_run(folder, requests, engine.describe(), protocol):
        write_items(folder, items)
    done = run(
        engine,
        requests,
        folder,
        settings=protocol,
        retry_errors=settings.retry_errors,
        shard=shard,
        progress=progress,
    )
    return _conclude(task, folder, prompt, settings, loaded, is_joined=done.is_joined)


def prompt_of(task: Task, settings: Settings) -> Prompt:
    """Give the prompt in use.

    Raises:
        InputError: where the mode is unknown, or the prompt of a task with options does not show them.
    """
    if settings.mode not in MODES:
        raise InputError(f"unknown mode {settings.mode!r}; known: {', '.join(MODES)}")
    prompt = settings.prompt or task.prompt
    if task.kind != "choice":
        return prompt
    if settings.mode == "likelihood-text" and settings.prompt is None:
        return Prompt()  # as in training: the question alone, and the option's words as the answer
    if settings.mode != "likelihood-text" and "{options}" not in prompt.question:
        raise InputError(f"the prompt for {task.name} must hold {{options}}, for which the lettered options stand in")
    return prompt


def limited(items: Sequence[Item], limit: int | None) -> tuple[Item, ...]:
    """Keep the first `limit` items of each subtask; all where it is None."""
    if limit is None:
        return tuple(items)
    by_subtask: dict[str, list[Item]] = {}
    for item in items:
        by_subtask.setdefault(item.subtask, []).append(item)
    return tuple(item for group in by_subtask.values() for item in islice(group, limit))


def requests_of(task: Task, loaded: Loaded, prompt: Prompt, mode: str = "generate") -> list[Request]:
    """Turn the items whose video is there into requests: one each, two for a consistency pair."""
    root = os.path.abspath(loaded.root)
    requests = []
    for item in loaded.items:
        if item.video is None:
            continue
        choices: tuple[str, ...] = ()
        if task.kind == "choice" and mode == "likelihood":
            choices = tuple(f"{letter_of(rank)})" for rank in range(len(item.choices)))
        elif task.kind == "choice" and mode == "likelihood-text":
            choices = item.choices
        requests += [
            Request(
                id=name,
                video=os.path.join(root, item.video),
                question=prompt.fill(question, item.choices),
                system=prompt.system,
                prefix=prompt.prefix,
                clip=item.clip,
                fps=item.fps,
                choices=choices,
                max_new_tokens=prompt.max_new_tokens,
            )
            for name, question in zip(request_ids(item), item.questions, strict=True)
        ]
    return requests


def let_grow(folder: Path, requests: Sequence[Request], engine: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Let the run in a folder go on with more requests than it had: a higher limit, videos that were missing.

    A run goes on with the same list only; here the list it began with is replaced where the new one holds all that was
    answered, and model and settings are the same. Else nothing is touched, and the run itself says what differs.
    """
    files = RunFiles(folder)
    if not files.header.exists():
        return
    with files.guarded():
        try:
            header = load_json(files.header.read_bytes())
            facts = _facts(requests, engine, settings)
            if facts["requests"] == header["requests"] or any(
                header[name] != facts[name] for name in ("engine", "settings")
            ):
                return
        except (ValueError, TypeError, KeyError):
            return
        asked = {request.id: request for request in requests}
        answered = (request for path in files.written() for request, _ in read_predictions(path))
        if files.active() or any(asked.get(request.id) != request for request in answered):
            return
        for name in (RESULT_FILE, VERDICTS_FILE):  # of the shorter list
            (folder / name).unlink(missing_ok=True)
        replace_file(files.header, _pretty({**header, "requests": facts["requests"]}))


def _is_of_run(
    folder: Path, requests: Sequence[Request], engine: Mapping[str, Any], settings: Mapping[str, Any]
) -> bool:
    facts = _facts(requests, engine, settings)
    try:
        header = load_json((folder / RUN_FILE).read_bytes())
        return all(header[name] == value for name, value in facts.items())
    except FileNotFoundError:
        return True
    except (ValueError, TypeError, KeyError):
        return False


def _facts(requests: Sequence[Request], engine: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a run writes of itself in its header, as it is read from there."""
    digest = {"count": len(requests), "sha256": digest_of_requests(requests)}
    return dict(load_json(json_bytes({"engine": engine, "settings": settings, "requests": digest})))


def _folder(out: Path, task: Task) -> Path:
    folder = out / task.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; name another output") from error
    return folder


def _conclude(task: Task, folder: Path, prompt: Prompt, settings: Settings, loaded: Loaded, is_joined: bool) -> Outcome:
    """Count what came of the items, score what needs no judge, and add it to the record of the run."""
    answered = read_answered(folder)
    counts = _counts(task, answered)
    outcome = Outcome(task, folder, counts, None, is_joined)
    if not is_joined:
        return outcome
    facts = {
        "data": str(loaded.root),
        "limit": settings.limit,
        "counts": counts,
        "is_complete": outcome.is_complete,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    header = load_json((folder / RUN_FILE).read_bytes())
    replace_file(folder / RUN_FILE, _pretty({**header, "evaluation": facts}))
    result = None
    if task.kind == "choice":
        verdicts = [give_verdict(one, prompt.prefix) for one in answered]
        result = {
            "task": task.name,
            "title": task.title,
            "metric": task.metric,
            "mode": settings.mode,
            "prompt_sha256": prompt.describe()["sha256"],
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **{name: facts[name] for name in ("limit", "counts", "is_complete")},
            **score_choices(task, verdicts),
        }
        replace_file(folder / VERDICTS_FILE, b"".join(json_bytes(vars(verdict)) + b"\n" for verdict in verdicts))
        replace_file(folder / RESULT_FILE, _pretty(result))
    return replace(outcome, result=result)


def _counts(task: Task, answered: Sequence[Answered]) -> dict[str, int]:
    states = Counter(one.state for one in answered)
    named = {state: states[state] for state in ("answered", "failed", "missing", "pending")}
    return {"items": len(answered), "official": task.official_count, **named}


def read_outcome(task: Task, folder: Path) -> Outcome:
    """Read how a task stands that another process has brought to its end.

    Raises:
        InputError: where a file in the folder is damaged.
    """
    counts = _counts(task, read_answered(folder))
    path = folder / RESULT_FILE
    result = load_json(path.read_bytes()) if task.kind == "choice" and path.exists() else None
    return Outcome(task, folder, counts, result)


def _pretty(value: Any) -> bytes:
    return json_bytes(value, 2) + b"\n"
