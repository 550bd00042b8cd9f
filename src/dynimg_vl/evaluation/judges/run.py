"""Judge the predictions of a folder OUT/TASK, and write what came of it beside them."""

import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...inference.chat_client import map_concurrently
from ...inference.journal import replace_file
from ..items import ITEMS_FILE, PREDICTIONS_FILE, read_answered
from ..tasks import find_task
from .cases import Case, Judgement, cases_of, write_judgements
from .judge import EndpointJudge, Judge, Price, RuleJudge, Spending
from .scores import summarise

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class JudgePlan:
    """Hold what is to be judged in one folder; `is_dialogue` where it is the Video-ChatGPT benchmark."""

    folder: Path
    task: str
    is_dialogue: bool
    cases: tuple[Case, ...]


def task_folders(out: Path) -> list[Path]:
    """List the folders of tasks in the output of an evaluation; `out` may itself be one.

    Raises:
        InputError: where there is none.
    """
    if (out / ITEMS_FILE).is_file():
        return [out]
    folders = sorted(path.parent for path in out.glob(f"*/{ITEMS_FILE}")) if out.is_dir() else []
    if not folders:
        raise InputError(f"no evaluation in {out}: it has no TASK/{ITEMS_FILE}; run dynimg-vl eval -o {out} first")
    return folders


def plan_judging(folder: Path) -> JudgePlan | None:
    """Read what is to be judged in a folder OUT/TASK; None for a task of choices, which has a result without a judge.

    Raises:
        InputError: where files are missing or damaged, or nothing has been predicted yet.
    """
    answered = read_answered(folder)
    if not answered:
        raise InputError(f"{folder / ITEMS_FILE} is empty; run dynimg-vl eval again")
    task = find_task(answered[0].item.task)
    if task.kind == "choice":
        return None
    if not any(prediction for pair in answered for prediction in pair.predictions):
        raise InputError(f"{folder} has no predictions yet; run dynimg-vl eval first")
    is_dialogue = task.kind == "dialogue"
    return JudgePlan(folder, task.name, is_dialogue, tuple(cases_of(answered, is_dialogue=is_dialogue)))


def judge_plan(
    plan: JudgePlan, judge: Judge, *, concurrency: int = 8, price: Price | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Judge one folder, and write `judgements-NAME.jsonl` and `result-NAME.json` there.

    Both are written whole at the end. Where that is not reached, an endpoint's verdicts so far are in the cache.

    Returns:
        What is in the result file.

    Raises:
        InputError: where the endpoint answers nothing more, or nothing can be written.
    """
    judgements: dict[str, Judgement] = {}
    waiting = []
    if isinstance(judge, EndpointJudge):
        judge.spending = Spending()
    for case in plan.cases:
        if case.state == "answered":
            waiting.append(case)
        else:
            judgements[case.id] = Judgement.of(case, case.state)
    for judgement in _judged(waiting, judge, concurrency):
        judgements[judgement.id] = judgement
        if progress is not None:
            progress(len(judgements), len(plan.cases))
    ordered = [judgements[case.id] for case in plan.cases]
    result = {"task": plan.task, "judge": judge.describe(), **summarise(ordered), **_provenance(plan.folder)}
    if isinstance(judge, EndpointJudge):
        result["judge"]["models_returned"] = sorted({found.model for found in ordered if found.model})
        result["spending"] = judge.spending.describe(price)
    write_judgements(plan.folder / f"judgements-{judge.name}.jsonl", ordered)
    replace_file(plan.folder / f"result-{judge.name}.json", json.dumps(result, indent=2).encode() + b"\n")
    return result


def _judged(cases: list[Case], judge: Judge, concurrency: int) -> Any:
    if isinstance(judge, RuleJudge):
        return map(judge.judge, cases)
    return map_concurrently(judge.judge, cases, concurrency=concurrency, stopping=judge.client.stopping)


def _provenance(folder: Path) -> dict[str, Any]:
    """Tell when, with what, and of which predictions: a report can see whether they have changed since."""
    versions = {"python": platform.python_version()}
    for name in ("dynimg-vl", "openai"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    files = {name: hash_of_file(folder / name) for name in (ITEMS_FILE, PREDICTIONS_FILE)}
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "judged_files_sha256": files,
    }


def hash_of_file(path: Path) -> str | None:
    """Give the SHA-256 of a file in hexadecimal; None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
