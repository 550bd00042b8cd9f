"""Batches of the motion world for training: pixels, dense targets, and packed questions.

Shapes: B clips of G DynImgs each, N prompt frames, P patches and K tokens of a DynImg of which some are kept, S pixels
along a side.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ...errors import InputError
from ...layout import DynImgLayout
from ...model.configuration_dynimg import DynImgConfig
from ...motion.paths import motion_labels
from ...motion.plan import ask_planned, sample_planned, sharp
from ...motion.questions import Exchange, ask_rates, clip_facts
from ...motion.render import pixel_points, render, render_points
from ...motion.textures import PictureBank
from ...motion.wordings import FAMILIES
from ...motion.world import Scenes, sample_scenes
from .packing import PackedText, Packer
from .settings import BatchPlan
from .targets import IGNORE, MotionTargets, motion_targets

_DRAWN_PER_ONE = 40
"""Of so many clips, one is taken where it has to hold one object near a given place: 0.35 hold one (no camera)."""


@dataclass(frozen=True)
class View:
    """Say how a model is shown a clip: the geometry of its DynImgs, how many, and `DynImgConfig.prompt_stage`."""

    layout: DynImgLayout
    num_dynimgs: int = 1
    prompt_stage: str = "before"

    @classmethod
    def of(cls, config: DynImgConfig) -> "View":
        """Read it off a model's configuration."""
        return cls(config.layout, config.num_dynimgs, config.prompt_stage)

    @property
    def is_apart(self) -> bool:
        """Tell whether each frame is a picture of its own, and none is composed."""
        return self.prompt_stage == "after"


@dataclass
class MotionBatch:
    """Hold one training batch: pixels (B * G, 3, S, S) uint8, kept tokens (K',) by number in the grid, truth and text.

    Where frames are apart, pixels are (B * G, 1 + N, 3, S, S). Targets are those of the B * G DynImgs, one after the
    other; camera and direction, (B,), and the text are about whole clips.
    """

    pixels: Tensor
    keep_tokens: Tensor
    targets: MotionTargets | None
    camera_id: Tensor
    direction_id: Tensor
    text: PackedText | None

    def as_inputs(self) -> dict[str, Any]:
        """Give the batch as nested dicts of tensors, which any trainer can move to a device."""
        nested = {name: None if part is None else vars(part) for name, part in self._parts().items()}
        return {**vars(self), **nested}

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Any]) -> "MotionBatch":
        """Take `as_inputs` back."""
        batch = cls(**inputs)
        batch.targets = None if batch.targets is None else MotionTargets(**inputs["targets"])
        batch.text = None if batch.text is None else PackedText(**inputs["text"])
        return batch

    def _parts(self) -> dict[str, MotionTargets | PackedText | None]:
        return {"targets": self.targets, "text": self.text}


def prompt_times(num: int, generator: torch.Generator, num_prompt_frames: int = 4) -> Tensor:
    """Draw times (num, N) of prompt frames in units of the gap, half before and half after the keyframe, which is at 0.

    What the selection does on files: evenly spaced candidates put four of them anywhere from (1/4, 3/4) to (1/2, 1) of
    a gap, I-frames lie where they lie (jitter), and the keyframe is not in the middle of the clip (one side longer).
    Where a file has very few I-frames, candidates crowd behind each of them: every fourth clip has times anywhere.
    """
    before = num_prompt_frames // 2
    after = num_prompt_frames - before

    def uniform(low: float, high: float, columns: int = 1) -> Tensor:
        return torch.rand(num, columns, generator=generator) * (high - low) + low

    def side(count: int) -> Tensor:
        return (near + torch.arange(count) * gap) * (2 / max(count, 1))

    near = uniform(0.22, 0.55)
    gap = uniform(0.25, 0.5)
    shift = uniform(-0.15, 0.15)
    spread = torch.randn(num, num_prompt_frames, generator=generator)
    jitter = spread * torch.where(uniform(0, 1) < 0.7, 0.02, 0.07)
    left = (-side(before).flip(1) * (1 + shift) + jitter[:, :before]).clamp(-1.0, -0.06).sort(1).values
    right = (side(after) * (1 - shift) + jitter[:, before:]).clamp(0.06, 1.0).sort(1).values
    anywhere = torch.cat((-uniform(0.06, 1.0, before), uniform(0.06, 1.0, after)), 1).sort(1).values
    return torch.where(uniform(0, 1) < 0.25, anywhere, torch.cat((left, right), 1))


