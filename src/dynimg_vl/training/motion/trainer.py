"""Train a small DynImg model on the motion world, from nothing, in resumable stages, on a CPU.

A recipe (`recipes/motion_cpu.yaml`) lists the stages; `MotionTrainer.run` goes through them, writes a checkpoint every
few minutes and when it is interrupted, and takes up where the last checkpoint left off.
"""

import json
import logging
import math
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from ...errors import InputError
from ...model import DynImgConfig, DynImgForConditionalGeneration
from ...motion.textures import PictureBank
from ...motion.world import new_bank
from . import fast_attention
from .data import BatchPlan, MotionBatch, MotionDataset
from .losses import MotionHeads
from .step import LossWeights, MotionStep, exact_matches, head_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """Hold one stage: how many steps of what batches, the losses, and how far the learning rate falls."""

    name: str
    steps: int
    batch: BatchPlan
    losses: LossWeights = field(default_factory=LossWeights)
    warmup_steps: int = 60
    rate: float = 1.0
    constant_share: float = 1.0
    final_rate: float = 0.02

    def rate_at(self, step: int) -> float:
        """Give the factor on all learning rates: warm-up, constant, then linear to `final_rate`."""
        done = step / self.steps
        falling = 1.0
        if done > self.constant_share:
            falling = 1 - (1 - self.final_rate) * (done - self.constant_share) / (1 - self.constant_share)
        return self.rate * min(1.0, (step + 1) / self.warmup_steps) * falling


