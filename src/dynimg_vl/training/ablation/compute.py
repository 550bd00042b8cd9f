"""What an arm costs: floating-point operations of training on a clip; counted, not timed, so any machine will do."""

from dataclasses import replace
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ...motion.world import new_bank
from ..building import build_model
from ..motion import fast_attention
from ..motion.data import MotionBatch, MotionDataset
from ..motion.staged_trainer import build_learner
from ..recipe import TrainRecipe

_NUM_CLIPS = 2


def flops_per_clip(recipe: TrainRecipe, args: Any) -> float:
    """Count the operations of one training step on a clip of the last stage, forward and backward.

    Attention is written out as matrix products, so that it counts whatever the kernel. Optimizer and drawing are left
    out.
    """
    schedule: Any = recipe.schedule
    stage = schedule.stages[-1]
    model, processor = build_model(recipe.model, None, args)
    model = model.float()
    model.set_attn_implementation(fast_attention.NAME)
    learner = build_learner(model, processor.tokenizer)
    plan = replace(stage.batch, batch_size=_NUM_CLIPS)
    options: dict[str, Any] = {"chat_share": 0.0, "vary": False, "with_targets": False}
    batch: MotionBatch = MotionDataset(plan, learner.view, 1, 0, processor.tokenizer, new_bank(2, 0), **options)[0]
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        losses, _ = learner.losses(batch)
        losses["text"].backward()
    return counter.get_total_flops() / _NUM_CLIPS
