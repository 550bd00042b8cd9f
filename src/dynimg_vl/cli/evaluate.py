"""`eval`: predict the answers of benchmarks, and look through their data before that."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..text_formats import json_bytes
from .batch import BATCH_SIZE, WORKERS
from .endpoint import OF_OWN_MODELS, endpoint_options, make_engine, split_endpoint
from .lasting import lasting_output
from .local import make_local_engine, place_among_processes
from .options import (
    counted,
    dtype_option,
    emit_json,
    json_option,
    num_dynimgs_option,
    num_prompts_option,
    policy_option,
    written_whole,
)
from .progress import progress_bar

if TYPE_CHECKING:
    from ..evaluation.predict import Outcome
    from ..evaluation.tasks import Task
    from ..inference.requests import Engine

# A copy of `evaluation.predict.MODES`, which takes long to import; a test compares the two.
MODES = ("generate", "likelihood", "likelihood-text")


class _WithDefault(click.Group):
    """Run `run` where the first word is no command of the group: `eval mvbench` is `eval run mvbench`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("eval", cls=_WithDefault, options_metavar="", subcommand_metavar="[run] TASK... | check TASK")
def evaluate() -> None:
    """Evaluate a model on benchmarks.

    TASK is msvd, msrvtt, tgif, activitynet, videochatgpt, mvbench, tvbench, motionbench, or motionworld (a miniature
    made by this project). Whatever is no command is a TASK: `eval mvbench` is `eval run mvbench`.
    """


