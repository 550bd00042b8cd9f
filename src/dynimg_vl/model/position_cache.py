"""Where the positions of a continued conversation go on: kept on the cache, never on the model.

When only new token ids come with a filled cache, the s of the first one cannot be told from the ids. What is kept per
row is the *offset* between s and the length of the cache: negative, as a DynImg takes one s but K places, and padding
takes places but no s. Text leaves the offset as it is, so it survives cropping a cache and counting on.
A model that remembered it itself would mix up conversations and threads.
"""

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import InputError

_ATTRIBUTE = "dynimg_position_offset"


def is_continued(cache: Cache | None) -> bool:
    """Tell whether tokens went before the present ones."""
    return cache is not None and int(cache.get_seq_length()) > 0


def note_positions(cache: Cache | None, position_ids: Tensor) -> None:
    """Keep on a cache how its next s follows from its length, after these tokens ((4 or 5, B, L)) went in."""
    # Compiled decoding adds text only, which does not change the offset.
    if cache is None or position_ids.ndim != 3 or torch.compiler.is_compiling():
        return
    setattr(cache, _ATTRIBUTE, position_ids[-1, :, -1] + 1 - cache.get_seq_length())


def first_position(cache: Cache | None, is_video: Tensor, attention_mask: Tensor | None) -> Tensor | None:
    """Find the s (B,) of the first of these tokens ((B, L)); None where nothing went before.

    Raises:
        InputError: where the cache belongs to a batch of another size.
    """
    if not is_continued(cache):
        return None
    batch, length = is_video.shape
    past = cache.get_seq_length()  # type: ignore[union-attr]  # it is continued
    offset = getattr(cache, _ATTRIBUTE, None)
    if offset is None:
        # A cache that another model filled: text alone.
        if attention_mask is None or attention_mask.shape[1] == length:
            return torch.full((batch,), float(past), device=is_video.device)
        return attention_mask[:, :-length].sum(-1).to(is_video.device).float()
    if batch % len(offset):
        raise InputError(f"the cache was filled with a batch of {len(offset)}, now there are {batch} rows")
    return offset.to(is_video.device).repeat_interleave(batch // len(offset)) + past
