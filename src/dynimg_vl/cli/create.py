"""`init`: make a DynImg model out of a SigLIP and a Qwen2 checkpoint."""

from pathlib import Path
from typing import Any

import click

from ..errors import InputError
from .options import dtype_option, emit_json, given, json_option, num_dynimgs_option, num_prompts_option


@click.command()
@click.option("-o", "--output", type=Path, required=True, help="The folder to write.")
@click.option(
    "--vision", default="google/siglip-so400m-patch14-384", show_default=True, help="SigLIP: hub id or folder."
)
@click.option(
    "--text", default="Qwen/Qwen2.5-7B-Instruct", show_default=True, help="Qwen2, Qwen2.5 or Qwen3: hub id or folder."
)
@num_dynimgs_option
@num_prompts_option
@click.option(
    "--rope-axes", type=click.Choice(["s", "hws", "hwts"]), help="Coordinates of the rotary embedding (Table 6)."
)
@click.option("--rope-combine", type=click.Choice(["merge", "split"]), help="How axes are combined (Table 6).")
@click.option(
    "--prompt-stage", type=click.Choice(["before", "after", "tiles", "none"]), help="Where prompts enter (Table 3)."
)
@dtype_option
@json_option
def init(output: Path, vision: str, text: str, num_prompts: int | None, as_json: bool, **options: Any) -> None:
    """Build a DynImg model from pretrained parts, with a fresh projector, ready to be trained."""
    if (output / "config.json").exists():
        raise InputError(f"{output} holds a model already; choose another folder")
    from ..model.assembly import create_model

    facts = create_model(output, vision, text, **given(num_prompt_frames=num_prompts, **options))
    if as_json:
        emit_json(facts)
    else:
        click.echo(f"{output}: {facts['num_parameters'] / 1e6:.1f} M parameters; the projector is untrained")
