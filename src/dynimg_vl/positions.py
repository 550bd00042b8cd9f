"""The four coordinates of every token: height, width, time and sequence (Section 3.2, Figure 3).

A text token has the same value on all four axes. A visual token takes h, w and t from a table that all DynImgs of a
model share, so positions are a pure function of the token ids: no grid tensor, no state.

Shapes: B batch, L sequence, K tokens per DynImg.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .errors import InputError
from .layout import DynImgLayout

RopeAxes = Literal["s", "hws", "hwts"]
SequenceStep = Literal["dynimg", "token"]


def layout_coordinates(layout: DynImgLayout, rope_axes: RopeAxes = "hwts") -> Tensor:
    """Tabulate h, w and t of the tokens of one DynImg, row by row over its grid.

    These are `DynImgLayout.coordinates`; with `rope_axes="hws"` the DynImg counts as one image instead: rows, columns
    over the whole grid, no time (the 3-D rows of Table 6).

    Returns:
        float32 (K, 3): columns h, w, t.
    """
    return _coordinate_table(layout, rope_axes).clone()


@lru_cache(maxsize=32)
def _coordinate_table(layout: DynImgLayout, rope_axes: RopeAxes) -> Tensor:
    if rope_axes != "hws":
        return torch.from_numpy(layout.coordinates)
    count = torch.arange(layout.token_grid, dtype=torch.float32)
    return torch.cartesian_prod(count, count, torch.zeros(1))


def dynimg_position_ids(
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    layout: DynImgLayout,
    video_token_id: int,
    rope_axes: RopeAxes = "hwts",
    sequence_step: SequenceStep = "dynimg",
    start: Tensor | None = None,
    start_place: Tensor | None = None,
    token_positions: Tensor | None = None,
) -> Tensor:
    """Compute the coordinates of every token of a batch (Section 3.2).

    All tokens of a DynImg share one s, the next token has s + 1: four DynImgs take 4 positions, not 576.
    `sequence_step="token"` lets s count every token instead, as a pretrained LLM knows it. `rope_axes="s"` is the plain
    1-D position on all axes. Masked tokens get 0 everywhere.

    Args:
        input_ids: (B, L), whole DynImgs: the runs of `video_token_id` are multiples of K long, but for the ends of L.
        attention_mask: (B, L), or (B, past + L) when generation continues; None for all ones.
        layout: the geometry of every DynImg.
        video_token_id: the placeholder of a visual token.
        rope_axes: which axes the model rotates by.
        sequence_step: what moves s forward.
        start: (B,), the s of the first of these tokens, where others went before (a cache). None for 0.
        start_place: (B,), the visual tokens that went before of a DynImg under way. None for 0.
        token_positions: (B, L), the index of each token within its sequence, where several sequences are packed into
            one row: coordinates start over wherever it is 0. Excludes `start`.

    Returns:
        float32 (4, B, L): rows h, w, t, s.

    Raises:
        InputError: where both `start` and `token_positions` are given.
    """
    if start is not None and token_positions is not None:
        raise InputError("packed sequences cannot continue from a cache: give start or token_positions, not both")
    attended = torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask is not None:
        attended = attention_mask[:, -input_ids.shape[-1] :].to(input_ids.device).bool()
    is_video = (input_ids == video_token_id) & attended
    # The place of a visual token in its DynImg. Text tokens get some place, too; they never look it up.
    place = is_video.long().cumsum(-1) - 1
    if start_place is not None:
        place = place + start_place[:, None]
    place = place.remainder(layout.tokens_per_dynimg)
    one_step_per_token = rope_axes == "s" or sequence_step == "token"
    advances = attended if one_step_per_token else attended & ~(is_video & (place > 0))
    sequence = torch.where(attended, _count(advances, start, token_positions), 0)
    if rope_axes == "s":
        return sequence.expand(4, -1, -1).clone()
    table = _coordinate_table(layout, rope_axes).to(input_ids.device)
    space_time = torch.where(is_video, table[place].permute(2, 0, 1), sequence)
    return torch.cat([space_time, sequence[None]])


def _count(advances: Tensor, start: Tensor | None, token_positions: Tensor | None) -> Tensor:
    # s of each token (B, L) from where it moves forward. float32 counts exactly up to 2**24, beyond any context length.
    sequence = advances.long().cumsum(-1) - 1
    if token_positions is not None:
        sequence = sequence - torch.where(token_positions == 0, sequence, 0).cummax(-1).values
    if start is not None:
        sequence = sequence + start.to(sequence)[:, None]
    return sequence.float()
