"""`train`: from a recipe to a model, alone or under torchrun and accelerate launch."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from .lasting import lasting_output
from .options import emit_json, json_option

if TYPE_CHECKING:
    from ..training.run import TrainResult

INTERRUPTED = 130


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("recipe", type=Path)
@json_option
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED, metavar="[--KEY VALUE]...")
def train(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> int:
    """Train a model as RECIPE (a YAML file) says; what is run again goes on from its last checkpoint.

    Every key of the recipe can be given here: --learning_rate 1e-5 --model.path DIR --data FILE --lora.r 16. On several
    GPUs: torchrun --nproc-per-node 8 -m dynimg_vl train RECIPE. Ctrl-C or SIGTERM saves a checkpoint and stops, with
    exit code 130.
    """
    if not recipe.is_file():
        raise InputError(f"no such recipe: {recipe}; check the path")
    from ..training.recipe import TrainRecipe, parse_overrides
    from ..training.run import Launch, train

    described = TrainRecipe.from_file(recipe, parse_overrides(overrides))
    try:
        launch = Launch(*(int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")))
    except ValueError as error:
        raise InputError("WORLD_SIZE and LOCAL_WORLD_SIZE must be numbers; start with torchrun") from error
    with lasting_output():
        with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its log, and the output is for the result
            result = train(described, launch)
        if result.is_main:
            _tell(result, as_json=as_json)
    return INTERRUPTED if result.stopped_by else 0


def _tell(result: "TrainResult", *, as_json: bool) -> None:
    if not as_json:
        _say(result)
        return
    model = None if result.model is None else str(result.model)
    facts = {"model": model, "step": result.step, "num_steps": result.num_steps, "loss": result.loss}
    emit_json({**facts, "stopped_by": result.stopped_by, "samples": dict(result.samples)})


def _say(result: "TrainResult") -> None:
    loss = "" if result.loss is None else f", loss {result.loss:.4g}"
    if result.stopped_by:
        click.echo(f"stopped after step {result.step} of {result.num_steps}{loss}; the same command goes on from there")
        return
    click.echo(f"{result.model}: {result.step} steps{loss}")
    unused = {reason: number for reason, number in result.samples.items() if reason not in ("used", "cut")}
    if unused:
        counted = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in sorted(unused.items()))
        click.echo(f"samples not used: {counted} (see broken_samples_*.jsonl)")
