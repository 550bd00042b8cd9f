"""`ask --batch`: a file of questions in, a file of answers out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from .options import counted, emit_json, selection_of, stacked
from .progress import progress_bar

if TYPE_CHECKING:
    from ..inference.requests import Engine
    from ..inference.run import RunResult

BATCH_SIZE, WORKERS = 8, 1

batch_options = stacked(
    click.option(
        "--batch",
        type=Path,
        metavar="IN.jsonl",
        help='Answer the questions of a file instead: {"video": ..., "question": ...} on each line.',
    ),
    click.option("-o", "--output", type=Path, help="With --batch: folder of the answers, or a .jsonl file."),
    click.option("--batch-size", type=click.IntRange(1), help=f"Questions at a time.  [default: {BATCH_SIZE}]"),
    click.option("--workers", type=click.IntRange(0), help=f"Processes that decode ahead.  [default: {WORKERS}]"),
    click.option("--restart", is_flag=True, help="Drop the answers that are there, instead of going on from them."),
)
_NAMES = ("batch", "output", "batch_size", "workers", "restart")


def split_batch(options: dict[str, Any], video: str | None, questions: tuple[str, ...]) -> dict[str, Any] | None:
    """Take the options of a batch out of a verb's `options`; None where a single video is asked about.

    Raises:
        InputError: where the two are mixed, or something is missing.
    """
    taken = {name: options.pop(name) for name in _NAMES}
    if taken["batch"] is None:
        for name, value in taken.items():
            if value not in (None, False):
                raise InputError(f"--{name.replace('_', '-')} is for many questions; give them with --batch IN.jsonl")
        if video is None:
            raise InputError("give a VIDEO and a QUESTION, or many of both with --batch IN.jsonl -o OUT")
        if not questions:
            raise InputError(f"what is to be asked about {video}? give a QUESTION after it")
        return None
    if video is not None:
        raise InputError("the videos and questions are in the file of --batch; leave VIDEO and QUESTION out")
    if taken["output"] is None:
        raise InputError("where to? name a folder or a .jsonl file with -o")
    return taken


def ask_batch(
    batch: dict[str, Any],
    endpoint: dict[str, Any] | None,
    *,
    max_new_tokens: int,
    as_json: bool,
    start: float | None,
    end: float | None,
    **options: Any,
) -> int:
    """Answer a file of questions, or go on with it; returns the exit code: 1 where some have no answer.

    Raises:
        InputError: where the file, an option or the output does not fit.
    """
    from ..inference.journal import RunFiles
    from ..inference.request_file import read_requests
    from ..inference.run import run
    from .local import place_among_processes

    source, output = batch["batch"], batch["output"]
    requests = read_requests(source, max_new_tokens=max_new_tokens)
    files = RunFiles(output)
    for path in (files.predictions, files.header, *(files.written() if files.folder.is_dir() else ())):
        if path.exists() and path.samefile(source):  # which --restart would remove
            raise InputError(f"{source} is the file of the questions and one of the output {output}; name another")
    shard, local_rank = place_among_processes()
    workers = WORKERS if batch["workers"] is None else batch["workers"]
    engine: Engine
    if endpoint is not None:
        from .endpoint import OF_OWN_MODELS, make_engine

        if batch["batch_size"] is not None:
            raise InputError("--batch-size is for models of this machine; an endpoint has --concurrency")
        selection = selection_of(start, end, **{k: v for k, v in options.items() if k not in OF_OWN_MODELS})
        engine = make_engine(**endpoint, num_workers=workers, **selection)
    else:
        from .local import make_local_engine

        size = batch["batch_size"] or BATCH_SIZE
        selection = selection_of(start, end, **options)
        engine = make_local_engine(
            selection.pop("model", None), batch_size=size, workers=workers, local_rank=local_rank, **selection
        )
    with progress_bar("questions") as progress:
        shown = progress if shard[0] == 0 else None  # one bar for all: the processes have about the same to do
        result = run(engine, requests, output, resume=not batch["restart"], shard=shard, progress=shown)
    return _tell(result, is_alone=shard[1] == 1, as_json=as_json)


def _tell(result: "RunResult", *, is_alone: bool, as_json: bool) -> int:
    """Say how the run stands; one of several processes says it: who was the last."""
    if not result.is_joined and not is_alone:
        return 0
    if as_json:
        facts = {name: getattr(result, name) for name in ("num_requests", "num_done", "num_failed", "num_new")}
        emit_json({"predictions": str(result.path), **facts})
    else:
        answered = result.num_done - result.num_failed
        line = f"{result.path}: {counted(answered, 'answer')} to {counted(result.num_requests, 'question')}"
        click.echo(f"{line}, {result.num_new} of them asked now")
    if result.num_failed:
        click.echo(f'{result.num_failed} without an answer: see "error" in {result.path}', err=True)
    return 1 if result.num_failed else 0
