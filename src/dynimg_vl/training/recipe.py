"""The recipe of a run: YAML with the sections model, data, stages and training; what the command line changes in it."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..model.configuration_dynimg import DynImgConfig
from ..model.pretrained import EMBEDDED
from ..text_formats import load_yaml
from .arguments import check_keys
from .data.dataset import DatasetOptions
from .motion.settings import Schedule, WorldSettings
from .yaml_file import read_yaml

SECTIONS = ("model", "data", "training")
STAGES = "stages"
DTYPES = ("auto", "float32", "bfloat16", "float16")
MOTION_TOKENIZER = "motion"
_MODEL_KEYS = (
    "path",
    "vision",
    "text",
    "tokenizer",
    "weights",
    "weights_except",
    "position_std",
    "dtype",
    "attention",
)
_DATA_KEYS = ("path", "world", "annotation_root", "video_root", "pack_length")
_BY_STAGES = (
    "num_train_epochs",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "warmup_ratio",
    "per_device_train_batch_size",
    "train_sampling_strategy",
)
"""What the stages say, and the section training must not."""


@dataclass(frozen=True)
class ModelSettings:
    """Name the model to train: a folder or hub id, or the parts to build one from.

    Args:
        path: of a DynImg model; relative to the recipe, to the working folder, a hub id, or "embedded".
        vision: a SigLIP, and
        text: a Qwen2, instead of `path`; or both as fields of their configurations, for random weights.
        tokenizer: a folder or hub id where it is not that of `text`; "motion": that of the motion world.
        weights: a folder with a DynImg model or a checkpoint, or "embedded", whose weights the model starts from once
            it is built; its configuration is not read.
        weights_except: patterns (`*`, `?`) over the names of weights that may be missing there, left over, or of
            another shape; the model keeps what it was built with.
        position_std: spread of the vision tower's position embedding at the start, with random weights.
        dtype: of weights that do not learn; those that do are float32 wherever the computation is bfloat16.
        attention: sdpa, flash_attention_2 or eager; None leaves it to transformers.
        config: fields of `DynImgConfig`, where the model is built from parts.
    """

    path: str | None = None
    vision: str | Mapping[str, Any] | None = None
    text: str | Mapping[str, Any] | None = None
    tokenizer: str | None = None
    weights: str | None = None
    weights_except: Sequence[str] = ()
    position_std: float | None = None
    dtype: str = "auto"
    attention: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSettings:
    """Name the data and how samples are made of it.

    Args:
        path: a mixture (YAML), an annotation file, or a folder of shards; relative to the recipe.
        world: the motion world instead, see `WorldSettings`.
        annotation_root: replaces that of the mixture.
        video_root: the same for videos.
        pack_length: tokens of a row that several samples share; None gives each a row of its own.
        options: fields of `DatasetOptions`.
    """

    path: Path | None = None
    world: WorldSettings | None = None
    annotation_root: Path | None = None
    video_root: Path | None = None
    pack_length: int | None = None
    options: DatasetOptions = field(default_factory=DatasetOptions)


@dataclass(frozen=True)
class TrainRecipe:
    """Hold a run: model, data, the values of `DynImgTrainingArguments`, and with the motion world its stages."""

    model: ModelSettings
    data: DataSettings
    training: Mapping[str, Any]
    schedule: Schedule | None = None

    @classmethod
    def from_file(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> "TrainRecipe":
        """Read a recipe.

        Args:
            path: the YAML file.
            overrides: value by dotted key, from the command line: `model.path`, `data.pack_length`, `lora.r`. Without a
                section it is `training`; `data` alone is `data.path`. Paths among them start from the working folder.

        Raises:
            InputError: where the file cannot be read, a key is unknown, or something needed is not there.
        """
        values = read_yaml(path, "recipe", SECTIONS)
        check_keys(values, (*SECTIONS, STAGES), str(path))
        if isinstance(values.get("data"), str):
            values["data"] = {"path": values["data"]}
        sections = {name: _section(values, name, path) for name in SECTIONS}
        _anchor(sections, path.resolve().parent)
        stages = values.get(STAGES)
        for key, value in (overrides or {}).items():
            if key.startswith(f"{STAGES}."):
                stages = _override_stage(stages, key, value)
            else:
                _override(sections, key, value)
        if not sections["training"].get("output_dir"):
            raise InputError(f"{path}: training: output_dir is missing; name a folder for checkpoints and the model")
        data = _data(sections["data"], sections["training"])
        if (data.world is None) != (stages is None):
            raise InputError(f"{path}: data.world and stages go together; give both or neither")
        schedule = None if stages is None else Schedule.from_values(stages)
        training = sections["training"] if schedule is None else _staged(sections["training"], schedule)
        return cls(_model(sections["model"]), data, training, schedule)


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `--key value` and `--key=value`; values are YAML: `--lora.target_modules "[q_proj, v_proj]"`.

    Raises:
        InputError: where a word is no key, or a key has no value.
    """
    result: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, has_value, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            raise InputError(f"{word!r} is no key; what follows the recipe is --key value")
        if not has_value:
            if not rest or rest[0].startswith("--"):
                raise InputError(f"--{key} has no value; give --{key} VALUE (true or false for a switch)")
            value = rest.pop(0)
        try:
            result[key.replace("-", "_")] = load_yaml(value)
        except ValueError as error:
            raise InputError(f"--{key}: {value!r} is not YAML; put quotes around it") from error
    return result


