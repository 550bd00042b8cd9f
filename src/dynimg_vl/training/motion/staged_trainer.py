"""The trainer on the motion world: the project's own, with a schedule of stages and losses that are logged by name."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from ...errors import InputError
from ...model.foreign import one_line, reading
from ..trainer import DynImgTrainer
from .export import export_model
from .losses import MotionHeads
from .settings import Schedule
from .staged_data import ValidationBatches, as_sample
from .step import MotionLearner, exact_matches, head_ids

HEADS_FILE = "motion_heads.safetensors"
"""Beside the model in a checkpoint: the training-only heads."""
WEIGHTS_FILE = "model.safetensors"


def build_learner(model: Any, tokenizer: PreTrainedTokenizerBase, path: str | None = None) -> MotionLearner:
    """Put a model and heads together.

    Args:
        model: the model.
        tokenizer: of the model.
        path: the folder that the model is from; heads that lie beside it and fit are taken up.
    """
    heads = MotionHeads(model.config.vision_config.hidden_size, model.config.num_prompt_frames)
    file = None if path is None else Path(path) / HEADS_FILE
    if file is not None and file.is_file():
        own = heads.state_dict()
        with reading(f"the heads in {file} cannot be loaded"):
            found = load_file(file)
        # The world may have got more kinds of motion since.
        heads.load_state_dict({**own, **{name: v for name, v in found.items() if fits(v, own.get(name))}})
    num_tokens = model.config.num_dynimgs * model.config.layout.tokens_per_dynimg
    return MotionLearner(model, heads, head_ids(tokenizer, num_tokens))


def fits(value: Tensor, place: Tensor | None) -> bool:
    """Tell whether a saved tensor can be put into a place."""
    return place is not None and value.shape == place.shape


class StagedTrainer(DynImgTrainer):
    """Train a `MotionLearner` through the stages of a schedule.

    Args:
        model: the learner.
        args: the arguments of the run.
        schedule: the stages.
        validation: what `evaluate` measures on.
        **kwargs: handed on to `DynImgTrainer`.
    """

    # A part that a stage does not use stays as it is; zeros would let weight decay shrink it.
    fills_gradients = False

    def __init__(
        self,
        model: nn.Module,
        args: Any,
        *,
        schedule: Schedule,
        validation: ValidationBatches,
        **kwargs: Any,
    ) -> None:
        self.schedule, self.validation = schedule, validation
        self._averages = Averages()
        self._last_log: tuple[int, float] | None = None
        super().__init__(model, args, eval_dataset=validation, **kwargs)
        self.add_callback(EvaluateAtStageEnd(schedule))

    @property
    def learner(self) -> MotionLearner:
        """Give the learner out of whatever the trainer has wrapped around it."""
        learner: Any = self.accelerator.unwrap_model(self.model)
        return learner

    # --- the step ------------------------------------------------------------------------------------------------

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Let the stages decide the learning rates."""
        if self.lr_scheduler is None:
            chosen: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = LambdaLR(chosen, self.schedule.rate_at)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss and note its parts."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self._averages.add(outputs["losses"], len(inputs["pixels"]))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the stage, the losses by name and the seconds that a step took beside the loss."""
        if "loss" in logs:
            step, now = self.state.global_step, time.monotonic()
            index, _ = self.schedule.locate(max(step - 1, 0))
            # Every process logs at the same steps, and each of them saw batches of its own.
            logs = {**logs, "stage": index + 1, **self._averages.take(self.accelerator.reduce)}
            if self._last_log is not None and step > self._last_log[0]:
                logs["step_seconds"] = round((now - self._last_log[1]) / (step - self._last_log[0]), 4)
            self._last_log = step, now
        super().log(logs, *args, **kwargs)

    # --- validation ----------------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Measure losses and exact matches by family on clips over pictures that training never sees.

        The batches are those of the present stage. Every process measures all of them.
        """
        index, _ = self.schedule.locate(max(self.state.global_step - 1, 0))
        stage = self.schedule.stages[index]
        averages, counts = Averages(), dict[str, tuple[int, int]]()
        began = time.monotonic()
        learner: Any = self.model
        learner.eval()
        lessons = self.validation.of(stage)
        for number in range(len(self.validation)):
            batches = [lesson[number] for lesson in lessons]
            batch = batches[0]
            with torch.no_grad():
                inputs: Any = self._prepare_inputs(as_sample(batches, stage))
                outputs = learner(**inputs)
            averages.add(outputs["losses"], 1)
            if batch.text is not None:
                for family, (right, total) in exact_matches(outputs["correct"].cpu(), batch.text).items():
                    old = counts.get(family, (0, 0))
                    counts[family] = (old[0] + right, old[1] + total)
        learner.train()
        found = {f"{name}_loss": value for name, value in averages.take().items()}
        found |= {f"exact_{name}": round(right / total, 4) for name, (right, total) in sorted(counts.items())}
        if counts:
            found["exact"] = round(sum(right for right, _ in counts.values()) / sum(n for _, n in counts.values()), 4)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self._last_log is not None:  # not part of what a step takes
            self._last_log = self._last_log[0], self._last_log[1] + time.monotonic() - began
        return metrics

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # A checkpoint is a model folder like any other, with the heads beside it.
        folder = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            learner = self.learner
            learner.model.save_pretrained(folder)
            save_file(
                {name: value.contiguous() for name, value in learner.heads.state_dict().items()}, folder / HEADS_FILE
            )
            processor: Any = self.processing_class
            processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        learner, folder = self.learner, Path(resume_from_checkpoint)
        try:
            report = learner.model.load_state_dict(load_file(folder / WEIGHTS_FILE), strict=False)
            learner.heads.load_state_dict(load_file(folder / HEADS_FILE))
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"{folder} is no checkpoint of this model; choose another output_dir: {one_line(error)}"
            ) from error
        tied = set(getattr(learner.model, "all_tied_weights_keys", None) or ())
        if lost := sorted({*report.unexpected_keys, *(set(report.missing_keys) - tied)}):
            raise InputError(f"{folder} is no checkpoint of this model: {lost[0]}; choose another output_dir")

    def write_model(self, folder: Path) -> None:
        """Write the finished model in half precision, ready to answer; the learner is of no use afterwards."""
        if self.args.should_save:
            processor: Any = self.processing_class
            export_model(self.learner.model, processor.tokenizer, folder)


class EvaluateAtStageEnd(TrainerCallback):
    """Ask for a validation at the end of each stage, where the run has validations."""

    def __init__(self, schedule: Schedule) -> None:
        self._ends = set(schedule.ends)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for it."""
        if args.eval_strategy != "no" and state.global_step in self._ends:
            control.should_evaluate = True


class Averages:
    """Average named values, weighted by the size of what they were measured on."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: dict[str, Tensor], weight: float) -> None:
        """Add one set of values; nothing waits for a device."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value.detach() * weight
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def take(self, reduce: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Give the means and start over; `reduce` adds up what several processes have, sums and weights (2, n)."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).float()
        both = torch.stack((sums, sums.new_tensor(list(self._weights.values()))))
        if reduce is not None:
            both = reduce(both)
        means = dict(zip(self._sums, (both[0] / both[1]).tolist(), strict=True))
        self._sums, self._weights = {}, {}
        return {name: round(value, 4) for name, value in means.items()}
