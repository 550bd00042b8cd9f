"""Batches of the motion world for training: pixels, dense targets, and questions packed behind one shared video.

Shapes: B clips, P patches and K tokens of a DynImg of which some are kept, L positions of the packed text.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from ...layout import DynImgLayout
from ...motion.questions import FAMILIES, Exchange, ask_rates, clip_facts
from ...motion.render import pixel_points, render, render_points
from ...motion.textures import PictureBank
from ...motion.world import Scenes, sample_scenes
from .losses import MotionTargets, motion_targets

IGNORE = -100


@dataclass
class PackedText:
    """Hold questions and answers behind a video: ids, labels (-100: no loss), block, offset, family: (B, L).

    `block` tells exchanges apart that do not see each other (from 1; padding: -1), `offset` counts from the end of the
    head, `family` is that of the exchange.
    """

    ids: Tensor
    labels: Tensor
    block: Tensor
    offset: Tensor
    family: Tensor

    def mask(self, num_shared: int) -> Tensor:
        """Allow each token the `num_shared` positions before the text and the earlier tokens of its own block.

        Returns:
            (B, 1, num_shared + L, num_shared + L) bool; shared positions see each other in order.
        """
        num, length = self.ids.shape
        block = torch.cat((torch.zeros(num, num_shared, dtype=torch.long), self.block), 1)
        causal = torch.ones(num_shared + length, num_shared + length, dtype=torch.bool).tril()
        same = (block[:, :, None] == block[:, None]) | (block[:, None] == 0)
        return (causal & same)[:, None]


@dataclass
class MotionBatch:
    """Hold one training batch: pixels (B, 3, S, S) uint8, kept tokens (K',) by number in the grid, truth and text."""

    pixels: Tensor
    keep_tokens: Tensor
    targets: MotionTargets | None
    camera_id: Tensor
    direction_id: Tensor
    text: PackedText | None


class Packer:
    """Turn exchanges into packed text.

    Args:
        tokenizer: of the model.
        chat_share: how many of the clips have their exchanges one after the other, as turns of a chat that see each
            other, instead of side by side.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_share: float = 0.15) -> None:
        self.tokenizer, self.chat_share = tokenizer, chat_share
        self._cache: dict[tuple[str, str, bool], tuple[list[int], int]] = {}

    def pack(self, exchanges: list[list[Exchange]], rng: np.random.Generator) -> PackedText:
        """Pack the exchanges of each clip; where they stand side by side, a mask keeps them apart."""
        rows = [self._row(clip, bool(rng.random() < self.chat_share)) for clip in exchanges]
        # Few different lengths: the CPU kernels are compiled anew, for a tenth of a second each, for every shape.
        longest = -(-max(len(row[0]) for row in rows) // 32) * 32
        empty = (0, IGNORE, -1, 0, -1)
        padded = [
            torch.tensor([row[part] + [value] * (longest - len(row[part])) for row in rows])
            for part, value in enumerate(empty)
        ]
        return PackedText(*padded)

    def _row(self, clip: list[Exchange], is_chat: bool) -> tuple[list[int], ...]:
        ids: list[int] = []
        labels: list[int] = []
        block: list[int] = []
        offset: list[int] = []
        family: list[int] = []
        for number, exchange in enumerate(clip, start=1):
            tokens, cut = self._tokens(exchange, is_chat and number > 1)
            start = len(ids) if is_chat else 0
            ids += tokens
            labels += [IGNORE] * cut + tokens[cut:]
            block += [1 if is_chat else number] * len(tokens)
            offset += range(start, start + len(tokens))
            family += [FAMILIES.index(exchange.family)] * len(tokens)
        return ids, labels, block, offset, family

    def _tokens(self, exchange: Exchange, is_later_turn: bool) -> tuple[list[int], int]:
        # The tokens of one exchange and how many come before the answer.
        key = exchange.question, exchange.answer, is_later_turn
        if key not in self._cache:
            opening = "\n<|im_start|>user\n" if is_later_turn else ""
            question = f"{opening}{exchange.question}<|im_end|>\n<|im_start|>assistant\n"
            cut = len(self.tokenizer(question)["input_ids"])
            self._cache[key] = self.tokenizer(f"{question}{exchange.answer}<|im_end|>")["input_ids"], cut
        return self._cache[key]


def prompt_times(num: int, generator: torch.Generator) -> Tensor:
    """Draw times (num, 4) of four prompt frames in units of the gap, two on each side of the keyframe.

    What the selection does on files: evenly spaced candidates put them anywhere from (1/4, 3/4) to (1/2, 1) of a gap,
    I-frames lie where they lie (jitter), and the keyframe is not in the middle of the clip (one side longer). Where a
    file has very few I-frames, candidates crowd behind each of them: every fourth clip has times anywhere.
    """

    def uniform(low: float, high: float, columns: int = 1) -> Tensor:
        return torch.rand(num, columns, generator=generator) * (high - low) + low

    near = uniform(0.22, 0.55)
    far = near + uniform(0.25, 0.5)
    shift = uniform(-0.15, 0.15)
    jitter = torch.randn(num, 4, generator=generator) * torch.where(uniform(0, 1) < 0.7, 0.02, 0.07)
    left = (torch.cat((-far, -near), 1) * (1 + shift) + jitter[:, :2]).clamp(-1.0, -0.06).sort(1).values
    right = (torch.cat((near, far), 1) * (1 - shift) + jitter[:, 2:]).clamp(0.06, 1.0).sort(1).values
    anywhere = torch.cat((-uniform(0.06, 1.0, 2), uniform(0.06, 1.0, 2)), 1).sort(1).values
    return torch.where(uniform(0, 1) < 0.25, anywhere, torch.cat((left, right), 1))


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
        drawn = render_points(scenes, bank.large, times[:, :1], points.flatten(0, 2), tile.width, generator)
        cells = pixels.unflatten(3, (-1, cell)).unflatten(2, (-1, cell))
        cells[:, :, top, :, left] = drawn[:, 0].view(num, len(kept), cell, cell, 3).permute(1, 0, 4, 2, 3)
    return pixels.mul_(255).round_().to(torch.uint8)


def tile_tokens(layout: DynImgLayout, rank: int) -> Tensor:
    """List the tokens of one frame (0: the keyframe) by their number in the grid, row by row."""
    grid = torch.arange(layout.token_grid**2).view(layout.token_grid, layout.token_grid)
    return grid[layout.tiles[rank].slices].flatten()


def choose_tokens(layout: DynImgLayout, num_keyframe_tokens: int, generator: torch.Generator) -> Tensor:
    """Choose all prompt tokens and some keyframe tokens at random, in the order of the grid."""
    key = tile_tokens(layout, 0)
    chosen = key[torch.randperm(len(key), generator=generator)[:num_keyframe_tokens]]
    strip = [tile_tokens(layout, rank) for rank in range(1, len(layout.tiles))]
    return torch.cat([chosen, *strip]).sort().values


@dataclass(frozen=True)
class BatchPlan:
    """Say what a stage's batches hold; see `recipes/motion_cpu.yaml`."""

    batch_size: int
    num_keyframe_tokens: int
    num_questions: int
    camera_share: float = 0.4


class MotionDataset(Dataset):
    """Give batch number `index` as a pure function of the seed and the number, up to the pictures at hand.

    Each process refreshes its own bank of procedural pictures as it goes: one new picture for every four batches.
    """

    def __init__(
        self,
        plan: BatchPlan,
        layout: DynImgLayout,
        bank: PictureBank,
        num_batches: int,
        seed: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
        refresh: bool = True,
        chat_share: float = 0.15,
        vary: bool = True,
    ) -> None:
        self.plan, self.layout, self.bank = plan, layout, bank
        self.num_batches, self.seed, self.refresh, self.vary = num_batches, seed, refresh, vary
        self.rates = ask_rates(plan.camera_share) if plan.num_questions else None
        self.packer = Packer(tokenizer, chat_share) if tokenizer is not None else None

    def __len__(self) -> int:
        return self.num_batches

    def __getitem__(self, index: int) -> MotionBatch:
        """Draw one batch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        if self.refresh and index % 4 == 0:
            self.bank.refresh(1, generator)
        plan, layout = self.plan, self.layout
        # Some more than needed where questions are asked: not every clip gets one.
        num = plan.batch_size + (plan.batch_size // 4 + 4 if plan.num_questions else 0)
        scenes = sample_scenes(num, len(self.bank), generator, plan.camera_share)
        exchanges: list[list[Exchange]] = []
        rng = np.random.default_rng(self.seed * 1_000_003 + index)
        if self.rates is not None:
            exchanges = [self.rates.ask(facts, plan.num_questions, rng, vary=self.vary) for facts in clip_facts(scenes)]
            asked = [number for number, clip in enumerate(exchanges) if clip][: plan.batch_size]
            scenes, exchanges = scenes.rows(torch.tensor(asked)), [exchanges[number] for number in asked]
        times = prompt_times(len(scenes), generator)[:, : layout.num_prompt_frames]
        times = torch.cat((torch.zeros(len(scenes), 1), times), 1)
        keep = choose_tokens(layout, plan.num_keyframe_tokens, generator)
        text = None
        if exchanges and self.packer is not None:
            text = self.packer.pack(exchanges, rng)
        moves = scenes.moves
        return MotionBatch(
            pixels=draw_dynimgs(scenes, self.bank, times, layout, keep, generator),
            keep_tokens=keep,
            targets=motion_targets(scenes, times, layout) if layout.num_prompt_frames else None,
            # Unknown (-100) where the picture does not tell: a plain background, or not exactly one moving object.
            camera_id=torch.where(scenes.flat, IGNORE, scenes.camera_id),
            direction_id=torch.where(moves.sum(1) == 1, (scenes.direction_id * moves).amax(1), IGNORE),
            text=text,
        )
