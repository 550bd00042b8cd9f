"""The recipe of a run: YAML with the sections model, data and training, and what the command line changes in it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from ..model.configuration_dynimg import DynImgConfig
from .arguments import check_keys
from .data.dataset import DatasetOptions
from .yaml_file import read_yaml

SECTIONS = ("model", "data", "training")
DTYPES = ("auto", "float32", "bfloat16", "float16")
_MODEL_KEYS = ("path", "vision", "text", "dtype", "attention")
_DATA_KEYS = ("path", "annotation_root", "video_root", "pack_length")


@dataclass(frozen=True)
class ModelSettings:
    """Name the model to train: a folder or hub id, or the parts to build one from.

    Args:
        path: of a DynImg model; relative to the recipe, to the working folder, or a hub id.
        vision: a SigLIP, and
        text: a Qwen2, instead of `path`.
        dtype: of weights that do not learn; those that do are float32 wherever the computation is bfloat16.
        attention: sdpa, flash_attention_2 or eager; None leaves it to transformers.
        config: fields of `DynImgConfig`, where the model is built from parts.
    """

    path: str | None = None
    vision: str | None = None
    text: str | None = None
    dtype: str = "auto"
    attention: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_built(self) -> bool:
        """Tell whether the model is built from parts."""
        return self.path is None


@dataclass(frozen=True)
class DataSettings:
    """Name the data and how samples are made of it.

    Args:
        path: a mixture (YAML), an annotation file, or a folder of shards; relative to the recipe.
        annotation_root: replaces that of the mixture.
        video_root: the same for videos.
        pack_length: tokens of a row that several samples share; None gives each a row of its own.
        options: fields of `DatasetOptions`.
    """

    path: Path
    annotation_root: Path | None = None
    video_root: Path | None = None
    pack_length: int | None = None
    options: DatasetOptions = field(default_factory=DatasetOptions)


@dataclass(frozen=True)
class TrainRecipe:
    """Hold a run: model, data, and the values of `DynImgTrainingArguments`."""

    model: ModelSettings
    data: DataSettings
    training: Mapping[str, Any]

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
        check_keys(values, SECTIONS, str(path))
        if isinstance(values.get("data"), str):
            values["data"] = {"path": values["data"]}
        sections = {name: _section(values, name, path) for name in SECTIONS}
        _anchor(sections, path.resolve().parent)
        for key, value in (overrides or {}).items():
            _override(sections, key, value)
        if not sections["training"].get("output_dir"):
            raise InputError(f"{path}: training: output_dir is missing; name a folder for checkpoints and the model")
        return cls(_model(sections["model"]), _data(sections["data"], sections["training"]), sections["training"])


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
            result[key.replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--{key}: {value!r} is not YAML; put quotes around it") from error
    return result


def _section(values: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, Mapping):
        raise InputError(f"{path}: {name} must have keys, got {section!r}")
    return dict(section)


def _anchor(sections: dict[str, dict[str, Any]], folder: Path) -> None:
    for section, keys in (("data", ("path", "annotation_root", "video_root")), ("model", ("path", "vision", "text"))):
        for key in keys:
            value = sections[section].get(key)
            # What is no place beside the recipe may be a hub id.
            if isinstance(value, str) and (section == "data" or (folder / value).exists()):
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


def _model(values: dict[str, Any]) -> ModelSettings:
    fields = {each.name for each in dataclasses.fields(DynImgConfig)} - {"vision_config", "text_config"}
    check_keys(values, {*_MODEL_KEYS, *fields}, "model")
    own = {key: values.pop(key) for key in _MODEL_KEYS if values.get(key) is not None}
    settings = ModelSettings(**own, config={key: value for key, value in values.items() if key not in _MODEL_KEYS})
    has_parts = settings.vision is not None and settings.text is not None
    if has_parts == (settings.path is not None):
        raise InputError("model: give either path (a DynImg model) or both vision and text (the parts to build one)")
    if settings.path is not None and settings.config:
        raise InputError(
            f"model: {next(iter(settings.config))} belongs to the model in path and cannot be changed here"
        )
    if settings.dtype not in DTYPES:
        raise InputError(f"model: dtype must be one of {', '.join(DTYPES)}, got {settings.dtype!r}")
    return settings


def _data(values: dict[str, Any], training: Mapping[str, Any]) -> DataSettings:
    fields = {each.name for each in dataclasses.fields(DatasetOptions)}
    check_keys(values, {*_DATA_KEYS, *fields}, "data")
    if not values.get("path"):
        raise InputError("data: path is missing; name a mixture (.yaml), annotations (.json, .jsonl) or shards")
    given = {key: value for key, value in values.items() if key in fields and value is not None}
    seed = training.get("data_seed") or training.get("seed")
    options = DatasetOptions(**{**({"seed": int(seed)} if seed is not None else {}), **given})
    roots = {key: Path(values[key]) for key in ("annotation_root", "video_root") if values.get(key)}
    pack_length = values.get("pack_length")
    if pack_length is not None and (not isinstance(pack_length, int) or pack_length < options.max_length):
        raise InputError(f"data: pack_length must be at least max_length ({options.max_length}), got {pack_length!r}")
    return DataSettings(Path(str(values["path"])), pack_length=pack_length, options=options, **roots)
