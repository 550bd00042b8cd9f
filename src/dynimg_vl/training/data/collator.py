"""From samples to a batch: padded to the right, or several samples packed into a row.

Shapes: B rows, L tokens of the longest, G DynImgs and V videos of the whole batch, S pixels along a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...errors import InputError
from .chat_tokens import NO_LOSS

Item = dict[str, Tensor]


@dataclass(frozen=True)
class Collator:
    """Make a batch of samples; those of text alone may stand among the others.

    Gives `input_ids` and `labels` (B, L), `pixel_values_videos` (G, 3, S, S) and `dynimgs_per_video` (V,) in the order
    of the placeholders, both left out where no sample has a video; and `attention_mask` (B, L), or when packing
    `position_ids` (B, L), token indices that restart at 0 with every sample, by which the model keeps them apart.

    Args:
        pad_token_id: what fills up the shorter rows.
        pack_length: pack samples into as few rows of so many tokens as simple means find; None: one sample a row.
        multiple_of: round L up to a multiple of this.
    """

    pad_token_id: int
    pack_length: int | None = None
    multiple_of: int = 1

    def __call__(self, items: Sequence[Item]) -> dict[str, Tensor]:
        rows = [[item] for item in items] if self.pack_length is None else pack(items, self.pack_length)
        batch = {
            "input_ids": self._stack(rows, "input_ids", self.pad_token_id),
            "labels": self._stack(rows, "labels", NO_LOSS),
        }
        if self.pack_length is None:
            lengths = torch.tensor([len(item["input_ids"]) for item in items])
            batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        else:
            batch["position_ids"] = self._positions(rows, batch["input_ids"].shape[1])
        ordered = [item for row in rows for item in row if "pixel_values_videos" in item]
        for name in ("pixel_values_videos", "dynimgs_per_video") if ordered else ():
            batch[name] = torch.cat([item[name] for item in ordered])
        return batch

    def _stack(self, rows: Sequence[Sequence[Item]], name: str, padding: int) -> Tensor:
        joined = [torch.cat([item[name] for item in row]) for row in rows]
        longest = max(map(len, joined))
        length = -(-longest // self.multiple_of) * self.multiple_of
        stacked = pad_sequence(joined, batch_first=True, padding_value=padding)
        return torch.nn.functional.pad(stacked, (0, length - longest), value=padding)

    def _positions(self, rows: Sequence[Sequence[Item]], length: int) -> Tensor:
        # Padding counts from 0 as well: a sequence of its own, which no sample sees.
        positions = []
        for row in rows:
            lengths = [len(item["input_ids"]) for item in row]
            lengths.append(length - sum(lengths))
            positions.append(torch.cat([torch.arange(number) for number in lengths]))
        return torch.stack(positions)


def pack(items: Sequence[Item], length: int) -> list[list[Item]]:
    """Divide samples among rows of at most `length` tokens: the longest first, each into the first row it fits.

    Raises:
        InputError: where a sample is longer than a row.
    """
    rows: list[list[Item]] = []
    room: list[int] = []
    for item in sorted(items, key=lambda item: -len(item["input_ids"])):
        size = len(item["input_ids"])
        if size > length:
            raise InputError(f"a sample of {size} tokens does not fit a row of {length}; lower max_length")
        place = next((rank for rank, free in enumerate(room) if free >= size), None)
        if place is None:
            rows.append([])
            room.append(length)
            place = len(rows) - 1
        rows[place].append(item)
        room[place] -= size
    return rows
