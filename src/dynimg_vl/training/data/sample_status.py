"""What became of every sample: counted in memory that all worker processes share, reported at the end of a run."""

from collections.abc import Iterator
from pathlib import Path

import torch

from ...errors import InputError

REASONS = (
    "unseen",
    "used",
    "cut",  # longer than the context, trained on up to a turn
    "missing",  # the video file is not there
    "unreadable",  # it is there and cannot be read, or the clip holds no frame
    "empty_answer",
    "special_token",
    "too_long",  # not even its first turn fits the context
)
_FIRST_BROKEN = REASONS.index("missing")
_FILE = "sample_states_{}.pt"


class DataError(InputError):
    """Report that too many samples cannot be used.

    A loader raises errors of its workers anew with their traceback for a message, whose last line is the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].rpartition("DataError: ")[2])


class SampleStatus:
    """Keep one byte per sample: what became of it when it was last asked for.

    Args:
        num_samples: of the whole data.
        allowed_share: of the samples that may turn out broken.
    """

    def __init__(self, num_samples: int, allowed_share: float) -> None:
        self._states = torch.zeros(num_samples, dtype=torch.uint8).share_memory_()
        self.allowed_share = allowed_share

    @property
    def states(self) -> torch.Tensor:
        """Give the state of every sample (num_samples,) uint8: its place in `REASONS`."""
        return self._states

    def write(self, checkpoint: Path, rank: int) -> None:
        """Write what this process knows beside a checkpoint."""
        torch.save(self._states.clone(), checkpoint / _FILE.format(rank))

    def read(self, checkpoint: Path, rank: int, num_processes: int) -> None:
        """Take over what an earlier part of the run wrote; what it could not use counts until it is used after all.

        The first process also takes what others knew that are no more. A file about other data tells nothing.
        """
        known = [int(path.stem.rpartition("_")[2]) for path in checkpoint.glob(_FILE.format("*"))]
        for other in known:
            if other == rank or (rank == 0 and other >= num_processes):
                states = torch.load(checkpoint / _FILE.format(other), map_location="cpu", weights_only=True)
                if states.shape == self._states.shape and states.dtype == self._states.dtype:
                    torch.maximum(self._states, states, out=self._states)

    def combined(self, states: torch.Tensor) -> "SampleStatus":
        """Give what became of the samples in all of several training processes, from their states (.., num_samples).

        A sample that one process could not use is broken, whatever the others made of it.
        """
        result = SampleStatus(len(self._states), self.allowed_share)
        result._states.copy_(states.reshape(-1, len(self._states)).amax(0))
        return result

    def mark(self, index: int, reason: str) -> None:
        """Note what became of a sample."""
        self._states[index] = REASONS.index(reason)

    def reason(self, index: int) -> str:
        """Give what became of a sample."""
        return REASONS[int(self._states[index])]

    def counts(self) -> dict[str, int]:
        """Count the samples by what became of them; reasons that did not occur are left out."""
        numbers = torch.bincount(self._states.long(), minlength=len(REASONS)).tolist()
        return {reason: number for reason, number in zip(REASONS, numbers, strict=True) if number}

    @property
    def num_broken(self) -> int:
        """Give the number of distinct samples that could not be used."""
        return int((self._states >= _FIRST_BROKEN).sum())

    def broken(self) -> Iterator[tuple[int, str]]:
        """Go through the samples that could not be used: index and reason."""
        for index in torch.nonzero(self._states >= _FIRST_BROKEN).flatten().tolist():
            yield index, self.reason(index)

    @property
    def is_too_broken(self) -> bool:
        """Tell whether more than the allowed share of all samples could not be used."""
        return self.num_broken > self.allowed_share * len(self._states)
