"""Read what evaluations left: for each run, task and judge the values that make its scores."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ...errors import InputError
from ...text_formats import load_json
from ..items import (
    ITEMS_FILE,
    PREDICTIONS_FILE,
    RESULT_FILE,
    RUN_FILE,
    VERDICTS_FILE,
    Item,
    read_items,
    read_predictions,
)
from ..judges.cases import Judgement, read_judgements
from ..judges.prompts import DIMENSIONS
from ..judges.run import hash_of_file, task_folders
from ..tasks import Task, find_task
from .statistics import Average, Scored

_MAX_BYTES = 1 << 24
_UNJUDGED_SHOWN = 10
_MANY = 1 << 31
NO_JUDGE = "none needed"


@dataclass(frozen=True)
class Values:
    """Hold what a score is the mean of, how the mean is taken, and how many items or cases there are in all."""

    scored: Sequence[Scored]
    average: Average
    total: int


@dataclass(frozen=True)
class Measured:
    """Hold what one run reached in one task, under one judge.

    Args:
        run: the run's label.
        folder: OUT/TASK.
        task: the benchmark.
        judge: its name, with the host of an endpoint that is not OpenAI's own; `NO_JUDGE` for tasks with options.
        facts: of the judge, as its result file has them; and `date`. Of a task with options, its `mode` and
            `prompt_sha256`.
        values: by metric.
        counts: of items (of cases, where an item is judged in several dimensions) by state, `total` included.
        official: how many items the benchmark has.
        warnings: one line each, on what makes the numbers something else than they seem.
        unjudged: some judgements without a verdict.
        visual_tokens: mean over the answers; None where it is not known.
    """

    run: str
    folder: Path
    task: Task
    judge: str
    facts: Mapping[str, Any]
    values: Mapping[str, Values]
    counts: Mapping[str, int]
    official: int
    warnings: tuple[str, ...] = ()
    unjudged: tuple[Judgement, ...] = ()
    visual_tokens: float | None = None

    @property
    def num_scored(self) -> int:
        """Count the items (cases) that count in a score."""
        return self.counts["scored"]

    def is_comparable(self, other: "Measured") -> bool:
        """Tell whether both were judged alike: by the same judge, model, wording and endpoint, and in the same mode."""
        names = ("name", "model", "models_returned", "endpoint", "prompt", "mode")
        return self.task.name == other.task.name and all(self.facts.get(n) == other.facts.get(n) for n in names)


@dataclass(frozen=True)
class Run:
    """Hold one evaluation: its label, what produced the answers, and its results."""

    label: str
    folder: Path
    engine: Mapping[str, Any]
    measured: tuple[Measured, ...] = field(default=())


def collect_runs(outs: Iterable[Path]) -> list[Run]:
    """Read the folders of evaluations.

    Raises:
        InputError: where one holds none, a file is damaged, or nothing has a result yet.
    """
    outs = list(dict.fromkeys(outs))
    labels = _labels(outs)
    runs = []
    for out in outs:
        folders = task_folders(out)
        measured = [one for folder in folders for one in _measured(folder, labels[out])]
        engine = _read_json(folders[0] / RUN_FILE).get("engine")
        runs.append(Run(labels[out], out, engine if isinstance(engine, dict) else {}, tuple(measured)))
    if not any(run.measured for run in runs):
        raise InputError("nothing has a result yet; finish dynimg-vl eval, and judge open-ended tasks: dynimg-vl judge")
    return runs


def _labels(outs: Sequence[Path]) -> dict[Path, str]:
    """Name runs by their folders, with as many of the folders above as tells them apart."""
    whole = {out: out.resolve().parts for out in outs}
    for depth in range(1, max(len(parts) for parts in whole.values()) + 1):
        labels = {out: "/".join(parts[-depth:]) for out, parts in whole.items()}
        if len(set(labels.values())) == len(outs):
            break
    return labels


def _measured(folder: Path, label: str) -> list[Measured]:
    items = read_items(folder)
    if not items:
        raise InputError(f"{folder / ITEMS_FILE} is empty; run dynimg-vl eval again")
    task = find_task(items[0].task)
    used = [prediction.usage.get("visual") for prediction in read_predictions(folder)]
    visual = [count for count in used if count is not None and 0 <= count < _MANY]
    common: dict[str, Any] = {
        "run": label,
        "folder": folder,
        "task": task,
        "official": task.official_count,
        "visual_tokens": fmean(visual) if visual else None,
    }
    warnings: tuple[str, ...] = ()
    if len(items) != task.official_count:
        warnings = (f"{len(items):,} items, officially {task.official_count:,}",)
    if task.kind == "choice":
        return [_choice(folder, items, warnings, common)] if (folder / VERDICTS_FILE).exists() else []
    results = sorted(folder.glob("result-*.json"))
    return [_judged(folder, path, items, warnings, common) for path in results]


def _choice(folder: Path, items: list[Item], warnings: tuple[str, ...], common: Mapping[str, Any]) -> Measured:
    path = folder / VERDICTS_FILE
    try:
        verdicts = {row["id"]: row["state"] for row in map(load_json, path.read_bytes().splitlines())}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); run dynimg-vl eval again") from error
    states = [str(verdicts.get(item.id, "pending")) for item in items]
    asked = [
        # By its path: subtasks have folders of their own, in which names repeat for other videos.
        Scored(_identity(item), item.subtask, item.video or item.video_name, 100.0 * (state == "correct"))
        for item, state in zip(items, states, strict=True)
        if state not in ("missing", "pending")
    ]
    result = _read_json(folder / RESULT_FILE)
    average: Average = "strata" if common["task"].headline == "mean_of_subtasks" else "pooled"
    counts = Counter(states)
    return Measured(
        judge=NO_JUDGE,
        facts={"name": NO_JUDGE, **{name: result.get(name) for name in ("date", "mode", "prompt_sha256")}},
        values={"accuracy": Values(asked, average, len(items))},
        counts={"total": len(items), "scored": len(asked), **dict(sorted(counts.items()))},
        warnings=warnings,
        **common,
    )


def _judged(
    folder: Path, path: Path, items: list[Item], warnings: tuple[str, ...], common: Mapping[str, Any]
) -> Measured:
    result = _read_json(path)
    facts = result.get("judge")
    if not isinstance(facts, dict) or not isinstance(facts.get("name"), str):
        raise InputError(f"{path} is no result of a judge; run dynimg-vl judge again")
    judgements = read_judgements(path.with_name(f"judgements-{path.stem.removeprefix('result-')}.jsonl"))
    hashes = {name: hash_of_file(folder / name) for name in (ITEMS_FILE, PREDICTIONS_FILE)}
    if result.get("judged_files_sha256") != hashes:
        warnings += ("items or predictions have changed since they were judged: run dynimg-vl judge again",)
    judged = [judgement for judgement in judgements if judgement.state == "judged"]
    counts = Counter(judgement.state for judgement in judgements)
    return Measured(
        judge=_judge_label(facts),
        facts={**facts, "date": result.get("date")},
        values=_values(common["task"], judgements, {item.id: item for item in items}),
        counts={"total": len(judgements), "scored": len(judged), **dict(sorted(counts.items()))},
        warnings=warnings,
        unjudged=tuple(row for row in judgements if row.message)[:_UNJUDGED_SHOWN],
        **common,
    )


def _judge_label(facts: Mapping[str, Any]) -> str:
    """Name a judge, and where it is another service than the one that its model's name makes one think of."""
    host = str(facts.get("endpoint") or "").partition("://")[2].partition("/")[0]
    return str(facts["name"]) if host in ("", "api.openai.com") else f"{facts['name']} at {host}"


