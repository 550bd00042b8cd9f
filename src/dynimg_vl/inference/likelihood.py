"""Compare complete answers by their likelihood; the video and the question go through the model once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache


def score_choices(
    model: Any, inputs: dict[str, Tensor], choices: Sequence[Sequence[Sequence[int]]]
) -> list[list[float]]:
    """Sum the log-probabilities of the tokens of each choice, after its prompt.

    Each choice of the batch's rows goes through the model after the prompts' cache, which is then cut back.

    Args:
        model: a DynImg model.
        inputs: its inputs, B prompts padded on the left, each ending in text.
        choices: for each prompt the token ids of its choices; their numbers and lengths may differ.

    Returns:
        For each prompt one sum per choice, in natural logarithms.
    """
    # Not made from the config: layers with a sliding window forget what they would be cut back to; masks serve as well.
    cache = DynamicCache()
    position_ids = model.model.position_ids(
        inputs["input_ids"] == model.config.video_token_id, inputs["attention_mask"]
    )
    outputs = model(
        **inputs, position_ids=position_ids, past_key_values=cache, use_cache=True, logits_to_keep=1, return_dict=True
    )
    first = outputs.logits[:, -1].float().log_softmax(-1)
    start = position_ids[-1, :, -1] + 1
    scores: list[list[float]] = [[] for _ in choices]
    for rank in range(max(map(len, choices))):
        # A row that has no more choices waits with its last one.
        rows = [row[min(rank, len(row) - 1)] for row in choices]
        sums = _score(model, cache, inputs["attention_mask"], start, first, rows)
        for row, found, value in zip(choices, scores, sums, strict=True):
            if rank < len(row):
                found.append(value)
    return scores


def _score(
    model: Any, cache: DynamicCache, mask: Tensor, start: Tensor, first: Tensor, rows: list[Sequence[int]]
) -> list[float]:
    """Score one continuation for each row; leaves the cache as it was."""
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=mask.device)
    real = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=mask.device)
    chances = first[:, None]
    if length > 1:
        # The last token of a row is only predicted. Text has its s on all four axes.
        places = start[:, None] + torch.arange(length - 1, device=mask.device)
        outputs = model(
            input_ids=ids[:, :-1],
            attention_mask=torch.cat([mask, real[:, :-1]], 1),
            position_ids=places.expand(4, -1, -1),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        cache.crop(1 - length)
        chances = torch.cat([chances, outputs.logits.float().log_softmax(-1)], 1)
    found = chances.gather(-1, ids[..., None])[..., 0]
    return [float(value) for value in (found * real).sum(-1).double().tolist()]