@evaluate.command()
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True)
@click.option("--data", type=Path, required=True, help="Folder of the official files, or the one above it.")
@click.option("-o", "--output", type=Path, required=True, help="Folder of the results; OUT/TASK for each task.")
@click.option("--mode", type=click.Choice(MODES), default=MODES[0], show_default=True, help="Of tasks with options.")
@click.option("--prompt", type=Path, help="YAML file with question, system, prefix, max_new_tokens.")
@click.option("--limit", type=click.IntRange(1), help="Only the first N items of each subtask; said in the result.")
@click.option("--keep-errors", is_flag=True, help="Do not ask again what failed before.")
@click.option("-m", "--model", help="Folder or hub id of a model; without it, the embedded one.")
@click.option("--device", help="cpu, cuda, cuda:1, mps, auto; without it, the best one there is.")
@dtype_option
@click.option("--quantize", type=click.Choice(["8bit", "4bit"]), help="Bits of the language model's weights.")
@click.option("--batch-size", type=click.IntRange(1), help=f"Questions at a time.  [default: {BATCH_SIZE}]")
@click.option("--workers", type=click.IntRange(0), default=WORKERS, show_default=True, help="Processes that decode.")
@num_dynimgs_option
@num_prompts_option
@policy_option
@endpoint_options
@json_option
def run(
    tasks: tuple[str, ...],
    data: Path,
    output: Path,
    mode: str,
    prompt: Path | None,
    limit: int | None,
    keep_errors: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Answer the questions of each TASK, and score those that need no judge.

    Stopped and started again, it goes on where it was. Under `accelerate launch` or `torchrun`, the processes share the
    work. Open-ended answers are judged afterwards, by `dynimg-vl judge OUT`.
    """
    from ..evaluation.predict import Settings, predict_task, read_outcome
    from ..evaluation.prompts import read_prompt
    from ..evaluation.tasks import find_task

    chosen = [find_task(name) for name in dict.fromkeys(tasks)]
    if not data.is_dir():
        raise InputError(f"no such folder of data: {data}; check the path")
    if prompt is not None and len(chosen) > 1:
        raise InputError("--prompt is for one task; run the tasks one by one")
    own = {task.name: None if prompt is None else read_prompt(prompt, task.prompt) for task in chosen}
    endpoint = split_endpoint(options)
    if endpoint is not None and mode != MODES[0]:
        raise InputError(f"--mode {mode} compares likelihoods, which endpoints do not tell; leave it out")
    shard, local_rank = place_among_processes()
    is_alone = shard[1] == 1
    engine = _engine(endpoint, local_rank, **options)
    outcomes = []
    with lasting_output():
        for task in chosen:
            settings = Settings(mode, own[task.name], limit, retry_errors=not keep_errors)
            with progress_bar(task.name) as progress:
                outcomes.append(predict_task(task, data, engine, output, settings, shard=shard, progress=progress))
            if not as_json and (is_alone or outcomes[-1].is_joined):  # of several processes, the last one says it
                click.echo("\n".join(_lines(outcomes[-1])))
        if as_json and (is_alone or outcomes[-1].is_joined):  # where the last task is joined, so are the others
            known = [each if is_alone or each.is_joined else read_outcome(each.task, each.folder) for each in outcomes]
            emit_json([outcome.describe() for outcome in known])


@evaluate.command()
@click.argument("task")
@click.option("--data", type=Path, required=True, help="Folder of the official files, or the one above it.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("-o", "--output", type=Path, help="Also write the report to this file, as JSON.")
@json_option
@click.pass_context
def check(context: click.Context, task: str, data: Path, workers: int, output: Path | None, as_json: bool) -> None:
    """Look through the data of TASK: items and videos against the official counts.

    Exits with 1 where something differs, and says what to download where.
    """
    from ..evaluation.check import check_task
    from ..evaluation.tasks import find_task

    found = find_task(task)
    try:
        with progress_bar("videos") as progress:
            report = check_task(found, data, workers=workers, progress=progress)
    except InputError as error:
        raise InputError(f"{error} [{'; '.join(found.downloads)}]") from error
    facts = {**report.describe(), "downloads": list(found.downloads)}
    if output is not None:
        with written_whole(output) as temporary:
            temporary.write_bytes(json_bytes(facts, 2) + b"\n")
    if as_json:
        emit_json(facts)
    else:
        click.echo("\n".join(_table(facts, found)))
    if report.differences:
        context.exit(1)


def _engine(
    endpoint: dict[str, Any] | None, local_rank: int | None, *, batch_size: int | None, workers: int, **options: Any
) -> "Engine":
    if endpoint is not None:
        if batch_size is not None:
            raise InputError("--batch-size is for models of this machine; an endpoint has --concurrency")
        selection = {name: value for name, value in options.items() if name not in OF_OWN_MODELS}
        return make_engine(**endpoint, num_workers=workers, **selection)
    size = BATCH_SIZE if batch_size is None else batch_size
    return make_local_engine(
        options.pop("model", None), batch_size=size, workers=workers, local_rank=local_rank, **options
    )


def _lines(outcome: "Outcome") -> Iterator[str]:
    """Tell how a task stands."""
    counts, result = outcome.counts, outcome.result
    others = [f"{counts[state]:,} {state}" for state in ("failed", "missing", "pending") if counts[state]]
    asked = f"{counts['answered']:,} of {counted(counts['items'], 'item')} answered"
    official = "" if counts["items"] == counts["official"] else f" (officially {counts['official']:,})"
    yield f"{outcome.folder}: {', '.join([asked, *others])}{official}"
    if result is None:
        if outcome.task.kind != "choice" and not counts["pending"]:
            yield f"  judge them: dynimg-vl judge {outcome.folder.parent}"
        return
    rows = {**result["subtasks"], "all questions": result["overall"]}
    width = max(map(len, rows))
    yield f"  {'':{width}}  accuracy  correct  unparsed  failed  missing    items"
    for name, row in rows.items():
        numbers = "".join(f"{row[f'num_{key}']:>9}" for key in ("correct", "unparsed", "failed", "missing", "items"))
        yield f"  {name:{width}}{_percent(row['accuracy']):>10}{numbers}"
    mean = result["mean_of_subtasks"]["accuracy"]
    yield f"  {'mean of subtasks':{width}}{_percent(mean):>10}   chance {_percent(result['overall']['chance'])}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _table(facts: dict[str, Any], task: "Task") -> Iterator[str]:
    columns = {
        "items": "num_items",
        "official": "expected",
        "videos": "num_videos",
        "found": "num_found",
        "missing": "num_missing",
        "unreadable": "num_unreadable",
        "damaged": "num_damaged",
    }
    width = max(len(row["name"]) for row in facts["subtasks"])
    yield " " * width + "".join(f"{title:>11}" for title in columns)
    for row in facts["subtasks"]:
        values = ("-" if row[key] is None else row[key] for key in columns.values())
        yield f"{row['name']:{width}}" + "".join(f"{value:>11}" for value in values)
    for example in facts["examples"]:
        yield f"  {example}"
    for difference in facts["differences"]:
        yield f"differs: {difference}"
    if facts["differences"]:
        yield from (f"download: {line}" for line in facts["downloads"])
    else:
        yield f"{task.name}: {counted(facts['num_items'], 'item')}, as it should be"
