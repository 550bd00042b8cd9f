"""Where each weight of a source goes: decided from the headers of its files alone, before anything is written."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from ..errors import InputError
from ..model.configuration_dynimg import DynImgConfig
from ..model.foreign import reading
from ..model.modeling_dynimg import DynImgForConditionalGeneration

ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per number, by safetensors' name of the type; others are quantized and are not converted."""

_RENAMED = (
    (r"^(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?", "model.vision_tower."),
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^(?:model\.)?multi_modal_projector\.", "model.multi_modal_projector."),
    (r"^(?:language_model\.)?lm_head\.", "lm_head."),
    (r"^(?:model\.)?language_model\.(?:model\.)?", "model.language_model."),
    (r"^(?:model\.)?image_newline$", "model.image_newline"),
    (r"^model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
)

_LEFT = (
    (r"^model\.image_newline$", "ends a row or a picture in the source's prompt; a DynImg has no place for it"),
    (r"^model\.vision_tower\.head\.", "the pooling head of SigLIP, which is not read"),
    (r"\.(?:position_ids|inv_freq)$", "computed, not learnt"),
)

_VISION_LAYER = re.compile(r"^model\.vision_tower\.encoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Stored:
    """Name a weight in a file: its shape, and its type as safetensors calls it."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Count its numbers."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True)
class Plan:
    """Hold what becomes of every weight of a source.

    Args:
        moved: weight by its name in the DynImg model.
        left: why, by name in the source.
    """

    moved: dict[str, Stored]
    left: dict[str, str]


def read_headers(folder: Path) -> dict[str, Stored]:
    """List the weights in the safetensors files of a folder.

    Raises:
        InputError: where a file is missing, cannot be read, or does not hold what the index says.
    """
    found: dict[str, Stored] = {}
    listed = _listed_files(folder)
    for file in sorted(listed):
        with reading(f"{folder / file} cannot be read; it may be cut off"), safe_open(folder / file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (no mapping)
                part = weights.get_slice(name)
                found[name] = Stored(name, folder / file, tuple(part.get_shape()), part.get_dtype())
    for file, names in listed.items():
        for name in names:
            if name not in found or found[name].path.name != file:
                raise InputError(f"{folder} is incomplete: {file} does not hold {name}, which its index names")
    if not found:
        raise InputError(f"{folder} holds no weights")
    return found


def _listed_files(folder: Path) -> dict[str, list[str]]:
    # The files of a checkpoint, with the weights that an index says are in them.
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if (folder / "model.safetensors").is_file():
            return {"model.safetensors": []}
        pickled = " (pickled ones are not opened)" if any(folder.glob("*.bin")) else ""
        raise InputError(f"{folder} has no model.safetensors and no index of one{pickled}; is the download complete?")
    with reading(f"{index} cannot be read"):
        weight_map = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    result: dict[str, list[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(f"{index} names the file {file!r}, which is no file of this folder")
        result.setdefault(file, []).append(str(name))
    missing = [file for file in sorted(result) if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{folder} is incomplete: {len(missing)} of {len(result)} files are missing, {missing[0]} first; "
            "fetch it again"
        )
    return result


def expected_shapes(config: DynImgConfig) -> dict[str, tuple[int, ...]]:
    """List the weights that the files of a model hold, by name; those of a tied output layer are not among them."""
    with torch.device("meta"):
        state = DynImgForConditionalGeneration(config).state_dict()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(value.shape) for name, value in state.items() if name not in tied}


def check_complete(folder: Path, config: DynImgConfig) -> None:
    """Make sure that the files of a DynImg model hold its weights, each of its shape; no number is read.

    Raises:
        InputError: where they do not.
    """
    stored = read_headers(folder)
    stored.pop("lm_head.weight" if config.tie_word_embeddings else "", None)
    expected = expected_shapes(config)
    _check(
        {name: weight for name, weight in stored.items() if name in expected},
        expected,
        [name for name in stored if name not in expected],
        holder=str(folder),
    )


def renamed(name: str) -> str:
    """Give the name that a weight has in a DynImg model, whichever layout it comes from."""
    for pattern, replacement in _RENAMED:
        result, count = re.subn(pattern, replacement, name)
        if count:
            return result
    return name


def plan_weights(
    stored: Mapping[str, Stored], expected: Mapping[str, tuple[int, ...]], *, num_vision_layers: int, is_tied: bool
) -> Plan:
    """Match the weights of a source with those of a model.

    Args:
        stored: the weights of the source.
        expected: shape by name of what the model needs.
        num_vision_layers: layers of the vision tower that the model has; those above are left.
        is_tied: whether the output layer is the token embedding.

    Raises:
        InputError: where a weight is missing, has another shape or a quantized type, comes twice, or has no place.
    """
    moved: dict[str, Stored] = {}
    left: dict[str, str] = {}
    unknown: list[str] = []
    for name, weight in stored.items():
        target = renamed(name)
        if why := _why_left(target, num_vision_layers, is_tied):
            left[name] = why
        elif target not in expected:
            unknown.append(name)
        elif target in moved:
            raise InputError(f"the source holds {target} twice: as {moved[target].name} and as {name}")
        else:
            moved[target] = weight
    _check(moved, expected, unknown)
    return Plan({name: moved[name] for name in expected}, left)


def _why_left(target: str, num_vision_layers: int, is_tied: bool) -> str | None:
    for pattern, why in _LEFT:
        if re.search(pattern, target):
            return why
    layer = _VISION_LAYER.match(target)
    if layer and int(layer[1]) >= num_vision_layers:
        return "above the layer of the vision tower that is projected"
    if is_tied and target == "lm_head.weight":
        return "tied: the token embedding stands for it"
    return None


def _check(
    moved: Mapping[str, Stored],
    expected: Mapping[str, tuple[int, ...]],
    unknown: list[str],
    holder: str = "the source",
) -> None:
    missing = [name for name in expected if name not in moved]
    if missing:
        raise InputError(f"{holder} lacks {len(missing)} weights of the model: {_some(missing)}")
    if unknown:
        raise InputError(f"{holder} holds {len(unknown)} weights that have no place in a DynImg: {_some(unknown)}")
    wrong = [
        f"{weight.name} is {weight.shape}, needed is {expected[name]}"
        for name, weight in moved.items()
        if weight.shape != tuple(expected[name])
    ]
    if wrong:
        raise InputError(f"{holder} has {len(wrong)} weights of another shape: {_some(wrong)}")
    quantized = [f"{weight.name} ({weight.dtype})" for weight in moved.values() if weight.dtype not in ITEM_SIZES]
    if quantized:
        raise InputError(f"{holder} is quantized: {_some(quantized)}; take the one it was made from")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
