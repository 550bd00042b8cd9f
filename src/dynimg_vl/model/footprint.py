"""How much memory a DynImg model takes, from its configuration alone: computed, not measured.

Sizes are in bytes unless a name says otherwise.
"""

from dataclasses import dataclass

import torch
from torch import nn

from .configuration_dynimg import QWEN2_5_7B, SIGLIP_SO400M_384, DynImgConfig
from .modeling_dynimg import DynImgForConditionalGeneration

FORMATS = ("float32", "bfloat16", "8bit", "4bit")
"""How weights can be held: in a type, or with those of the language model's layers quantized (`quantization.py`)."""

CONTEXT = 2048
"""Tokens for which the cache is counted: 4 DynImgs and a conversation."""

OVERHEAD = 1_000_000_000
"""What torch, its libraries and the activations of 4 DynImgs take, roughly."""

QWEN2_0_5B = {
    **QWEN2_5_7B,
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
"""The language model of the small LLaVA-OneVision."""

CONVERTED = {
    "0.5B": ("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", QWEN2_0_5B),
    "7B": ("llava-hf/llava-onevision-qwen2-7b-ov-hf", QWEN2_5_7B),
}
"""Models that `convert` makes: the source, and the dimensions of its language model."""

# NF4 holds a number in half a byte and a float32 for each 64; LLM.int8 one in a byte, and its scales do not count.
_BYTES = {"float32": 4.0, "bfloat16": 2.0, "8bit": 1.0, "4bit": 0.5 + 4 / 64}


@dataclass(frozen=True)
class Footprint:
    """Hold the sizes of a model: its parameters, how many of them can be quantized, its cache per token in 2 bytes."""

    num_parameters: int
    num_quantizable: int
    cache_per_token: int

    def weights(self, kind: str) -> int:
        """Count the bytes of the weights in one of `FORMATS`; what is not quantized is bfloat16 there."""
        rest = "bfloat16" if kind in ("8bit", "4bit") else kind
        return round(self.num_quantizable * _BYTES[kind] + (self.num_parameters - self.num_quantizable) * _BYTES[rest])

    def memory(self, kind: str) -> int:
        """Estimate what answering takes: weights, a cache of `CONTEXT` tokens, and the overhead."""
        cache = self.cache_per_token * CONTEXT * (2 if kind == "float32" else 1)
        return self.weights(kind) + cache + OVERHEAD


def footprint(config: DynImgConfig) -> Footprint:
    """Count the parameters of a model that is never built."""
    with torch.device("meta"):
        model = DynImgForConditionalGeneration(config)
    layers = model.model.language_model.layers
    quantizable = sum(part.weight.numel() for part in layers.modules() if isinstance(part, nn.Linear))
    text = config.text_config
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Footprint(
        num_parameters=model.num_parameters(),
        num_quantizable=quantizable,
        cache_per_token=2 * 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim,
    )


def converted_config(size: str) -> DynImgConfig:
    """Give the configuration of a model that `convert` makes out of one of `CONVERTED`."""
    return DynImgConfig(
        vision_config={**SIGLIP_SO400M_384, "num_hidden_layers": SIGLIP_SO400M_384["num_hidden_layers"] - 1},
        text_config=CONVERTED[size][1],
        vision_feature_layer=-1,
        rope_axes="s",
        video_token_id=0,
    )