def _values(task: Task, judgements: Sequence[Judgement], items: Mapping[str, Item]) -> dict[str, Values]:
    def scored(row: Judgement, value: float) -> Scored:
        name = f"{_identity(items[row.item_id])}#{row.aspect}" if row.item_id in items else row.id
        return Scored(name, row.aspect, row.video_name, value)

    judged = [row for row in judgements if row.state == "judged"]
    scores = [scored(row, row.score) for row in judged if row.score is not None]
    if task.kind == "open":
        right = [scored(row, 100.0 * row.is_correct) for row in judged if row.is_correct is not None]
        return {
            name: Values(found, "pooled", len(judgements)) for name, found in (("accuracy", right), ("score", scores))
        }
    totals = Counter(row.aspect for row in judgements)
    values = {
        name: Values([one for one in scores if one.stratum == name], "pooled", totals[name]) for name in DIMENSIONS
    }
    if all(found.scored for found in values.values()):
        values["mean_of_five"] = Values(scores, "strata", len(judgements))
        values["sample_weighted"] = Values(scores, "pooled", len(judgements))
    return values


def _identity(item: Item) -> str:
    """Tell which question this is: another version of a benchmark may have another under the same id."""
    return json.dumps([item.id, item.video_name, *item.questions, item.answer, *item.choices])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path} is too large for what it should be; run it again")
        value = load_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is not JSON; run it again") from error
    return value if isinstance(value, dict) else {}