def frame_times(num: int, view: View, generator: torch.Generator) -> Tensor:
    """Draw the times (num, G, 1 + N) of all frames of clips from -1 to 1: keyframe, then prompt frames in time order.

    Keyframes lie in the middles of G equal segments, as `select_frame_groups` has them; prompt frames between a
    keyframe and its neighbours, or the ends of the clip. With one DynImg, the keyframe is about 0.
    """
    count = view.num_dynimgs
    middles = (2 * torch.arange(count) + 1) / count - 1
    bounds = torch.cat((torch.tensor([-1.0]), middles, torch.tensor([1.0])))
    prompts = prompt_times(num * count, generator, view.layout.num_prompt_frames).unflatten(0, (num, count))
    # The keyframe of a file is the nearest candidate to the middle, which may lie beside it.
    beside = (torch.randn(num * count, 1, generator=generator) * 0.03).clamp(-0.08, 0.08).unflatten(0, (num, count))
    reach = torch.where(prompts < 0, (middles - bounds[:-2])[:, None], (bounds[2:] - middles)[:, None])
    return torch.cat((beside / count, prompts * reach), 2) + middles[:, None]


def draw_dynimgs(
    scenes: Scenes,
    bank: PictureBank,
    times: Tensor,
    layout: DynImgLayout,
    keep_tokens: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Render DynImgs (B, 3, S, S) uint8 for frames at `times` (B, 1 + N); tokens that are not kept stay black.

    Prompt frames are drawn at their own size, which costs a tenth of drawing whole frames and shrinking them.
    """
    num, size = len(scenes), layout.image_size
    pixels = torch.zeros(num, 3, size, size)
    cell = size // layout.token_grid
    strip_tokens = torch.cat([tile_tokens(layout, rank) for rank in range(len(layout.tiles))][1:] or [keep_tokens[:0]])
    if bool(torch.isin(strip_tokens, keep_tokens).any()):
        tile = layout.pixel_tiles[1]
        frames = render(scenes, bank, times[:, 1:], (tile.height, tile.width), generator)
        for rank, tile in enumerate(layout.pixel_tiles[1:]):
            rows, columns = tile.slices
            pixels[:, :, rows, columns] = frames[:, rank]
    kept = keep_tokens[torch.isin(keep_tokens, tile_tokens(layout, 0))]
    if len(kept):
        tile = layout.pixel_tiles[0]
        top, left = kept // layout.token_grid, kept % layout.token_grid
        points = pixel_points((tile.height, tile.width)).view(tile.height, tile.width, 2)
        points = points.unflatten(1, (-1, cell)).unflatten(0, (-1, cell)).transpose(1, 2)[top, left]
        drawn = render_points(sharp(scenes), bank.large, times[:, :1], points.flatten(0, 2), tile.width, generator)
        cells = pixels.unflatten(3, (-1, cell)).unflatten(2, (-1, cell))
        cells[:, :, top, :, left] = drawn[:, 0].view(num, len(kept), cell, cell, 3).permute(1, 0, 4, 2, 3)
    return pixels.mul_(255).round_().to(torch.uint8)


def draw_frames(
    scenes: Scenes, bank: PictureBank, times: Tensor, layout: DynImgLayout, generator: torch.Generator
) -> Tensor:
    """Render frames at `times` (B, 1 + N), each at the size of a whole DynImg: (B, 1 + N, 3, S, S) uint8."""
    size = (layout.image_size, layout.image_size)
    if bool(scenes.exposure.any()):
        parts = ((sharp(scenes), times[:, :1]), (scenes, times[:, 1:]))
        frames = torch.cat([render(part, bank, when, size, generator) for part, when in parts], 1)
    else:
        frames = render(scenes, bank, times, size, generator)
    return frames.mul_(255).round_().to(torch.uint8)


def tile_tokens(layout: DynImgLayout, rank: int) -> Tensor:
    """List the tokens of one frame (0: the keyframe) by their number in the grid, row by row."""
    grid = torch.arange(layout.token_grid**2).view(layout.token_grid, layout.token_grid)
    return grid[layout.tiles[rank].slices].flatten()


def choose_tokens(
    layout: DynImgLayout,
    num_keyframe_tokens: int,
    generator: torch.Generator,
    place: Tensor | None = None,
    has_strip: bool = True,
) -> Tensor:
    """Choose some keyframe tokens and all of the strip, or none of it, in the order of the grid.

    Those of the keyframe are any, or with `place` (2,), in x and y of the screen, the nearest to that.
    """
    key = tile_tokens(layout, 0)
    if place is None:
        order = torch.randperm(len(key), generator=generator)
    else:
        tile = layout.tiles[0]
        middles = pixel_points((tile.height, tile.width))
        order = ((middles - place) * torch.tensor([tile.width, tile.height])).square().sum(1).argsort()
    chosen = key[order[:num_keyframe_tokens]]
    strip = [tile_tokens(layout, rank) for rank in range(1, len(layout.tiles))] if has_strip else []
    return torch.cat([chosen, *strip]).sort().values


def look_at_one(scenes: Scenes, num: int, generator: torch.Generator) -> tuple[Scenes, Tensor]:
    """Draw a place, and pick the `num` clips whose only object lies nearest to it: clips, place (2,)."""
    place = torch.rand(2, generator=generator) * 0.6 + 0.2
    distance = (scenes.position[:, 0] - place).square().sum(1)
    distance = torch.where(scenes.num_objects == 1, distance, torch.inf)
    return scenes.rows(distance.argsort()[:num].sort().values), place


class MotionDataset(Dataset):
    """Give the batches of one lesson; number `index` is a pure function of the seed, the number and the pictures.

    Args:
        plan: what a batch holds.
        view: how the model is shown a clip.
        num_batches: of the stage.
        seed: of the stage.
        tokenizer: of the model; None leaves text away.
        bank: the pictures, where `draw` is given none.
        chat_share: see `Packer`.
        vary: ask in many ways; False takes the first wording of each question.
        with_targets: also give what losses other than that on text learn from: a twentieth of a step on text.
    """

    def __init__(
        self,
        plan: BatchPlan,
        view: View,
        num_batches: int,
        seed: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
        bank: PictureBank | None = None,
        chat_share: float = 0.15,
        vary: bool = True,
        with_targets: bool = True,
    ) -> None:
        if plan.one_object and view.num_dynimgs > 1:
            raise InputError(
                f"one_object needs num_dynimgs: 1, where the keyframe is at the middle; got {view.num_dynimgs}"
            )
        self.plan, self.view, self.bank = plan, view, bank
        # Without prompt frames there are none.
        self.with_targets = with_targets and view.layout.num_prompt_frames > 0
        self.num_batches, self.seed, self.vary = num_batches, seed, vary
        self.rates = ask_rates(plan.camera_share) if plan.num_questions and plan.world is None else None
        # Some more than needed where questions are asked: not every clip gets one.
        self.num_drawn = plan.batch_size
        if self.rates is not None:
            self.num_drawn = self.rates.num_to_draw(plan.batch_size, plan.families)
        self.packer = Packer(tokenizer, chat_share) if tokenizer is not None else None

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> MotionBatch:
        """Draw one batch over the bank."""
        if self.bank is None:
            raise ValueError("this dataset has no pictures of its own; use draw")
        return self.draw(index, self.bank)

    def draw(self, index: int, bank: PictureBank, turn: int | None = None) -> MotionBatch:
        """Draw one batch over the given pictures; of several numbers of keyframe tokens, it is the `turn` of one."""
        plan, seed = self.plan, self.seed * 1_000_003 + index
        num_tokens = plan.turns[(index if turn is None else turn) % len(plan.turns)]
        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        scenes, exchanges, place = self._draw_clips(len(bank), generator, rng)
        times = frame_times(len(scenes), self.view, generator)
        if plan.world is not None and plan.num_questions:
            exchanges = ask_planned(plan.world, scenes, times, plan.num_questions, rng, self.vary)
        keep = choose_tokens(self.view.layout, num_tokens, generator, place, plan.has_strip)
        text = self.packer.pack(exchanges, rng) if exchanges and self.packer is not None else None
        pixels, targets = self._draw_pixels(scenes, times, bank, keep, generator)
        labels = motion_labels(scenes.kind_id, scenes.direction_id)
        active = scenes.present & (labels > 0)
        return MotionBatch(
            pixels=pixels,
            keep_tokens=keep,
            targets=targets,
            # Unknown (-100) where the picture does not tell: a plain background, or not one object that does something.
            camera_id=torch.where(scenes.flat, IGNORE, scenes.camera_id),
            direction_id=torch.where(active.sum(1) == 1, (labels * active).amax(1), IGNORE),
            text=text,
        )

    def _draw_clips(
        self, num_pictures: int, generator: torch.Generator, rng: np.random.Generator
    ) -> tuple[Scenes, list[list[Exchange]], Tensor | None]:
        plan, place = self.plan, None
        num = self.num_drawn
        drawn = num * (_DRAWN_PER_ONE if plan.one_object else 1)
        if plan.world is not None:
            scenes = sample_planned(drawn, num_pictures, generator, plan.world)
        else:
            scenes = sample_scenes(drawn, num_pictures, generator, plan.camera_share)
        if plan.one_object:
            scenes, place = look_at_one(scenes, num, generator)
        if self.rates is None:
            return scenes, [], place
        share, families = plan.choice_share if self.vary else 0.0, plan.families or FAMILIES
        exchanges = [
            self.rates.ask(facts, plan.num_questions, rng, families, self.vary, share) for facts in clip_facts(scenes)
        ]
        asked = [number for number, clip in enumerate(exchanges) if clip][: plan.batch_size]
        return scenes.rows(torch.tensor(asked)), [exchanges[number] for number in asked], place

    def _draw_pixels(
        self, scenes: Scenes, times: Tensor, bank: PictureBank, keep: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, MotionTargets | None]:
        # A DynImg is drawn like a clip of its own that happens to be that of its neighbours.
        view, count = self.view, times.shape[1]
        if count > 1:
            scenes = scenes.rows(torch.arange(len(scenes)).repeat_interleave(count))
        times = times.flatten(0, 1)
        if view.is_apart:
            pixels = draw_frames(scenes, bank, times, view.layout, generator)
        else:
            pixels = draw_dynimgs(scenes, bank, times, view.layout, keep, generator)
        return pixels, motion_targets(scenes, times, view.layout, view.is_apart) if self.with_targets else None
