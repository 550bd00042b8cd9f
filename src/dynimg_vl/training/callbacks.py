"""Small things that happen at fixed points of a run: lines of the log, the epoch, gradients that are missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .checkpoints import explained


class LogBeforeSaving(TrainerCallback):
    """Log at every checkpoint, so that the steps since the last line of the log are not lost with a resumption."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a line of the log."""
        control.should_log = control.should_log or control.should_save

    # With `save_strategy: epoch`, checkpoints are asked for there.
    on_epoch_end = on_step_end


class LogFile(TrainerCallback):
    """Write each line of the log to `log.jsonl` in the output folder as it comes, for a person to follow.

    What an earlier run logged after the checkpoint from which this one goes on is dropped.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the file with the lines up to the present step."""
        if state.is_world_process_zero:
            rows = [row for row in state.log_history if row.get("step", 0) <= state.global_step]
            with explained("the log", Path(str(args.output_dir))):
                self._path(args).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add a line."""
        if state.is_world_process_zero:
            with explained("the log", Path(str(args.output_dir))), self._path(args).open("a") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")

    @staticmethod
    def _path(args: TrainingArguments) -> Path:
        return Path(str(args.output_dir)) / "log.jsonl"


class EpochSetter(TrainerCallback):
    """Tell sampler and dataset which epoch begins: after a resumption, accelerate does not reach the sampler.

    Args:
        setters: their `set_epoch`.
    """

    def __init__(self, setters: Callable[[], list[Callable[[int], None]]]) -> None:
        self._setters = setters

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Set the epoch."""
        for set_epoch in self._setters():
            set_epoch(int(state.epoch or 0))


class FillGradients(TrainerCallback):
    """Give parameters that got no gradient in a step one of zeros.

    In a step of text alone the vision tower has none in one process, and zeros in several, where it runs on a black
    picture: Adam would skip it here and move it by its momentum there.
    """

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Fill them in."""
        for parameter in model.parameters() if model is not None else ():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
