"""The share of broken samples in all training processes together: each alone sees only its own."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .dataset import VideoTextDataset


class CheckShareOfAll(TrainerCallback):
    """End the run where the processes together found more broken samples than allowed: at checkpoints and epochs.

    All processes come to these points at the same step, so that they may exchange what they know (a byte per sample)
    and all end together. Between them, each looks at its own samples.

    Args:
        dataset: of this process.
        accelerator: of accelerate, that gathers.
    """

    def __init__(self, dataset: VideoTextDataset, accelerator: Any) -> None:
        self._dataset = dataset
        self._accelerator = accelerator

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check after a checkpoint, so that it is not lost."""
        self.check()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check at the end of an epoch."""
        self.check()

    def check(self) -> None:
        """Gather and check; every process has to call this.

        Raises:
            DataError: in every process, where the share is exceeded.
        """
        if self._accelerator.num_processes > 1:
            status = self._dataset.status
            states = self._accelerator.gather(status.states.to(self._accelerator.device))
            self._dataset.check_share(status=status.combined(states.cpu()))