def _section(values: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, Mapping):
        raise InputError(f"{path}: {name} must have keys, got {section!r}")
    return dict(section)


def _anchor(sections: dict[str, dict[str, Any]], folder: Path) -> None:
    world = sections["data"].get("world")
    if isinstance(world, Mapping) and isinstance(world.get("pictures"), str):
        pictures = str(folder / Path(world["pictures"]).expanduser())
        sections["data"]["world"] = {**world, "pictures": pictures}
    for section, keys in (
        ("data", ("path", "annotation_root", "video_root")),
        ("model", ("path", "vision", "text", "tokenizer", "weights")),
    ):
        for key in keys:
            value = sections[section].get(key)
            # What is no place beside the recipe may be a hub id.
            if isinstance(value, str) and (section == "data" or (value != EMBEDDED and (folder / value).exists())):
                sections[section][key] = str(folder / Path(value).expanduser())


def _override(sections: dict[str, dict[str, Any]], key: str, value: Any) -> None:
    parts = key.split(".")
    if parts == ["data"]:
        parts = ["data", "path"]
    if parts[0] not in SECTIONS:
        parts = ["training", *parts]
    if len(parts) < 2:
        raise InputError(f"--{key} is a section; give one of its keys, like --{key}.path")
    if parts == ["model", "path"]:
        # That model instead of parts and of what they were to be built into.
        sections["model"] = {name: kept for name, kept in sections["model"].items() if name in ("dtype", "attention")}
    target = sections[parts[0]]
    for part in parts[1:-1]:
        inner = target.get(part)
        target[part] = dict(inner) if isinstance(inner, Mapping) else {}
        target = target[part]
    target[parts[-1]] = value


def _override_stage(stages: Any, key: str, value: Any) -> Any:
    # stages.NAME.key or stages.NUMBER.key (from 0); the list of the recipe is left as it is.
    _, which, *rest = key.split(".")
    stages = copy.deepcopy(stages)
    for index, stage in enumerate(stages if isinstance(stages, list) else ()):
        if isinstance(stage, dict) and which in (str(stage.get("name")), str(index)) and rest:
            for part in rest[:-1]:
                stage = stage.setdefault(part, {})
                if not isinstance(stage, dict):
                    raise InputError(f"--{key}: {part} has no keys")
            stage[rest[-1]] = value
            return stages
    raise InputError(f"--{key}: no such stage; give --stages.NAME.KEY VALUE with a name from the recipe")


def _staged(training: Mapping[str, Any], schedule: Schedule) -> dict[str, Any]:
    for key in _BY_STAGES:
        if training.get(key) is not None:
            raise InputError(f"training: {key} is decided by stages; leave it out")
    steps = training.get("max_steps")
    if not steps or (isinstance(steps, int) and steps < 0):  # -1 is how transformers says that there is no limit
        steps = schedule.num_steps
    if isinstance(steps, int) and steps > schedule.num_steps:
        raise InputError(f"training: max_steps is {steps}, and the stages have {schedule.num_steps} in all")
    # One sample is one whole batch.
    fixed = {"per_device_train_batch_size": 1, "train_sampling_strategy": "sequential"}
    # The language model has no part in a step without text, nor the heads in one without their losses.
    return {"ddp_find_unused_parameters": True, **training, **fixed, "max_steps": steps}


