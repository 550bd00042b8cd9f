"""The order of samples: the same for a seed and an epoch, whatever came before and however many processes there are."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

GROUPS = 50
"""Batches that are sorted together: enough to find samples of like length, few enough to stay random."""


class EpochSampler(Sampler[int]):
    """Shuffle samples anew in every epoch, with samples of like length in one batch where lengths are given.

    The sampler of transformers draws from the global generator: after a resumption, or with another number of
    processes, the order is another.

    Args:
        num_samples: of the data.
        batch_size: of one step over all processes and accumulated parts, so that they may divide it as they like.
        seed: together with the epoch it decides the order.
        lengths: gives (num_samples,) tokens of the coming epoch; None for no grouping.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, lengths: Callable[[], Sequence[int]] | None = None
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.lengths = lengths
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.num_samples, generator=generator)
        if self.lengths is not None:
            order = self._grouped(order, torch.as_tensor(self.lengths()), generator)
        return iter(order.tolist())

    def _grouped(self, order: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        batches: list[torch.Tensor] = []
        for chunk in order.split(self.batch_size * GROUPS):
            longest_first = lengths[chunk].argsort(descending=True, stable=True)
            batches += chunk[longest_first].split(self.batch_size)
        # A batch that is not full stays at the end, or it would shift the borders of all others.
        rest = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        shuffled = [full[index] for index in torch.randperm(len(full), generator=generator).tolist()]
        return torch.cat([*shuffled, *rest]) if batches else order
