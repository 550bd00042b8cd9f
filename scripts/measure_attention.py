"""Measure where keyframe patches look: `python scripts/measure_attention.py -o runs/attention.json`.

A model is a folder, a hub id, `embedded`, or a recipe (.yaml), which stands for its weights before the first step. With
`--docs`, the tables and pictures of docs/attention.md are made anew.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from dynimg_vl import DynImgProcessor, InputError
from dynimg_vl.answering import Answerer
from dynimg_vl.cli.inspect import draw_coordinates
from dynimg_vl.layout import DynImgLayout
from dynimg_vl.model import load_pretrained
from dynimg_vl.model.attention import patch_attention
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.motion.world import new_bank
from dynimg_vl.render import attention, read_theta, render_theta
from dynimg_vl.training.building import random_model, read_tokenizer
from dynimg_vl.training.initial_weights import take_weights
from dynimg_vl.training.motion.attention_measure import AttentionMeasure, as_table, measure_attention
from dynimg_vl.training.motion.pictures import VALIDATION_SEED
from dynimg_vl.training.motion.report import describe_machine
from dynimg_vl.training.recipe import TrainRecipe

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "attention.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
EXAMPLE = ROOT / "examples" / "ball.mp4"
PATCH, LAYER = (5, 7), 2
"""What the picture in the docs shows: a patch on the ball, in the layer that the motion attention loss teaches."""


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["recipes/motion_cpu.yaml", "embedded"])
    parser.add_argument("--num-clips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=20261121, help="of the scenes")
    parser.add_argument("--num-pictures", type=int, default=120, help="procedural ones, on which no run trains")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("-o", "--out", type=Path, help="a JSON file for all numbers")
    parser.add_argument("--docs", action="store_true", help="write tables and pictures into docs/")
    parser.add_argument("--run", type=Path, help="a run whose log shows how theta grew, for --docs")
    return parser.parse_args(arguments)


def load(name: str, seed: int) -> tuple[Any, Any]:
    """Load a model and its processor, or make what a recipe starts from."""
    if not name.endswith((".yaml", ".yml")):
        return load_pretrained(name)
    settings = TrainRecipe.from_file(Path(name)).model
    if settings.path is not None or not isinstance(settings.vision, dict) or not isinstance(settings.text, dict):
        raise InputError(f"{name} does not start from random weights; name the model that it starts from")
    torch.manual_seed(seed)
    tokenizer = read_tokenizer(settings)
    model = random_model(settings, tokenizer).eval()
    if settings.weights is not None:  # as an arm of an ablation has them
        take_weights(model, tokenizer, settings.weights, settings.weights_except)
    return model, DynImgProcessor.from_config(model.config, tokenizer)


def measure(name: str, bank: PictureBank, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one model."""
    model, processor = load(name, options.seed)
    steps = measure_attention(
        model, processor, bank=bank, num_clips=options.num_clips, seed=options.seed, batch_size=options.batch_size
    )
    for step in steps:
        if isinstance(step, AttentionMeasure):
            return step.as_json()
        if sys.stderr.isatty():
            print(f"\r{name}: clips {step}/{options.num_clips}".ljust(60), end="", file=sys.stderr, flush=True)
    raise InputError("--num-clips must be at least 1")


def draw_pictures(folder: Path, run: Path | None) -> None:
    """Draw the pictures of the docs."""
    answerer = Answerer.from_pretrained()
    dynimgs = answerer.look(str(EXAMPLE))
    for name, options in (("attention", {"layer": LAYER}), ("attention_rollout", {"rollout": True})):
        found = patch_attention(answerer.model, answerer.processor, dynimgs, PATCH, **options)
        attention(dynimgs, found, title=EXAMPLE.name).save(folder / f"{name}.png", optimize=True)
    draw_coordinates(DynImgLayout(), 2).save(folder / "coordinates.png", optimize=True)
    if run is not None:
        render_theta(read_theta(run)).save(folder / "theta.png", optimize=True)


def main() -> None:
    """Measure, print the tables, and keep them."""
    options = options_of()
    torch.set_num_threads(1)
    bank = new_bank(options.num_pictures, VALIDATION_SEED)
    models = {name: measure(name, bank, options) for name in options.models}
    command = shlex.join(["python", "scripts/measure_attention.py", *sys.argv[1:]])
    machine = describe_machine()
    tables = "\n".join(f"**{name}**\n\n{as_table(rows, [LAYER])}" for name, rows in models.items())
    print(tables)
    if options.out:
        result = {"command": command, "num_clips": options.num_clips, "seed": options.seed, **machine, "models": models}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.docs:
        text = PAGE.read_text()
        before, after = text[: text.index(BEGIN)], text[text.index(END) :]
        made = f"{machine['date'][:10]}, {machine['machine']['kind']}, torch {machine['versions']['torch']}"
        draw_pictures(PAGE.parent, options.run)
        PAGE.write_text(f"{before}{BEGIN}\n`{command}` ({made}):\n\n{tables}{after}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
