"""Build a DynImg model from the checkpoints of its parts (Section 4.1)."""

from pathlib import Path
from typing import Any

import torch
from transformers.generation import GenerationConfig
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from ..errors import InputError
from .chat_template import VIDEO_TOKEN
from .configuration_dynimg import DynImgConfig
from .foreign import check_model_name, read_auto_config, reading
from .generation import answering_config
from .new_folder import new_folder

NEW_WEIGHTS = ("model.multi_modal_projector.", "model.language_model.rotary_emb.axis_theta")
"""What no backbone has: a fresh projector and, at their initial values, the frequencies of h, w and t."""


_CAUSAL = {"qwen2": Qwen2ForCausalLM, "qwen3": Qwen3ForCausalLM}


class _VisionPart(SiglipVisionModel):
    # A full SigLIP also holds a text tower, and every one a pooling head: none of this is a reason for a warning.
    _keys_to_ignore_on_load_unexpected = [r"text_model\.", r"(^|\.)head\.", r"^logit_"]  # noqa: RUF012  (their idiom)


def create_model(output: str | Path, vision: str, text: str, *, dtype: Any = "auto", **config: Any) -> dict[str, Any]:
    """Build a DynImg model from its parts and save it together with its processor.

    Args:
        output: the folder to write.
        vision: hub id or folder of a SigLIP or a SigLIP 2 of fixed resolution.
        text: hub id or folder of a Qwen2, Qwen2.5 or Qwen3.
        dtype: of the weights; "auto" takes the one of the text checkpoint.
        **config: fields of `DynImgConfig`; `video_token_id` is read off the tokenizer where it is not given.

    Returns:
        Facts to show: the number of parameters, tokens and pixels of a DynImg.

    Raises:
        InputError: where a checkpoint is missing or of another kind, the tokenizer has no video token, or there is
            something at `output` already. Nothing is written then.
    """
    from .modeling_dynimg import DynImgForConditionalGeneration
    from .processing_dynimg import DynImgProcessor

    check_model_name(text)
    with reading(f"{text} has no tokenizer that can be read"):
        tokenizer = AutoTokenizer.from_pretrained(text, trust_remote_code=False)
    video_token_id = tokenizer.get_vocab().get(VIDEO_TOKEN)
    if video_token_id is None:
        raise InputError(f"the tokenizer of {text} has no {VIDEO_TOKEN}; take a Qwen2.5")
    model = assemble(
        DynImgForConditionalGeneration, vision, text, dtype=dtype, **{"video_token_id": video_token_id, **config}
    )
    tokenizer.padding_side = "left"  # answers of a batch begin at one place
    model.generation_config = answering_config(model.generation_config, tokenizer, model.config.video_token_id)
    processor = DynImgProcessor.from_config(model.config, tokenizer)
    with new_folder(Path(output)) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return {
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "image_size": model.config.layout.image_size,
        "tokens_per_dynimg": model.config.layout.tokens_per_dynimg,
    }


def assemble(model_class: Any, vision: str, text: str, *, dtype: Any = "auto", **config: Any) -> Any:
    """Build a DynImg model from a SigLIP and a Qwen2 checkpoint.

    Args:
        model_class: `DynImgForConditionalGeneration`.
        vision: hub id or folder of a SigLIP, or a SigLIP 2 of fixed resolution; the whole model or its vision part.
        text: hub id or folder of a Qwen2, Qwen2.5 or Qwen3 model.
        dtype: of the weights; "auto" takes the one of the text checkpoint. `axis_theta` is float32 in any case.
        **config: fields of `DynImgConfig`.

    Raises:
        InputError: where a checkpoint is missing, of another kind, or lacks weights.
    """
    vision_config = _vision_config(vision)
    text_config = _read_config(text)
    if text_config.model_type not in _CAUSAL:
        raise InputError(
            f"{text} holds a {text_config.model_type!r} model; the text backbone must be a Qwen2, Qwen2.5 or Qwen3"
        )
    full_config = DynImgConfig(vision_config=vision_config, text_config=text_config, **config)

    causal = _load(_CAUSAL[text_config.model_type], text, text_config, dtype)
    tower = _load(_VisionPart, vision, vision_config, causal.dtype)
    state = {f"model.vision_tower.{name}": value for name, value in tower.state_dict().items()}
    state |= {f"model.language_model.{name}": value for name, value in causal.model.state_dict().items()}
    if not full_config.tie_word_embeddings:
        state["lm_head.weight"] = causal.lm_head.weight.detach()
    weights_dtype = causal.dtype
    generation_config = causal.generation_config
    del tower, causal  # the state dict holds the only copy of the weights now

    model, report = model_class.from_pretrained(
        None, config=full_config, state_dict=state, dtype=weights_dtype, output_loading_info=True
    )
    missing = [name for name in report["missing_keys"] if not name.startswith(NEW_WEIGHTS)]
    if missing or report["unexpected_keys"]:
        raise InputError(
            f"the parts do not fit: missing {sorted(missing)}, left over {sorted(report['unexpected_keys'])}"
        )
    model.generation_config = _generation_config(generation_config, full_config)
    return model


def _generation_config(source: GenerationConfig | None, config: DynImgConfig) -> GenerationConfig:
    result = source if source is not None else GenerationConfig()
    result.suppress_tokens = [config.video_token_id]
    return result


def _vision_config(vision: str) -> Any:
    config = _read_config(vision)
    if config.model_type == "siglip":
        config = config.vision_config
    if config.model_type != "siglip_vision_model":
        hint = "; take a SigLIP 2 of fixed resolution, not NaFlex" if config.model_type.startswith("siglip2") else ""
        raise InputError(f"{vision} holds a {config.model_type!r} model; the vision backbone must be a SigLIP{hint}")
    # The pooling head summarises an image in one vector, which no DynImg model reads.
    config.vision_use_head = False
    return config


def _read_config(name: str) -> Any:
    check_model_name(name)
    with reading(f"{name} is no folder with a model and no model on the hub"):
        return read_auto_config(name)


def _load(model_class: Any, name: str, config: Any, dtype: torch.dtype | str) -> Any:
    with reading(f"the weights in {name} cannot be loaded"):
        model, report = model_class.from_pretrained(name, config=config, dtype=dtype, output_loading_info=True)
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{name} lacks {len(missing)} weights of a {model_class.__name__}, {missing[0]} among them")
    return model
