"""`ablate`: Tables 3 to 6 of the paper as experiments on the motion world."""

import contextlib
import shlex
import sys
from pathlib import Path

import click

from ..errors import InputError
from .lasting import lasting_output
from .options import emit_json, json_option
from .progress import progress_bar

INTERRUPTED = 130
# Copies, so that the help answers without torch; a test compares them with `training.ablation`.
TABLES = ("table3", "table4", "table5", "table6")
SCALES = ("smoke", "cpu", "gpu")


@click.command()
@click.argument("table", type=click.Choice(TABLES))
@click.option(
    "--scale",
    type=click.Choice(SCALES),
    required=True,
    help="smoke: minutes, cpu: half a night a world, gpu: one large card.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Initial weights, shared by all arms."
)
@click.option("-o", "--output", type=Path, required=True, metavar="OUT", help="Folder; what it holds is gone on with.")
@click.option("--worlds", metavar="NAME,...", help="Worlds: single, several, long, leak; without it, the first three.")
@click.option("--arms", metavar="NAME,...", help="Some of the arms only.")
@click.option("--own-collages", is_flag=True, help="Let each arm meet its own layout and positions before motion.")
@click.option("--base", type=click.Choice(TABLES), help="Start from the stills and collages of another table.")
@json_option
def ablate(
    table: str,
    scale: str,
    seeds: int,
    output: Path,
    worlds: str | None,
    arms: str | None,
    own_collages: bool,
    base: str | None,
    as_json: bool,
) -> int:
    """Train and measure the arms of TABLE and write OUT/report.md: means, intervals, and which claims hold.

    What is stopped, however it ends, goes on with the same command. Several of the same command may run at a time, in
    one folder; they divide the work. Ctrl-C or SIGTERM saves a checkpoint and stops, with exit code 130.
    """
    from ..training.ablation.protocol import Experiment
    from ..training.ablation.report import REPORT_FILE
    from ..training.ablation.run import run_experiment
    from ..training.ablation.worlds import CLAIM_WORLDS

    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a folder")
    chosen = CLAIM_WORLDS if worlds is None else _names(worlds, "worlds")
    arm_names = None if arms is None else _names(arms, "arms")
    experiment = Experiment(table, scale, seeds, chosen, arm_names, own_collages=own_collages, base=base)
    options = ["--scale", scale, "--seeds", str(seeds), "--worlds", ",".join(chosen)]
    options += ([] if arms is None else ["--arms", arms]) + (["--own-collages"] if own_collages else [])
    options += [] if base is None else ["--base", base]
    command = shlex.join(["dynimg-vl", "ablate", table, *options, "-o", "OUT"])
    with lasting_output(), progress_bar("runs") as progress, contextlib.redirect_stdout(sys.stderr):
        # The trainer prints its log.
        outcome = run_experiment(experiment, output, command, progress)
    if outcome.stopped_by:
        click.echo(
            f"stopped after {outcome.done} of {outcome.total} runs; the same command goes on from there", err=True
        )
        return INTERRUPTED
    if as_json:
        emit_json(outcome.summary)
        return 0
    for name, world in (outcome.summary or {"worlds": {}})["worlds"].items():
        for leak in world["leaks"]:
            click.echo(f"{name}: leak: {leak}")
        for claim, found in world["claims"].items():
            click.echo(f"{name}: {claim}: {found['clips']['label']}, at equal compute {found['compute']['label']}")
    click.echo(output / REPORT_FILE)
    return 0


def _names(text: str, what: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise InputError(f"--{what} names none; separate them by commas")
    return names
