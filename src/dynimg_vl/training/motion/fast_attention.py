"""Attention for training small models on a CPU in bfloat16: plain matrix products.

At 64 to 256 positions of 4 heads, the fused CPU kernel spends half of a training step in its backward pass. Written
out, forward and backward together were 2 to 11 times as fast (one thread, a clip and layer: 0.17 ms against 1.84 at 96
positions, 2.4 against 4.8 at 256). Models are shipped with their usual attention; this name is not saved.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "dynimg_cpu_training"


def matrix_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend: query (B, H, L, E), key and value (B, H / groups, L, E), bool mask (B, 1, L, L): output (B, L, H, E)."""
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query * (scaling or query.shape[-1] ** -0.5)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, matrix_attention)