def _model(values: dict[str, Any]) -> ModelSettings:
    fields = {each.name for each in dataclasses.fields(DynImgConfig)} - {"vision_config", "text_config"}
    check_keys(values, {*_MODEL_KEYS, *fields}, "model")
    own = {key: values.pop(key) for key in _MODEL_KEYS if values.get(key) is not None}
    settings = ModelSettings(**own, config={key: value for key, value in values.items() if key not in _MODEL_KEYS})
    has_parts = settings.vision is not None and settings.text is not None
    if has_parts == (settings.path is not None):
        raise InputError("model: give either path (a DynImg model) or both vision and text (the parts to build one)")
    _check_parts(settings)
    if settings.path is not None and settings.config:
        raise InputError(
            f"model: {next(iter(settings.config))} belongs to the model in path and cannot be changed here"
        )
    _check_weights(settings)
    if settings.dtype not in DTYPES:
        raise InputError(f"model: dtype must be one of {', '.join(DTYPES)}, got {settings.dtype!r}")
    return settings


def _check_parts(settings: ModelSettings) -> None:
    kinds = {isinstance(part, Mapping) for part in (settings.vision, settings.text)}
    if len(kinds) > 1:
        raise InputError("model: vision and text must both be names (of pretrained parts) or both have keys (random)")
    is_random = kinds == {True}
    if is_random and settings.tokenizer is None:
        raise InputError("model: random weights need a tokenizer: a folder, a hub id, or motion")
    if settings.path is not None and settings.tokenizer is not None:
        raise InputError("model: tokenizer belongs to the model in path and cannot be changed here")
    if settings.position_std is not None and not is_random:
        raise InputError("model: position_std is for random weights, with vision and text as keys")


def _check_weights(settings: ModelSettings) -> None:
    patterns = settings.weights_except
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise InputError(f"model: weights_except must be a list of patterns over names of weights, got {patterns!r}")
    if settings.path is not None and settings.weights is not None:
        raise InputError("model: weights are for a model that is built of parts; with path, they are those of path")
    if settings.weights is None and patterns:
        raise InputError("model: weights_except goes with weights, the place that they come from")


def _data(values: dict[str, Any], training: Mapping[str, Any]) -> DataSettings:
    fields = {each.name for each in dataclasses.fields(DatasetOptions)}
    check_keys(values, {*_DATA_KEYS, *fields}, "data")
    if "world" in values:
        if others := [key for key, value in values.items() if key != "world" and value is not None]:
            raise InputError(
                f"data: {others[0]} has no meaning beside world, which is drawn and not read; leave it out"
            )
        return DataSettings(world=WorldSettings.from_values(values["world"], _seed(training) or 0))
    if not values.get("path"):
        raise InputError("data: path is missing; name a mixture (.yaml), annotations (.json, .jsonl) or shards")
    given: dict[str, Any] = {key: value for key, value in values.items() if key in fields and value is not None}
    if given.get("flip") is False:
        given["flip"] = "off"  # which YAML takes for a truth value
    if (seed := _seed(training)) is not None:
        given.setdefault("seed", seed)
    options = DatasetOptions(**given)
    roots: dict[str, Any] = {
        key: Path(str(values[key])) for key in ("annotation_root", "video_root") if values.get(key)
    }
    pack_length = values.get("pack_length")
    if pack_length is not None and (not isinstance(pack_length, int) or pack_length < options.max_length):
        raise InputError(f"data: pack_length must be at least max_length ({options.max_length}), got {pack_length!r}")
    return DataSettings(Path(str(values["path"])), pack_length=pack_length, options=options, **roots)


def _seed(training: Mapping[str, Any]) -> int | None:
    seed = training.get("seed") if training.get("data_seed") is None else training["data_seed"]
    try:
        return None if seed is None else int(seed)
    except (TypeError, ValueError) as error:
        raise InputError(f"training: seed must be a whole number, got {seed!r}") from error
