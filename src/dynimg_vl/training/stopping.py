"""When a run stops before its end: on a signal, with a checkpoint; on a loss that is no number, with its batch."""

import logging
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import InputError

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalStop:
    """Listen for SIGINT and SIGTERM while training; the second one ends the process at once.

    Use as a context. `received` is the number of the signal, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "SignalStop":
        self._before = {kind: signal.signal(kind, self._on_signal) for kind in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for kind, handler in self._before.items():
            signal.signal(kind, handler)
        self._before = {}


def outlive_signals(seed_worker: Callable[[int], None] | None, worker_id: int) -> None:
    """Let a process that reads data ignore SIGINT and the first SIGTERM: the training process says when it ends.

    Terminals, SLURM and torchrun signal all processes of a group, and the step under way could not end without data.

    Args:
        seed_worker: what else is done when the process starts.
        worker_id: the number of the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))
    if seed_worker is not None:
        seed_worker(worker_id)


def highest(value: int, device: torch.device) -> int:
    """Give the highest of the values of all processes; every process has to call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    number = torch.tensor(value, device=device)
    torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
    return int(number)


class StopOnSignal(TrainerCallback):
    """Save and stop at the end of a step after a signal: all processes at the same one, whichever got it."""

    def __init__(self, listener: SignalStop) -> None:
        self._listener = listener
        self.stopped_by = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint and for the end."""
        self.stopped_by = highest(self._listener.received, args.device)
        if self.stopped_by:
            control.should_save = control.should_training_stop = True


class StopOnBadLoss(TrainerCallback):
    """End the run before a loss that is NaN or infinite reaches the weights.

    `watch` gets each batch with its loss; the batches of the step are written to `bad_batch_step*_process*.pt` in the
    output folder, to be loaded with `torch.load`.
    """

    def __init__(self) -> None:
        self._step: list[tuple[dict[str, Any], Tensor]] = []

    def watch(self, batch: dict[str, Any], loss: Tensor) -> None:
        """Remember a batch until the step is over."""
        self._step.append((batch, loss.detach()))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Check all losses of the step.

        Raises:
            InputError: where one, of any process, is no number.
        """
        losses = [float(loss) for _, loss in self._step]
        bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        step = state.global_step + 1
        path = Path(str(args.output_dir)) / f"bad_batch_step{step}_process{args.process_index}.pt"
        if bad:
            batches = [{name: _on_cpu(value) for name, value in self._step[index][0].items()} for index in bad]
            torch.save({"step": step, "losses": [losses[index] for index in bad], "batches": batches}, path)
        self._step.clear()
        if bad:
            highest(1, args.device)
            raise InputError(
                f"the loss is {losses[bad[0]]} at step {step}; the batch is in {path}, no weight was changed"
            )
        if highest(0, args.device):
            raise InputError(f"the loss of another process is no number at step {step}; see {path.parent}/bad_batch_*")


def _on_cpu(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _on_cpu(part) for name, part in value.items()}
    return value.cpu() if isinstance(value, Tensor) else value
