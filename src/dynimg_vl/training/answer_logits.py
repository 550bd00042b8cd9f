"""Logits where an answer is said, and nowhere else: a vocabulary of 152 000 words for 576 visual tokens costs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from .data.chat_tokens import NO_LOSS


def at_answers(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the inputs of a model what makes it predict only at the places of the batch that have a label.

    The loss is the same: places without a label have no part in it. With a vocabulary of 152 064 and 640 tokens, of
    which 32 are an answer, a 7B saves 7 % of the products of its language model, and 0.4 GB a sample for each copy of
    the logits in float32.

    Args:
        inputs: of `DynImgForConditionalGeneration`, with `labels` (B, L).
    """
    shifted = functional.pad(inputs["labels"][:, 1:], (0, 1), value=NO_LOSS)
    places = torch.nonzero((shifted != NO_LOSS).any(0)).flatten()
    return {**inputs, "logits_to_keep": places, "shift_labels": shifted[:, places]}
