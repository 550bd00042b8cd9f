"""Where the positions of a continued conversation go on: kept on the cache, never on the model.

When only new token ids come with a filled cache, the s of the first one cannot be told from the ids, nor whether a
DynImg is under way. So for every place in the cache its s is kept, and how many visual tokens of its DynImg are in by
then: a cache may be cropped anywhere, and go on within a DynImg. Steps of decoding are not noted: where less is kept
than the cache holds, text went on. A model that remembered it itself would mix up conversations and threads.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..errors import InputError

_ATTRIBUTE = "dynimg_positions"
"""On a cache: int64 (2, B, places), s and the number of visual tokens of the DynImg under way (0: none is)."""


class Start(NamedTuple):
    """Say where the first of some tokens stands: its s (B,), and the visual tokens (B,) of a DynImg under way."""

    sequence: Tensor
    place: Tensor


def is_continued(cache: Cache | None) -> bool:
    """Tell whether tokens went before the present ones."""
    return cache is not None and int(cache.get_seq_length()) > 0


def has_notes(cache: Cache | None) -> bool:
    """Tell whether a DynImg model has filled a cache."""
    return getattr(cache, _ATTRIBUTE, None) is not None


def note_positions(
    cache: Cache | None, position_ids: Tensor, is_video: Tensor, start: Start | None, count: int, has_video: bool
) -> None:
    """Keep on a cache where its places are, after some tokens went in.

    Args:
        cache: the cache, which holds these tokens by now.
        position_ids: (4 or 5, B, L), s last.
        is_video: (B, L), which of them are visual.
        start: what `first_position` said of them.
        count: visual tokens of a DynImg.
        has_video: whether any of them is; known to the caller without waiting for the GPU.
    """
    # Compiled decoding adds text only, which needs no note.
    if cache is None or position_ids.ndim != 3 or torch.compiler.is_compiling():
        return
    batch, length = is_video.shape
    known = getattr(cache, _ATTRIBUTE, None)
    past = int(cache.get_seq_length()) - length
    if length == 1 and known is not None:
        if past < known.shape[-1]:  # it was cropped
            setattr(cache, _ATTRIBUTE, known[..., :past])
        if not has_video:
            return
    sequence = position_ids[-1].long().cummax(-1).values  # what is padded on the right has s = 0
    place = is_video.long().cumsum(-1)
    if start is not None:
        sequence = torch.maximum(sequence, start.sequence.long()[:, None] - 1)
        place = place + start.place[:, None]
    new = torch.stack([sequence, place.remainder(count)])
    before = _up_to(known, past, batch, new)
    setattr(cache, _ATTRIBUTE, torch.cat([before, new], -1))


def _up_to(known: Tensor | None, past: int, batch: int, like: Tensor) -> Tensor:
    # What is known of the first places, with text in those of which nothing is.
    if known is None or not known.shape[-1]:
        sequence = torch.arange(past, device=like.device).expand(batch, -1)
        return torch.stack([sequence, torch.zeros_like(sequence)]).to(like)
    known = known[..., :past].to(like).repeat_interleave(batch // known.shape[1], 1)
    num_missing = past - known.shape[-1]
    if not num_missing:
        return known
    sequence = known[0, :, -1:] + 1 + torch.arange(num_missing, device=like.device)
    return torch.cat([known, torch.stack([sequence, torch.zeros_like(sequence)])], -1)


def first_position(
    cache: Cache | None, is_video: Tensor, attention_mask: Tensor | None, is_wanted: bool = True
) -> Start | None:
    """Find where the first of these tokens ((B, L)) stands; None where nothing went before.

    Where `is_wanted` is false, since there is text only and its coordinates are known, None is given for a step of
    decoding, which is not noted, and for all that is compiled, which cannot ask the cache.

    Raises:
        InputError: where the cache belongs to a batch of another size.
    """
    if not is_wanted and (is_video.shape[1] == 1 or torch.compiler.is_compiling()):
        return None
    if not is_continued(cache):
        return None
    batch, length = is_video.shape
    past = int(cache.get_seq_length())  # type: ignore[union-attr]  # it is continued
    nothing = torch.zeros(batch, dtype=torch.long, device=is_video.device)
    known = getattr(cache, _ATTRIBUTE, None)
    if known is None:
        # A cache that another model filled: text alone.
        if attention_mask is None or attention_mask.shape[1] == length:
            return Start(torch.full((batch,), float(past), device=is_video.device), nothing)
        return Start(attention_mask[:, :-length].sum(-1).to(is_video.device).float(), nothing)
    if batch % known.shape[1]:
        raise InputError(f"the cache was filled with a batch of {known.shape[1]}, now there are {batch} rows")
    rank = min(past, known.shape[-1])
    sequence, place = known[..., rank - 1].to(is_video.device).repeat_interleave(batch // known.shape[1], 1)
    num_missing = past - rank
    return Start((sequence + 1 + num_missing).float(), nothing if num_missing else place)
