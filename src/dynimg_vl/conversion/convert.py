"""From a pretrained SigLIP + projector + Qwen2 to a DynImg model with the same weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from ..errors import InputError
from ..model.configuration_dynimg import DynImgConfig
from ..model.foreign import reading
from ..model.modeling_dynimg import DynImgForConditionalGeneration
from ..model.new_folder import new_folder
from ..model.processing_dynimg import DynImgProcessor
from ..model.video_processing_dynimg import DynImgVideoProcessor
from ..positions import RopeAxes
from .source import Source, check_space, open_source
from .tokens import Tokens, generation_config, read_tokens
from .weights import Plan, Stored, expected_shapes, plan_weights, read_headers, renamed
from .write import SHARD_BYTES, check_tied, size_of, write_weights

AXIS_THETA = "model.language_model.rotary_emb.axis_theta"
REPORT = "conversion.json"

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BESIDE_WEIGHTS = 50_000_000  # bytes of tokenizer, configuration and report


def convert(
    source: str,
    output: str | Path,
    *,
    dtype: torch.dtype | None = None,
    rope_axes: RopeAxes = "s",
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Build a DynImg model out of a LLaVA-OneVision or LLaVA-Video and write it, file by file, to a new folder.

    Every weight is the source's, so that text gives the same logits to the bit, and a picture at the source's own
    resolution the same projected features. The position embedding of the vision tower stays at the source's grid; it is
    interpolated to the grid of a DynImg when it is read, as in a model from `from_backbones`.

    Args:
        source: hub id or folder.
        output: the folder to write; it must not exist, or be empty.
        dtype: of the weights; None keeps the source's.
        rope_axes: "s" are the positions that the source was trained with. "hws" and "hwts" add theta at 0 and count s
            by tokens, which computes the same until theta is trained.
        shard_bytes: bytes of an output file; memory grows with it.
        progress: called with the bytes written so far and of all.
        **config: further fields of `DynImgConfig`, such as `num_dynimgs`.

    Returns:
        Facts to show, also written to conversion.json: the source, what was changed, and each weight that was left,
        with the reason.

    Raises:
        InputError: where the source is of another kind, damaged, incomplete or lacks weights, a setting does not fit,
            or there is something at `output` already or no room for it. Nothing is written then.
    """
    output = Path(output)
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        raise InputError(f"{output} exists already; choose another folder, or remove it")
    opened = open_source(source)
    stored = read_headers(opened.folder)
    tokens = read_tokens(opened)
    target = _target_config(opened, tokens, rope_axes, config)
    plan = _plan(opened, stored, target)
    kept = _TYPES[plan.moved["model.language_model.embed_tokens.weight"].dtype]
    target.dtype = kept if dtype is None else dtype
    num_bytes = size_of(plan.moved, dtype)
    check_space(output.absolute().parent, num_bytes + _BESIDE_WEIGHTS, f"writing {output}")
    new = _new_weights(target)
    report = _report(opened, tokens, target, plan, new)
    with new_folder(output) as folder:
        write_weights(folder, plan.moved, new, dtype=dtype, shard_bytes=shard_bytes, progress=progress)
        _write_rest(folder, opened, tokens, target)
        (folder / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {**report, "num_bytes": num_bytes}


def _target_config(source: Source, tokens: Tokens, rope_axes: RopeAxes, config: dict[str, Any]) -> DynImgConfig:
    values: dict[str, Any] = {
        "rope_axes": rope_axes,
        # The s of a token is its index, as the source knows it; one s per DynImg is for a model that is trained so.
        "sequence_step": "token",
        "vision_feature_layer": -1,
        "projector_hidden_act": source.projector_hidden_act,
        "video_token_id": tokens.video_token_id,
        "tie_word_embeddings": source.is_tied,
        "architectures": [DynImgForConditionalGeneration.__name__],
        **config,
    }
    source.text_config.tie_word_embeddings = source.is_tied
    with reading(f"no DynImg model can be made of {source.name}"):
        return DynImgConfig(vision_config=source.vision_config, text_config=source.text_config, **values)


def _plan(source: Source, stored: dict[str, Stored], config: DynImgConfig) -> Plan:
    depth = source.text_config.num_hidden_layers + source.vision_config.num_hidden_layers
    if depth > len(stored):
        raise InputError(f"{source.name} has {len(stored)} weights for {depth} layers; the download is incomplete")
    with reading(f"no DynImg model can be made of {source.name}"):
        shapes = expected_shapes(config)
    shapes.pop(AXIS_THETA, None)
    depth = source.vision_config.num_hidden_layers
    plan = plan_weights(stored, shapes, num_vision_layers=depth, is_tied=source.is_tied)
    for name in plan.left:
        if source.is_tied and renamed(name) == "lm_head.weight":
            check_tied(plan.moved["model.language_model.embed_tokens.weight"], stored[name])
    return plan


def _new_weights(config: DynImgConfig) -> dict[str, Tensor]:
    if config.rope_axes == "s":
        return {}
    from ..model.rotary import DynImgRotaryEmbedding

    rotary = DynImgRotaryEmbedding(config.text_config, config.rope_axes, config.rope_combine, config.rope_trainable)
    return {AXIS_THETA: rotary.initial_axis_theta()}


def _write_rest(folder: Path, source: Source, tokens: Tokens, config: DynImgConfig) -> None:
    video_processor = DynImgVideoProcessor.from_config(config, **source.normalisation)
    processor = DynImgProcessor(
        tokens.tokenizer, video_processor, chat_template=tokens.chat_template, video_token=tokens.video_token
    )
    processor.check_compatible(config)
    processor.save_pretrained(folder)
    generation_config(source, tokens).save_pretrained(folder)
    config.save_pretrained(folder)


def _report(source: Source, tokens: Tokens, config: DynImgConfig, plan: Plan, new: dict[str, Tensor]) -> dict[str, Any]:
    grid = source.patch_grid
    return {
        "source": source.name,
        "source_type": source.model_type,
        "transformers": transformers.__version__,
        "dtype": str(config.dtype).removeprefix("torch."),
        "num_parameters": sum(weight.numel for weight in plan.moved.values())
        + sum(each.numel() for each in new.values()),
        "vision_layers": source.vision_config.num_hidden_layers,
        "patch_grid": {"source": grid, "dynimg": config.patch_grid, "interpolated": grid != config.patch_grid},
        "rope_axes": config.rope_axes,
        "video_token": {"text": tokens.video_token, "id": tokens.video_token_id, "added": tokens.is_added},
        "weights": {"used": len(plan.moved), "new": sorted(new), "left": plan.left},
    }
