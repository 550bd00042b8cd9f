"""What a source is: a LLaVA-OneVision of transformers, or one in the layout of its authors (LLaVA-Video shares it).

Both are a SigLIP, a Linear-GELU-Linear projector and a Qwen2. Nothing of a source is executed, and nothing is fetched
because a file of it says so: a vision tower that it only names is known by a table here.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.models.llava_onevision.configuration_llava_onevision import LlavaOnevisionConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from ..errors import InputError
from ..model.configuration_dynimg import SIGLIP_SO400M_384
from ..model.foreign import check_model_name, one_line, reading

SUPPORTED = (
    "a LLaVA-OneVision of transformers (llava_onevision), or an original LLaVA-OneVision or LLaVA-Video "
    "(LlavaQwenForCausalLM)"
)

KNOWN_TOWERS: dict[str, dict[str, Any]] = {"siglip-so400m-patch14-384": SIGLIP_SO400M_384}
"""Vision towers that checkpoints of the original layout name without describing them."""

FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt")
"""What is fetched of a repository on the hub."""

MAX_LAYERS = 1000
"""More than any model has."""

_QWEN_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "rope_theta", "rope_scaling",
    "use_sliding_window", "sliding_window", "max_window_layers", "attention_dropout", "bos_token_id", "eos_token_id",
    "pad_token_id", "tie_word_embeddings",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Describe a source whose parts a DynImg model can take.

    Args:
        name: as the user gave it.
        folder: where its files are.
        model_type: "llava_onevision" or "llava_qwen".
        vision_config: of the layers that are projected; what lies above them is not in it.
        text_config: of the language model.
        projector_hidden_act: between the two linear layers of the projector.
        is_tied: whether the output layer is the token embedding.
        video_token_id: the placeholder for frames; None where the source has none.
        patch_grid: patches along a side of the pictures that the source reads.
        normalisation: `image_mean` and `image_std`, where the source says them.
    """

    name: str
    folder: Path
    model_type: str
    vision_config: SiglipVisionConfig
    text_config: Qwen2Config
    projector_hidden_act: str
    is_tied: bool
    video_token_id: int | None
    patch_grid: int
    normalisation: dict[str, Any] = field(default_factory=dict)


def open_source(name: str) -> Source:
    """Find a source (a folder or a hub id) and read its configuration; weights are not touched.

    Raises:
        InputError: where there is none, it is of another kind, or one of its settings has no counterpart in a DynImg.
    """
    folder = locate(name)
    config = _read_json(folder / "config.json", f"{name} holds no model")
    kind = str(config.get("model_type"))
    architectures = config.get("architectures") or []
    _refuse_absurd(name, config)
    with reading(f"{name} has a config.json that cannot be read"):
        if "LlavaQwenForCausalLM" in architectures or kind == "llava_qwen":
            return _original(name, folder, config)
        if kind == "llava_onevision":
            return _of_transformers(name, folder, config)
    if kind == "dynimg":
        raise InputError(f"{name} is a DynImg model already; use it as it is")
    raise InputError(f"{name} holds a {kind!r} model ({', '.join(map(str, architectures))}); supported is {SUPPORTED}")


def locate(name: str) -> Path:
    """Give the folder of a model, after fetching it from the hub where it is no folder.

    Raises:
        InputError: where there is no such model, or the disk has no room for it.
    """
    check_model_name(name)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import constants, snapshot_download

    patterns = list(FILES)
    try:
        planned = snapshot_download(name, allow_patterns=patterns, dry_run=True)
    except Exception as error:
        return _cached(name, patterns, error)
    missing = sum(each.file_size or 0 for each in planned if each.will_download)
    check_space(Path(constants.HF_HUB_CACHE), missing, f"fetching {name}")
    with reading(f"{name} cannot be fetched"):
        return Path(snapshot_download(name, allow_patterns=patterns))


def _cached(name: str, patterns: list[str], error: Exception) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):  # nothing is kept: why it cannot be fetched is the answer
        raise InputError(f"{name} is not here and cannot be fetched: {one_line(error)}") from error
    except Exception as unreadable:
        raise InputError(
            f"{name} cannot be fetched ({one_line(error)}), nor read where it is kept: {one_line(unreadable)}"
        ) from unreadable