@dataclass(frozen=True)
class MotionRecipe:
    """Hold everything that decides a training run; `from_file` reads it from YAML."""

    seed: int
    num_pictures: int
    model: dict[str, Any]
    vision: dict[str, Any]
    text: dict[str, Any]
    stages: tuple[Stage, ...]
    muon_lr: float = 1e-2
    adam_lr: float = 1e-3
    theta_lr: float = 5e-3
    weight_decay: float = 0.05
    position_std: float = 0.5
    clip_norm: float = 1.0

    @classmethod
    def from_file(cls, path: Path) -> "MotionRecipe":
        """Read a recipe.

        Raises:
            InputError: where the file is no YAML or has unknown fields.
        """
        try:
            values = yaml.safe_load(path.read_text())
            stages = tuple(
                Stage(batch=BatchPlan(**stage.pop("batch")), losses=LossWeights(**stage.pop("losses", {})), **stage)
                for stage in values.pop("stages")
            )
            return cls(stages=stages, **values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            raise InputError(f"{path}: not a training recipe: {error}") from error


def build_model(recipe: MotionRecipe, tokenizer: PreTrainedTokenizerBase) -> DynImgForConditionalGeneration:
    """Make a model with random weights: the same classes as any other DynImg model, only small."""
    vocab_size = -(-len(tokenizer) // 64) * 64
    end, video = (int(tokenizer.get_vocab()[token]) for token in ("<|im_end|>", "<|video_pad|>"))
    text = Qwen2Config(
        vocab_size=vocab_size,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        **recipe.text,
    )
    config = DynImgConfig(
        vision_config=SiglipVisionConfig(vision_use_head=False, **recipe.vision),
        text_config=text,
        video_token_id=video,
        **recipe.model,
    )
    model = DynImgForConditionalGeneration(config)
    # 0.02 to 0.09 is usual; content is easier to tell from place with more (all runs that learnt motion had 0.5).
    nn.init.normal_(model.model.vision_tower.embeddings.position_embedding.weight, std=recipe.position_std)
    return model


def build_optimizers(
    recipe: MotionRecipe, model: nn.Module, heads: nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Split the parameters: Muon for the matrices of all layers, AdamW for the rest, theta at its own rate."""
    if not hasattr(torch.optim, "Muon"):
        raise InputError("training the motion model needs torch.optim.Muon: install torch 2.9 or later")
    matrices: list[nn.Parameter] = []
    theta: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("axis_theta"):
            theta.append(parameter)
        elif parameter.ndim == 2 and "embed" not in name and "lm_head" not in name:
            matrices.append(parameter)
        else:
            (plain if parameter.ndim > 1 else undecayed).append(parameter)
    undecayed += list(heads.parameters())
    muon = torch.optim.Muon(
        matrices, lr=recipe.muon_lr, momentum=0.95, weight_decay=recipe.weight_decay, adjust_lr_fn="original"
    )
    adam = torch.optim.AdamW(
        [
            {"params": plain, "weight_decay": recipe.weight_decay},
            {"params": undecayed, "weight_decay": 0.0},
            {"params": theta, "weight_decay": 0.0, "lr": recipe.theta_lr},
        ],
        lr=recipe.adam_lr,
        betas=(0.9, 0.98),
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return muon, adam


class MotionTrainer:
    """Run a recipe.

    Args:
        recipe: what to do.
        folder: for `checkpoint.pt` and `log.jsonl`.
        tokenizer: of the model.
        num_threads: torch threads of the training process.
        bank: pictures instead of procedural ones; they are not refreshed.
        num_workers: processes that draw batches ahead.
    """

    def __init__(
        self,
        recipe: MotionRecipe,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        num_threads: int = 1,
        bank: PictureBank | None = None,
        num_workers: int = 1,
    ) -> None:
        torch.set_num_threads(num_threads)
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder, self.tokenizer = recipe, folder, tokenizer
        self.bank, self.num_workers = bank, num_workers
        self.model = build_model(recipe, tokenizer)
        self.model.set_attn_implementation(fast_attention.NAME)
        self.heads = MotionHeads(recipe.vision["hidden_size"])
        self.optimizers = build_optimizers(recipe, self.model, self.heads)
        self.stage_index, self.step = 0, 0
        self._stop = False
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        """Give the file that holds the state of the run."""
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write the state; the old file stays until the new one is complete."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "stage_index": self.stage_index,
            "step": self.step,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def resume(self) -> bool:
        """Take up the checkpoint of the folder, if there is one."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.stage_index, self.step = state["stage_index"], state["step"]
        return True

    def start_from(self, path: Path, stage: str | None = None) -> None:
        """Take model and heads, but not the optimizers, of another run's checkpoint, and begin with the named stage.

        Raises:
            InputError: where the recipe has no such stage.
        """
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"], strict=False)
        if stage is not None:
            names = [each.name for each in self.recipe.stages]
            if stage not in names:
                raise InputError(f"the recipe has no stage {stage}; it has {', '.join(names)}")
            self.stage_index = names.index(stage)

    def run(self, save_seconds: float = 120.0, log_steps: int = 50, evaluate_steps: int = 500) -> bool:
        """Train to the end of the recipe; give False where SIGINT or SIGTERM ended it early.

        Args:
            save_seconds: between checkpoints.
            log_steps: between lines of the log.
            evaluate_steps: between validations, which also end each stage; 0 for none.
        """
        old = {kind: signal.signal(kind, self._on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            bank = self.bank or new_bank(self.recipe.num_pictures, self.recipe.seed + 1_000 * self.stage_index)
            while self.stage_index < len(self.recipe.stages) and not self._stop:
                self._run_stage(bank, save_seconds, log_steps, evaluate_steps)
        finally:
            for kind, handler in old.items():
                signal.signal(kind, handler)
        self.save()
        return not self._stop

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop = True

    def _batches(self, stage: Stage, bank: PictureBank) -> DataLoader:
        dataset = MotionDataset(
            stage.batch,
            self.model.config.layout,
            bank,
            stage.steps,
            self.recipe.seed * 97 + self.stage_index,
            self.tokenizer if stage.losses.text else None,
            refresh=self.bank is None,
        )
        rest = Subset(dataset, range(self.step, stage.steps))
        ahead: dict[str, Any] = {"prefetch_factor": 4} if self.num_workers else {}
        return DataLoader(rest, batch_size=None, num_workers=self.num_workers, worker_init_fn=_settle_worker, **ahead)

    def _run_stage(self, bank: PictureBank, save_seconds: float, log_steps: int, evaluate_steps: int) -> None:
        stage = self.recipe.stages[self.stage_index]
        step = MotionStep(self.model, self.heads, head_ids(self.tokenizer, self._num_tokens), stage.losses)
        averages = Averages()
        started = saved = time.monotonic()
        first = self.step
        for batch in self._batches(stage, bank):
            rate = stage.rate_at(self.step)
            averages.add(self._update(step, batch, rate), len(batch.pixels))
            self.step += 1
            if self.step % log_steps == 0:
                seconds = (time.monotonic() - started) / (self.step - first)
                entry = {"stage": stage.name, "step": self.step, "step_seconds": round(seconds, 3)}
                self._log({**entry, **averages.take()})
            if evaluate_steps and (self.step % evaluate_steps == 0 or self.step == stage.steps):
                self._log({"stage": stage.name, "step": self.step, "validation": self.evaluate(stage)})
            if time.monotonic() - saved > save_seconds:
                self.save()
                saved = time.monotonic()
            if self._stop:
                return
        self.save()
        (self.folder / f"{stage.name}.pt").write_bytes(self.checkpoint.read_bytes())
        self.stage_index, self.step = self.stage_index + 1, 0

    @property
    def _num_tokens(self) -> int:
        return self.model.config.layout.tokens_per_dynimg

    def _update(self, step: MotionStep, batch: MotionBatch, rate: float) -> dict[str, float]:
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            losses, _ = step.losses(batch)
        total = step.total(losses)
        if not math.isfinite(float(total.detach())):
            raise FloatingPointError(f"the loss is {float(total.detach())} at step {self.step}: {losses}")
        total.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def evaluate(self, stage: Stage, num_batches: int = 10) -> dict[str, float]:
        """Measure losses and exact matches by family on clips over pictures that training never sees."""
        bank = new_bank(120, 987_654)
        dataset = MotionDataset(
            stage.batch,
            self.model.config.layout,
            bank,
            num_batches,
            987_654,
            self.tokenizer if stage.losses.text else None,
            refresh=False,
            chat_share=0.0,
            vary=False,
        )
        step = MotionStep(self.model, self.heads, head_ids(self.tokenizer, self._num_tokens), stage.losses)
        averages = Averages()
        counts: dict[str, tuple[int, int]] = {}
        self.model.eval()
        for index in range(num_batches):
            batch = dataset[index]
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                losses, correct = step.losses(batch)
            averages.add({name: float(loss) for name, loss in losses.items()}, 1)
            if batch.text is not None and correct is not None:
                for family, (right, total) in exact_matches(correct, batch.text).items():
                    old = counts.get(family, (0, 0))
                    counts[family] = (old[0] + right, old[1] + total)
        return {
            **averages.take(),
            **{f"exact_{name}": round(right / total, 3) for name, (right, total) in counts.items()},
        }

    def _log(self, entry: dict[str, Any]) -> None:
        logger.info("%s", entry)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


class Averages:
    """Average named values, weighted by the size of what they were measured on."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, values: dict[str, float], weight: float) -> None:
        """Add one set of values."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * weight
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def take(self) -> dict[str, float]:
        """Give the means and start over."""
        means = {name: round(total / self._weights[name], 4) for name, total in self._sums.items()}
        self._sums, self._weights = {}, {}
        return means


def _settle_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # A signal to the whole group is for the trainer, which saves its state first; workers end with it.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
