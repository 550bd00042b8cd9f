"""`convert`: make a DynImg model out of a LLaVA-OneVision or LLaVA-Video."""

import sys
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

import click

from .options import dtype_option, emit_json, given, json_option, num_dynimgs_option, num_prompts_option
from .progress import progress_bar


@click.command()
@click.argument("source")
@click.option("-o", "--output", type=Path, required=True, help="The folder to write; it must not exist, or be empty.")
@click.option(
    "--rope-axes",
    type=click.Choice(["s", "hws", "hwts"]),
    default="s",
    show_default=True,
    help="s: the positions that SOURCE knows. hws, hwts: further axes at 0, the same until they are trained.",
)
@num_dynimgs_option
@num_prompts_option
@dtype_option
@json_option
def convert(
    source: str, output: Path, dtype: str | None, num_prompts: int | None, as_json: bool, **options: Any
) -> None:
    """Turn SOURCE, a LLaVA-OneVision or LLaVA-Video, into a DynImg model with the same weights.

    SOURCE is a folder or a hub id. What became of its weights is written to conversion.json.
    """
    import torch
    from transformers.utils import logging

    from ..conversion import convert as run

    for library in ("transformers", "huggingface_hub"):
        getLogger(library).setLevel(ERROR)  # what matters of it comes as one line of ours
    settings = given(num_prompt_frames=num_prompts, dtype=None if dtype is None else getattr(torch, dtype), **options)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # of a download, too
    with progress_bar("MB") as report:
        facts = run(source, output, progress=lambda done, total: report(done // 10**6, total // 10**6), **settings)
    if as_json:
        emit_json(facts)
        return
    weights = facts["weights"]
    click.echo(
        f"{output}: {facts['num_parameters'] / 1e6:.1f} M parameters in {facts['dtype']}, {weights['used']} weights of "
        f"{source} used, {len(weights['left'])} left (conversion.json says why)"
    )
    if facts["video_token"]["added"]:
        click.echo(f"{facts['video_token']['text']} was added to the tokenizer; its row of the embedding was spare")
