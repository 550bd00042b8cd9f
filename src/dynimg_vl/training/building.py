"""The model of a run with its processor: loaded, built from pretrained parts, or made small with random weights."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import AutoTokenizer
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from ..errors import InputError
from ..model.chat_template import VIDEO_TOKEN
from ..model.configuration_dynimg import DynImgConfig
from ..model.foreign import one_line
from ..model.generation import answering_config
from ..model.modeling_dynimg import DynImgForConditionalGeneration
from ..model.pretrained import load_pretrained
from ..model.processing_dynimg import DynImgProcessor
from .arguments import DynImgTrainingArguments, check_keys
from .initial_weights import take_weights
from .lora import LoraSettings, add_lora
from .motion.tokenizer import build_tokenizer
from .parameter_groups import freeze, master_weights
from .recipe import MOTION_TOKENIZER, ModelSettings

logger = logging.getLogger(__name__)

END_TOKEN = "<|im_end|>"
_VOCABULARY_MULTIPLE = 64


def build_model(
    settings: ModelSettings, lora: LoraSettings | None, args: DynImgTrainingArguments
) -> tuple[Any, DynImgProcessor]:
    """Load or build the model with its processor, frozen, adapted and in the precisions that the run needs.

    Raises:
        InputError: where it is not there, a setting does not fit it, or nothing would learn.
    """
    if lora is not None and settings.path is None:
        raise InputError("LoRA needs model: path; build the model first, with `dynimg-vl init -o FOLDER`, and name it")
    model, processor = _load(settings)
    if settings.attention is not None:
        try:
            model.set_attn_implementation(settings.attention)
        except (ValueError, ImportError) as error:
            raise InputError(f"model: attention {settings.attention!r} does not work: {one_line(error)}") from error
    if args.deepspeed:
        # ZeRO-3's loader notes renamings that it did not need; weights would be saved under the names before them.
        model._weight_conversions = []
    if lora is not None:
        model = add_lora(model, lora, settings.path)
    freeze(model, args.frozen)
    if (args.bf16 or args.fp16) and not args.fsdp and not args.deepspeed:  # they do it for what they shard
        master_weights(model)
    return model.train(), processor


def _load(settings: ModelSettings) -> tuple[Any, DynImgProcessor]:
    if settings.path is not None:
        return load_pretrained(settings.path, device="cpu", dtype=settings.dtype)
    tokenizer = read_tokenizer(settings)
    if isinstance(settings.vision, Mapping) and isinstance(settings.text, Mapping):
        model = random_model(settings, tokenizer)
    else:
        try:
            model = DynImgForConditionalGeneration.from_backbones(
                str(settings.vision),
                str(settings.text),
                dtype=settings.dtype,
                **{"video_token_id": tokenizer.get_vocab()[VIDEO_TOKEN], **settings.config},
            )
        except (TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"model: {one_line(error)}") from error
    tokenizer.padding_side = "left"  # answers of a batch begin at one place
    model.generation_config = answering_config(model.generation_config, tokenizer, model.config.video_token_id)
    if settings.weights is not None:
        for line in take_weights(model, tokenizer, settings.weights, settings.weights_except):
            logger.info("not from %s: %s", settings.weights, line)
    return model, DynImgProcessor.from_config(model.config, tokenizer)


def read_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Read the tokenizer that a model is built with: its own, that of its language model, or the motion world's.

    Raises:
        InputError: where there is none, or it does not know videos.
    """
    if settings.tokenizer == MOTION_TOKENIZER:
        return build_tokenizer()
    name = settings.tokenizer or settings.text
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{name} has no tokenizer: {one_line(error)}") from error
    if VIDEO_TOKEN not in tokenizer.get_vocab():
        raise InputError(f"the tokenizer of {name} has no {VIDEO_TOKEN}; take a Qwen2.5")
    return tokenizer


def random_model(settings: ModelSettings, tokenizer: PreTrainedTokenizerBase) -> DynImgForConditionalGeneration:
    """Make a model with random weights: the same classes as any other DynImg model, only small.

    Args:
        settings: with the fields of `SiglipVisionConfig` in `vision`, those of `Qwen2Config` in `text`.
        tokenizer: decides the size of the vocabulary.

    Raises:
        InputError: where a field is unknown or they do not fit each other.
    """
    vocabulary = tokenizer.get_vocab()
    multiple = _VOCABULARY_MULTIPLE
    own = {
        "vocab_size": -(-len(tokenizer) // multiple) * multiple,
        "bos_token_id": None,
        "eos_token_id": vocabulary[END_TOKEN],
        "pad_token_id": tokenizer.pad_token_id,
    }
    kinds: dict[str, Any] = {"vision": SiglipVisionConfig, "text": Qwen2Config}
    defaults = {"vision": {"vision_use_head": False}, "text": own}
    try:
        configs = {}
        for name, kind in kinds.items():
            given: Any = getattr(settings, name)
            # Their configurations keep whatever they are given.
            check_keys(given, {*(each.name for each in dataclasses.fields(kind)), *defaults[name]}, f"model.{name}")
            configs[name] = kind(**{**defaults[name], **given})
        config = DynImgConfig(
            vision_config=configs["vision"],
            text_config=configs["text"],
            video_token_id=vocabulary[VIDEO_TOKEN],
            **settings.config,
        )
        _ = config.layout  # refuses grids that do not fit
        model = DynImgForConditionalGeneration(config)
    except (TypeError, ValueError, KeyError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"model: {one_line(error)}") from error
    if settings.position_std is not None:
        nn.init.normal_(model.model.vision_tower.embeddings.position_embedding.weight, std=settings.position_std)
    return model