def check_space(folder: Path, num_bytes: int, what: str) -> None:
    """Make sure that a disk has room.

    Raises:
        InputError: where it has not.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f"{what} takes {num_bytes / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free; "
            "make room or choose another disk"
        )


def _refuse_absurd(name: str, raw: Mapping[str, Any]) -> None:
    # transformers makes a list of that many entries out of it before anybody can look.
    for part in (raw, raw.get("text_config"), raw.get("vision_config")):
        depth = part.get("num_hidden_layers", 1) if isinstance(part, Mapping) else 1
        if not isinstance(depth, int) or not 1 <= depth <= MAX_LAYERS:
            raise InputError(
                f"{name} has a config.json with num_hidden_layers={depth!r}; at most {MAX_LAYERS} are read"
            )


def _of_transformers(name: str, folder: Path, raw: Mapping[str, Any]) -> Source:
    config: Any = LlavaOnevisionConfig.from_dict(dict(raw))
    vision, text = config.vision_config, config.text_config
    if not isinstance(vision, SiglipVisionConfig) or not isinstance(text, Qwen2Config):
        raise InputError(f"{name} is built on {vision.model_type} and {text.model_type}; a DynImg on SigLIP and Qwen2")
    _require(name, "vision_feature_select_strategy", config.vision_feature_select_strategy, "full")
    _require(name, "multimodal_projector_bias", config.multimodal_projector_bias, True)
    layer, depth = config.vision_feature_layer, vision.num_hidden_layers
    if not isinstance(layer, int) or not -depth <= layer <= depth or layer == 0:
        raise InputError(f"{name} projects vision layer {layer} of {depth}; one above the embedding is needed")
    return Source(
        name=name,
        folder=folder,
        model_type="llava_onevision",
        vision_config=_cut(vision.to_dict(), layer % (depth + 1)),
        patch_grid=_patch_grid(vision.to_dict()),
        text_config=text,
        projector_hidden_act=config.projector_hidden_act,
        is_tied=config.tie_word_embeddings,
        video_token_id=config.video_token_id,
        normalisation=_normalisation(folder),
    )


def _original(name: str, folder: Path, raw: Mapping[str, Any]) -> Source:
    tower = str(raw.get("mm_vision_tower")).rstrip("/").rpartition("/")[2]
    if tower not in KNOWN_TOWERS:
        raise InputError(f"{name} has the vision tower {tower!r}; known is {', '.join(KNOWN_TOWERS)}")
    vision = KNOWN_TOWERS[tower]
    _require(name, "mm_projector_type", raw.get("mm_projector_type"), "mlp2x_gelu")
    _require(name, "mm_resampler_type", raw.get("mm_resampler_type"), None)
    _require(name, "mm_vision_select_feature", raw.get("mm_vision_select_feature", "patch"), "patch")
    _require(name, "mm_use_im_start_end", raw.get("mm_use_im_start_end", False), False)
    text = Qwen2Config(**{key: raw[key] for key in _QWEN_FIELDS if raw.get(key) is not None})
    return Source(
        name=name,
        folder=folder,
        model_type="llava_qwen",
        # Its code removes the last layer of a SigLIP and reads the last that is left, whatever mm_vision_select_layer.
        vision_config=_cut(vision, vision["num_hidden_layers"] - 1),
        patch_grid=_patch_grid(vision),
        text_config=text,
        projector_hidden_act="gelu",
        is_tied=bool(text.tie_word_embeddings),
        video_token_id=None,
        normalisation=_normalisation(folder),
    )


def _require(name: str, key: str, value: Any, needed: Any) -> None:
    if value != needed:
        raise InputError(f"{name} has {key}={value!r}; a DynImg has a counterpart for {needed!r} only")


def _cut(vision: Mapping[str, Any], num_layers: int) -> SiglipVisionConfig:
    return SiglipVisionConfig(**{**vision, "num_hidden_layers": num_layers, "vision_use_head": False})


def _patch_grid(vision: Mapping[str, Any]) -> int:
    size, patch = vision["image_size"], vision["patch_size"]
    if not isinstance(size, int) or not isinstance(patch, int) or not 0 < patch <= size:
        raise InputError(f"the vision tower reads {size} pixels in patches of {patch}; square ones are needed")
    return size // patch


def _normalisation(folder: Path) -> dict[str, Any]:
    for path, key in (
        (folder / "preprocessor_config.json", None),
        (folder / "processor_config.json", "image_processor"),
    ):
        if not path.is_file():
            continue
        values = _read_json(path, "the source's processor cannot be used")
        values = values.get(key) or {} if key else values
        found = {name: values[name] for name in ("image_mean", "image_std") if values.get(name)}
        if found:
            return found
    return {}


def _read_json(path: Path, problem: str) -> dict[str, Any]:
    with reading(f"{problem}: {path.name}"):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise InputError(f"{problem}: {path.name} is not an object of JSON")
    return values
