"""Whether a run may go on from a checkpoint: what it is about has to be what it was."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..errors import InputError

RECIPE_FILE = "recipe.json"
"""The recipe as it was run, in the output folder."""
FORCE = "force"
"""The value of `resume` that goes on nevertheless."""
_SECTIONS = ("model", "data", "schedule")
_TRAINING = ("seed", "data_seed", "optim", "lora", "frozen", "motion_attention_loss", "motion_heads_loss")
"""What of the section training decides what a run is; how fast it learns, logs and saves may change on the way."""
_SAMPLES_PER_STEP = {
    "per_device_train_batch_size": TrainingArguments.per_device_train_batch_size,
    "gradient_accumulation_steps": TrainingArguments.gradient_accumulation_steps,
    "num_processes": None,
}
"""What they are in a recipe that does not say; None is what they are in the other one. Their product has to stay: how
much a run has seen is counted in steps."""
_MAY_CHANGE = (
    *(f"model.{name}" for name in ("path", "weights", "weights_except", "attention", "dtype")),
    *(f"data.{name}" for name in ("path", "annotation_root", "video_root")),
    *(f"data.world.{name}" for name in ("pictures", "validation_pictures", "validation_batches")),
)
"""Places, what a run began with, how the same numbers are computed, and what is only measured."""


def check_resumable(checkpoint: Path, recipe: Mapping[str, Any]) -> None:
    """Compare a recipe with the one that a checkpoint's run has noted.

    Args:
        checkpoint: the folder to go on from; the note is beside it. Without one, nothing is known.
        recipe: the present one, as JSON has it.

    Raises:
        InputError: naming what changed, or a note that cannot be read.
    """
    before = _read(checkpoint.parent / RECIPE_FILE)
    if before is None:
        return
    if changes := [*_changes(_relevant(before), _relevant(recipe)), *_step_changes(before, recipe)]:
        more = f" (and {len(changes) - 3} more)" if len(changes) > 3 else ""
        raise InputError(
            f"{checkpoint} is from another recipe: {'; '.join(changes[:3])}{more}; choose another output_dir, or go on "
            f"nevertheless with --resume {FORCE}"
        )


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if isinstance(found, Mapping):
        return found
    raise InputError(
        f"{path} cannot be read, so that nobody knows what the checkpoints beside it are about; choose another "
        f"output_dir, or go on nevertheless with --resume {FORCE}"
    )


def _step_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = before.get("training"), now.get("training")
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return
    sizes: list[list[int]] = [[], []]
    for name, default in _SAMPLES_PER_STEP.items():
        values = _whole(old.get(name)), _whole(new.get(name))
        for size, value, other in zip(sizes, values, reversed(values), strict=True):
            size.append(value or default or other or 1)
    was, is_now = (math.prod(size) for size in sizes)
    if was != is_now:
        words = " x ".join(_SAMPLES_PER_STEP)
        was_of, is_of = (" x ".join(map(str, size)) for size in sizes)
        yield f"a step had {was} samples ({was_of}) and has {is_now} ({is_of}: {words})"


def _whole(value: Any) -> int | None:
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        return int(float(value))  # YAML takes some numbers for text
    return None


def _relevant(recipe: Mapping[str, Any]) -> dict[str, Any]:
    training = recipe.get("training")
    chosen = {name: training.get(name) for name in _TRAINING} if isinstance(training, Mapping) else {}
    return {**{name: recipe.get(name) for name in _SECTIONS}, "training": chosen}


def _changes(before: Any, now: Any, where: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in dict.fromkeys((*now, *before)):
            place = f"{where}.{name}".removeprefix(".")
            if place not in _MAY_CHANGE:
                yield from _changes(before.get(name), now.get(name), place)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes(old, new, f"{where}.{_name(new, number)}")
    elif isinstance(before, list) and isinstance(now, list):
        yield f"{where} had {len(before)} entries and has {len(now)}"
    elif before != now and not (_is_place(before) and _is_place(now)):
        yield f"{where} was {_short(before)} and is {_short(now)}"


def _name(value: Any, number: int) -> str:
    return str(value.get("name", number)) if isinstance(value, Mapping) else str(number)


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and "/" in value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
