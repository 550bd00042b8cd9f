"""Questions of the motion world packed behind one shared video: L positions for each of B clips."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...motion.questions import Exchange
from ...motion.wordings import ALL_FAMILIES
from .targets import IGNORE

_MAX_CACHED = 20_000
"""Tokenized exchanges to keep: with options in any order, few questions come twice."""


@dataclass
class PackedText:
    """Hold questions and answers behind a video: ids, labels (-100: no loss), block, offset, family: (B, L).

    `block` tells exchanges apart that do not see each other (from 1; padding: -1), `offset` counts from the end of the
    head, `family` is that of the exchange.
    """

    ids: Tensor
    labels: Tensor
    block: Tensor
    offset: Tensor
    family: Tensor

    def mask(self, num_shared: int) -> Tensor:
        """Allow each token the `num_shared` positions before the text and the earlier tokens of its own block.

        Returns:
            (B, 1, num_shared + L, num_shared + L) bool; shared positions see each other in order.
        """
        num, length = self.ids.shape
        block = torch.cat((self.block.new_zeros(num, num_shared), self.block), 1)
        causal = self.block.new_ones(num_shared + length, num_shared + length, dtype=torch.bool).tril()
        same = (block[:, :, None] == block[:, None]) | (block[:, None] == 0)
        return (causal & same)[:, None]


class Packer:
    """Turn exchanges into packed text.

    Args:
        tokenizer: of the model.
        chat_share: how many of the clips have their exchanges one after the other, as turns of a chat that see each
            other, instead of side by side.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_share: float = 0.15) -> None:
        self.tokenizer, self.chat_share = tokenizer, chat_share
        self._cache: dict[tuple[str, str, bool], tuple[list[int], int]] = {}

    def pack(self, exchanges: list[list[Exchange]], rng: np.random.Generator) -> PackedText:
        """Pack the exchanges of each clip; where they stand side by side, a mask keeps them apart."""
        rows = [self._row(clip, bool(rng.random() < self.chat_share)) for clip in exchanges]
        # Few different lengths: the CPU kernels are compiled anew, for a tenth of a second each, for every shape.
        longest = -(-max(len(row[0]) for row in rows) // 32) * 32
        empty = (0, IGNORE, -1, 0, -1)
        padded = [
            torch.tensor([row[part] + [value] * (longest - len(row[part])) for row in rows])
            for part, value in enumerate(empty)
        ]
        return PackedText(*padded)

    def _row(self, clip: list[Exchange], is_chat: bool) -> tuple[list[int], ...]:
        ids: list[int] = []
        labels: list[int] = []
        block: list[int] = []
        offset: list[int] = []
        family: list[int] = []
        for number, exchange in enumerate(clip, start=1):
            tokens, cut = self._tokens(exchange, is_chat and number > 1)
            start = len(ids) if is_chat else 0
            ids += tokens
            labels += [IGNORE] * cut + tokens[cut:]
            block += [1 if is_chat else number] * len(tokens)
            offset += range(start, start + len(tokens))
            family += [ALL_FAMILIES.index(exchange.family)] * len(tokens)
        return ids, labels, block, offset, family

    def _tokens(self, exchange: Exchange, is_later_turn: bool) -> tuple[list[int], int]:
        # The tokens of one exchange and how many come before the answer.
        key = exchange.question, exchange.answer, is_later_turn
        if key not in self._cache:
            if len(self._cache) >= _MAX_CACHED:
                self._cache.clear()
            opening = "\n<|im_start|>user\n" if is_later_turn else ""
            question = f"{opening}{exchange.question}<|im_end|>\n<|im_start|>assistant\n"
            cut = len(self.tokenizer(question)["input_ids"])
            self._cache[key] = self.tokenizer(f"{question}{exchange.answer}<|im_end|>")["input_ids"], cut
        return self._cache[key]
