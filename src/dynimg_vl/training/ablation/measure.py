"""Measure an arm on clips that no run trains on, with its strip as it is and as the controls have it."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...layout import DynImgLayout
from ...model import load_pretrained
from ...motion.plan import KEYFRAME_FAMILIES, MOTION_FAMILIES, WorldPlan
from ...motion.wordings import ALL_FAMILIES
from ...motion.world import new_bank
from ..motion import fast_attention
from ..motion.attention_measure import AttentionMeasure, measure_attention, sees_strip
from ..motion.data import IGNORE, MotionBatch, MotionDataset, View
from ..motion.evaluation import other_order
from ..motion.settings import BatchPlan
from ..motion.staged_trainer import build_learner
from ..motion.step import MotionLearner
from .protocol import TestSettings
from .statistics import macro, sampling_error

CONTROLS = ("shuffled", "repeated", "grey")
"""What is done to the strip of a trained arm; the keyframe stays."""
LOOKERS = ("moving", "still")
LOOKS = ("match", "chance", "place", "strip")
"""What is kept of where keyframe patches look: which of them, and which shares."""
TEST_SEED = 424_242
"""Of clips, questions and pictures; the same for all arms, seeds and tables."""


def measure(checkpoint: Path, plan: WorldPlan, settings: TestSettings, use_cpu: bool) -> dict[str, Any]:
    """Measure the model in a checkpoint.

    Args:
        checkpoint: a folder with a model and its tokenizer.
        plan: of the world.
        settings: on how many clips.
        use_cpu: leave a GPU alone.

    Returns:
        `score` and `sampling_error` on motion (points), `keyframe_score`, `controls` (score by name), `counts` (right
        and all, by family and right answer), `looks` (see `measure_looks`).
    """
    device = "cuda" if torch.cuda.is_available() and not use_cpu else "cpu"
    model, processor = load_pretrained(str(checkpoint), device=device, dtype="float32")
    looks = measure_looks(model, processor, plan, settings)
    if device == "cpu":
        model.set_attn_implementation(fast_attention.NAME)
    learner = build_learner(model.eval(), processor.tokenizer).to(device)
    layout = learner.layout
    batch_plan = BatchPlan(settings.test_batch_size, layout.tokens_per_dynimg, len(plan.families), world=plan)
    bank = new_bank(settings.test_pictures, TEST_SEED)
    dataset = MotionDataset(
        batch_plan,
        learner.view,
        settings.test_batches,
        TEST_SEED,
        processor.tokenizer,
        bank,
        chat_share=0.0,
        vary=False,
        with_targets=False,
    )
    names = ["", *(name for name in CONTROLS if can_disturb(layout, name))]
    counts: dict[str, Any] = {name: defaultdict(lambda: defaultdict(lambda: [0, 0])) for name in names}
    for number in range(len(dataset)):
        batch = dataset[number]
        for name in names:
            generator = torch.Generator().manual_seed(number)
            shown = disturb(batch.pixels, learner.view, name, generator)
            count_answers(learner, batch, shown, processor.tokenizer, counts[name])
    plain = {
        family: {answer: tuple(two) for answer, two in sorted(found.items())} for family, found in counts[""].items()
    }
    return {
        "score": macro(plain, MOTION_FAMILIES),
        "sampling_error": sampling_error(plain, MOTION_FAMILIES),
        "keyframe_score": macro(plain, KEYFRAME_FAMILIES),
        "controls": {name: macro(counts[name], MOTION_FAMILIES) for name in names if name},
        "control_errors": {name: sampling_error(counts[name], MOTION_FAMILIES) for name in names if name},
        "counts": plain,
        "looks": looks,
    }


def measure_looks(model: Any, processor: Any, plan: WorldPlan, settings: TestSettings) -> list[dict[str, Any]] | None:
    """Measure where keyframe patches look on the clips of a world, layer by layer (the mean over heads).

    Args:
        model: of an arm, before or after it is trained.
        processor: that belongs to it.
        plan: of the world.
        settings: on how many clips, over pictures that no run sees.

    Returns:
        Shares of attention as `AttentionMeasure.as_json` has them, or None where the tower never sees a keyframe with a
        strip or no clips are asked for.
    """
    if not settings.attention_clips or not sees_strip(model.config):
        return None
    options = {"num_clips": settings.attention_clips, "batch_size": settings.test_batch_size, "seed": TEST_SEED}
    bank = new_bank(settings.test_pictures, TEST_SEED)
    *_, found = measure_attention(model.eval(), processor, bank=bank, plan=plan, **options)
    assert isinstance(found, AttentionMeasure)
    return [
        {"layer": row["layer"], **{group: {name: row[group][name] for name in LOOKS} for group in LOOKERS}}
        for row in found.as_json()
        if row["head"] is None
    ]


def can_disturb(layout: DynImgLayout, control: str) -> bool:
    """Tell whether a control changes anything: there is a strip, and more than one frame to put in another order."""
    return layout.num_prompt_frames > (0 if control == "grey" else 1)


def disturb(pixels: Tensor, view: View, control: str, generator: torch.Generator) -> Tensor:
    """Change prompt frames as a control asks ("": leave them), composed (G, 3, S, S) or apart (G, 1 + N, 3, S, S).

    Shuffled frames are in an order other than that of time, drawn for each DynImg.
    """
    if not control:
        return pixels
    pixels = pixels.clone()
    places = [tile.slices for tile in view.layout.pixel_tiles[1:]]
    if view.is_apart:
        prompts = pixels[:, 1:]
    else:
        prompts = torch.stack([pixels[:, :, rows, columns] for rows, columns in places], 1)
    count = prompts.shape[1]
    if control == "grey":
        prompts = torch.full_like(prompts, 127)
    elif control == "repeated":
        prompts = prompts[:, count // 2 : count // 2 + 1].expand_as(prompts)
    else:
        orders = torch.stack([other_order(count, generator) for _ in range(len(prompts))])
        prompts = prompts[torch.arange(len(prompts))[:, None], orders]
    if view.is_apart:
        return torch.cat((pixels[:, :1], prompts), 1)
    for rank, (rows, columns) in enumerate(places):
        pixels[:, :, rows, columns] = prompts[:, rank]
    return pixels


def count_answers(
    learner: MotionLearner, batch: MotionBatch, pixels: Tensor, tokenizer: PreTrainedTokenizerBase, counts: Any
) -> None:
    """Add to `counts[family][right answer]` whether each answer is right: every token, as greedy decoding finds."""
    device = next(learner.parameters()).device
    inputs = _moved({**batch.as_inputs(), "pixels": pixels}, device)
    with torch.no_grad():
        _, correct = learner.losses(MotionBatch.from_inputs(inputs))
    assert correct is not None
    assert batch.text is not None
    text, correct = batch.text, correct.cpu()
    for row in range(len(text.ids)):
        for block in range(1, int(text.block[row].max()) + 1):
            wanted = (text.block[row] == block) & (text.labels[row] != IGNORE)
            family = ALL_FAMILIES[int(text.family[row][wanted][0])]
            answer = str(tokenizer.decode(text.labels[row][wanted], skip_special_tokens=True)).strip()
            counts[family][answer][0] += int(bool(correct[row][wanted].all()))
            counts[family][answer][1] += 1


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
