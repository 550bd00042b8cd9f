"""The trainer of transformers, with theta apart, checkpoints whole or not at all, and an order that can be resumed.

A checkpoint is written into `.partial` and moved to its place when it is complete, so that nothing that was cut off
while being written is ever taken up.
"""

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer

from ..errors import InputError
from ..model.rotary import DynImgRotaryEmbedding
from .answer_logits import at_answers
from .arguments import MUON, DynImgTrainingArguments
from .callbacks import EpochSetter, FillGradients, LogBeforeSaving, LogFile
from .checkpoints import PARTIAL, discard_partial, explained, publish, rotate
from .optimizers import MuonWithAdamW
from .parameter_groups import choose_again, chosen_values, parameter_groups, theta_sizes
from .sampling import EpochSampler
from .stopping import SignalStop, StopOnBadLoss, StopOnSignal, outlive_signals

logger = logging.getLogger(__name__)


class DynImgTrainer(Trainer):
    """Train a DynImg model; see `run.train` for the way from a recipe to here.

    Args:
        model: the model, or the PEFT model around it.
        args: the arguments of the run.
        listener: what a signal is noticed by; None for none.
        **kwargs: handed on to transformers' `Trainer`: datasets, collator, processor.
    """

    args: DynImgTrainingArguments
    fills_gradients = True
    """Whether a parameter without gradient gets zeros, see `FillGradients`."""

    def __init__(
        self, model: nn.Module, args: DynImgTrainingArguments, listener: SignalStop | None = None, **kwargs: Any
    ) -> None:
        self._sampler: EpochSampler | None = None
        self._run_folder: str | None = None
        self._chosen: list[dict[str, Any]] | None = None
        self._bad_loss = StopOnBadLoss()
        self._stop = StopOnSignal(listener or SignalStop())
        super().__init__(model=model, args=args, **kwargs)
        setter = EpochSetter(self._epoch_setters)
        for callback in (self._stop, LogBeforeSaving(), LogFile(), self._bad_loss, setter):
            self.add_callback(callback)
        if self.fills_gradients:
            self.add_callback(FillGradients())

    @property
    def stopped_by(self) -> int:
        """Give the number of the signal that ended the run, 0 where none did."""
        return self._stop.stopped_by

    # --- order of the data ---------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler[int] | None:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        strategy = getattr(self.args, "train_sampling_strategy", "random")
        if strategy not in ("random", "group_by_length"):
            return super()._get_train_sampler(train_dataset)
        lengths: Callable[[], list[int]] | None = None
        if strategy == "group_by_length":
            lengths = getattr(dataset, "lengths", None) or (lambda: [len(item["input_ids"]) for item in dataset])
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        total = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self._sampler = EpochSampler(len(dataset), total, seed, lengths)
        return self._sampler

    def get_train_dataloader(self) -> DataLoader:
        """Build the loader, whose processes outlive a signal to the whole group."""
        loader = super().get_train_dataloader()
        own = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
        own.worker_init_fn = partial(outlive_signals, own.worker_init_fn)
        return loader

    def _epoch_setters(self) -> list[Callable[[int], None]]:
        found = [getattr(each, "set_epoch", None) for each in (self.train_dataset, self._sampler)]
        return [setter for setter in found if setter is not None]

    # --- the step ------------------------------------------------------------------------------------------------

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers looks whether it is at its end after a step only: a run taken up there would do one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimizer, with theta and the projector in groups of their own."""
        if self.optimizer is None:
            self._shard_rotary()
            learner: Any = self.model if model is None else model
            optimizer_class, options = self._optimizer_class(learner)
            groups = parameter_groups(
                learner.named_parameters(),
                self.get_decay_parameter_names(learner),
                weight_decay=self.args.weight_decay,
                learning_rate=self.args.learning_rate,
                axis_theta_learning_rate=self.args.axis_theta_learning_rate,
                projector_learning_rate=self.args.projector_learning_rate,
                muon_learning_rate=self.args.muon_learning_rate,
            )
            self.optimizer = optimizer_class(groups, lr=self.args.learning_rate, **options)
            self._chosen = chosen_values(self.optimizer)
        return self.optimizer

    def _optimizer_class(self, model: Any) -> tuple[Any, dict[str, Any]]:
        if self.args.optim == MUON:
            return MuonWithAdamW, {"betas": (self.args.adam_beta1, self.args.adam_beta2), "eps": self.args.adam_epsilon}
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        if not inspect.isclass(optimizer_class) or {"params", "model", "optimizer_dict"} & set(options):
            raise InputError(
                f"optim {self.args.optim} chooses parameters by itself; take adamw_torch or adamw_torch_fused"
            )
        return optimizer_class, {name: value for name, value in options.items() if name != "lr"}

    def _shard_rotary(self) -> None:
        # Accelerate shards with one precision for all: bfloat16 cannot tell position 257 from 256. What is sharded
        # already it leaves alone.
        if not (self.is_fsdp_enabled and getattr(self.accelerator.state.fsdp_plugin, "fsdp_version", 1) == 2):
            return
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        mesh = getattr(self.accelerator, "torch_device_mesh", None)
        if mesh is not None:
            mesh = mesh[tuple(self.accelerator.parallelism_config.fsdp_dim_names)]
        # Inputs are left as they are: the type of the embeddings decides that of cosine and sine.
        policy = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32, cast_forward_inputs=False)
        learner: Any = self.model
        for module in learner.modules():
            if isinstance(module, DynImgRotaryEmbedding) and not isinstance(module, FSDPModule):
                fully_shard(module, mesh=mesh, mp_policy=policy)

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        shared = PartialState._shared_state
        if self.args.fsdp and shared.get("distributed_type") == DistributedType.MULTI_CPU:
            # Accelerate shards on accelerators only and on CPUs falls back, without a word, to whole copies.
            shared["distributed_type"] = DistributedType.MULTI_GPU
        return super()._build_accelerator_args(**kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the loss; in training, logits only where it looks at them."""
        needs_all = return_outputs or self.compute_loss_func is not None
        if model.training and not needs_all and "labels" in inputs:
            inputs = at_answers(inputs)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run one batch forward and back; its loss is looked at before the weights change."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._bad_loss.watch(inputs, loss)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the size of theta beside the loss."""
        learner: Any = self.model
        super().log({**logs, **theta_sizes(learner)} if "loss" in logs else logs, *args, **kwargs)

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        # Where a checkpoint goes, and where old ones are looked for; while saving, the place of unfinished things.
        return self._run_folder or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        name = f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            discard_partial(folder)
        self.accelerator.wait_for_everyone()
        self._run_folder = os.fspath(folder / PARTIAL)
        try:
            with explained(name, folder):
                self.state.best_global_step = None  # its checkpoint would be noted at the place of unfinished things
                super()._save_checkpoint(model, trial)
                if (status := getattr(self.train_dataset, "status", None)) is not None:
                    status.write(folder / PARTIAL / name, self.args.process_index)
        finally:
            self._run_folder = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            with explained(name, folder):
                publish(folder / PARTIAL / name, folder / name)
                rotate(folder, self.args.save_total_limit)
                discard_partial(folder)
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        # Both states hold the rates of the run that wrote them, and would have their way.
        if checkpoint is not None and self._chosen is not None:
            optimizer: Any = self.optimizer
            choose_again(optimizer, self.lr_scheduler, self._chosen)

    def export(self, name: str = "model", extra: Mapping[str, str] | None = None) -> Path:
        """Write model and processor to a folder inside of the output folder, whole or not at all.

        Args:
            name: of the folder.
            extra: further small files, name and text.

        Raises:
            InputError: where it cannot be written.
        """
        folder = Path(str(self.args.output_dir))
        if self.is_fsdp_enabled:
            # Sharded checkpoints are for resuming; a model is one set of files.
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        with explained(f"the {name}", folder):
            self.write_model(folder / PARTIAL / name)
            if self.args.should_save:
                (folder / PARTIAL / name / "training_args.bin").unlink(missing_ok=True)  # has paths of this machine
                for file_name, text in (extra or {}).items():
                    (folder / PARTIAL / name / file_name).write_text(text)
                publish(folder / PARTIAL / name, folder / name)
                discard_partial(folder)
        self.accelerator.wait_for_everyone()
        return folder / name

    def write_model(self, folder: Path) -> None:
        """Write the finished model and its processor; every process calls this."""
        self.save_model(os.fspath(folder), _internal_call=True)
