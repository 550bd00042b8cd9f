"""One training step on the motion world: a DynImg model, a batch, and the losses with their weights.

The model is run part by part through its own modules, so that only the kept patches cost anything and several questions
share one video. What comes out is what its own forward pass gives (a test compares them).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ...layout import DynImgLayout
from ...model import DynImgForConditionalGeneration
from ...motion.questions import FAMILIES
from .data import IGNORE, MotionBatch, PackedText
from .losses import MotionHeads, attention_loss, flow_loss, frame_grids, watch_attention

ATTENTION_BLOCK = 1
"""The ViT block whose first two heads are supervised: the second."""


@dataclass(frozen=True)
class LossWeights:
    """Weigh the losses against each other."""

    text: float = 1.0
    attention: float = 1.0
    flow: float = 1.0
    covered: float = 0.3
    camera: float = 0.5
    direction: float = 0.5
    kind: float = 0.0
    centre: float = 0.0


def head_ids(tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> Tensor:
    """Give the ids that stand before the first question of a chat: the start of the turn and one video."""
    video = "<|video_pad|>" * num_tokens
    return torch.tensor(tokenizer(f"<|im_start|>user\n<|vision_start|>{video}<|vision_end|>")["input_ids"])


class MotionStep:
    """Compute losses and exact matches of a model on batches.

    Args:
        model: the model to train.
        heads: training-only readers of ViT tokens.
        head: ids of the text up to the end of the (whole) video, see `head_ids`.
        weights: of the losses.
    """

    def __init__(
        self, model: DynImgForConditionalGeneration, heads: MotionHeads, head: Tensor, weights: LossWeights
    ) -> None:
        self.model, self.heads, self.head, self.weights = model, heads, head, weights
        config = model.config
        self.layout = config.layout
        self.patches_per_token = config.patch_grid // config.token_grid
        self.num_layers = config.vision_feature_layer % (config.vision_config.num_hidden_layers + 1)
        self.frame_rank = _frame_order(self.layout.patch_grid, frame_patches(self.layout))

    def losses(self, batch: MotionBatch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Give the losses by name, and for each text position whether its token was predicted (None without text)."""
        features, scores = self.encode(batch.pixels, batch.keep_tokens)
        read = {name: value.float() for name, value in self.heads(features).items()}
        losses = {}
        if batch.targets is not None:
            keep = self.frame_rank[self.kept_patches(batch.keep_tokens)]
            losses["attention"] = attention_loss(scores, batch.targets, self.layout, keep)
            losses["flow"] = flow_loss(read["flow"], batch.targets, keep)
            covered = batch.targets.covered[:, keep].float()
            losses["covered"] = F.binary_cross_entropy_with_logits(read["covered"], covered)
            losses["kind"] = F.cross_entropy(read["kind"].flatten(0, 1), batch.targets.kind[:, keep].flatten())
            # One patch in a hundred holds a centre.
            centre = batch.targets.centre[:, keep].float()
            losses["centre"] = F.binary_cross_entropy_with_logits(read["centre"], centre, pos_weight=torch.tensor(8.0))
            losses["camera"] = _known_cross_entropy(read["camera"], batch.camera_id)
            losses["direction"] = _known_cross_entropy(read["direction"], batch.direction_id)
        correct = None
        if batch.text is not None:
            losses["text"], correct = self.text_loss(self.project(features), batch.keep_tokens, batch.text)
        return losses, correct

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Add the losses up by weight."""
        return torch.stack([getattr(self.weights, name) * value for name, value in losses.items()]).sum()

    def kept_patches(self, keep_tokens: Tensor) -> Tensor:
        """List the patches of the kept tokens by their number in the grid, token by token."""
        side, grid = self.patches_per_token, self.layout.patch_grid
        top = keep_tokens // self.layout.token_grid * side
        left = keep_tokens % self.layout.token_grid * side
        inner = torch.arange(side)
        rows = top[:, None, None] + inner[:, None]
        return (rows * grid + left[:, None, None] + inner).flatten()

    def encode(self, pixels: Tensor, keep_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the ViT on the patches of the kept tokens: features (B, Q, C) and scores (B, 2, Q, Q)."""
        tower = self.model.model.vision_tower
        patches = self.kept_patches(keep_tokens)
        embedded = tower.embeddings.patch_embedding(pixels.float() / 127.5 - 1).flatten(2).transpose(1, 2)
        states = embedded[:, patches] + tower.embeddings.position_embedding.weight[patches]
        with watch_attention(tower.encoder.layers[ATTENTION_BLOCK]) as scores:
            for layer in tower.encoder.layers[: self.num_layers]:
                states = layer(states, None)
        return states, scores[0]

    def project(self, features: Tensor) -> Tensor:
        """Turn features (B, Q, C) of whole tokens into visual tokens (B, K', D)."""
        projector = self.model.model.multi_modal_projector
        hidden = projector.linear_2(projector.act(projector.linear_1(features)))
        return hidden.unflatten(1, (-1, self.patches_per_token**2)).mean(2)

    def text_loss(self, visual: Tensor, keep_tokens: Tensor, text: PackedText) -> tuple[Tensor, Tensor]:
        """Predict the answers: the mean cross entropy of their tokens, and which were right, (B, L) bool."""
        model = self.model
        inputs, positions, num_shared = self.text_inputs(visual, keep_tokens, text)
        mask = text.mask(num_shared)
        states = model.model.language_model(
            inputs_embeds=inputs, position_ids=positions, attention_mask={"full_attention": mask}, use_cache=False
        ).last_hidden_state
        wanted = text.labels != IGNORE
        # The state before a token predicts it; an answer never comes first, so no block border is crossed.
        before = states[:, num_shared - 1 : -1][wanted]
        logits = model.lm_head(before).float()
        labels = text.labels[wanted]
        correct = torch.ones_like(wanted)
        correct[wanted] = logits.argmax(-1) == labels
        return F.cross_entropy(logits, labels), correct

    def text_inputs(self, visual: Tensor, keep_tokens: Tensor, text: PackedText) -> tuple[Tensor, Tensor, int]:
        """Put head, visual tokens and text together: embeddings (B, T, D), coordinates (4, B, T), head length."""
        inner = self.model.model
        num = len(visual)
        is_video = self.head == self.model.config.video_token_id
        coordinates = inner.position_ids(is_video[None], None)[:, 0]
        start = int(is_video.float().argmax())
        stop = start + int(is_video.sum())
        kept = torch.cat((torch.arange(start), start + keep_tokens, torch.arange(stop, len(self.head))))
        shared = coordinates[:, kept]
        following = shared[3, -1] + 1 + text.offset.float()
        positions = torch.cat((shared[:, None].expand(-1, num, -1), following.expand(4, -1, -1)), 2)
        embed = inner.get_input_embeddings()
        opening = embed(self.head[:start]).expand(num, -1, -1)
        closing = embed(self.head[stop:]).expand(num, -1, -1)
        inputs = torch.cat((opening, visual.to(opening), closing, embed(text.ids)), 1)
        return inputs, positions, len(kept)


def exact_matches(correct: Tensor, text: PackedText) -> dict[str, tuple[int, int]]:
    """Count, per family, the answers of which every token was right: (right, all)."""
    counts: dict[str, tuple[int, int]] = {}
    for number in range(1, int(text.block.max()) + 1):
        part = text.block == number
        there = part.any(1)
        right = (correct | ~part).all(1)[there]
        family = torch.where(part, text.family, -1).amax(1)[there]
        for index, name in enumerate(FAMILIES):
            rows = family == index
            if rows.any():
                old = counts.get(name, (0, 0))
                counts[name] = (old[0] + int(right[rows].sum()), old[1] + int(rows.sum()))
    return counts


def frame_patches(layout: DynImgLayout) -> Tensor:
    """List all patches by their number in the grid, in the order of the frames, the keyframe first."""
    grid = torch.arange(layout.patch_grid**2).view(layout.patch_grid, layout.patch_grid)
    size = layout.patch_size
    parts = []
    for tile, (rows, columns) in zip(layout.pixel_tiles, frame_grids(layout), strict=True):
        top, left = tile.top // size, tile.left // size
        parts.append(grid[top : top + rows, left : left + columns].flatten())
    return torch.cat(parts)


def _known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    # Zero, not nan, where no clip of the batch has a known answer.
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)


def _frame_order(patch_grid: int, order: Tensor) -> Tensor:
    rank = torch.empty(patch_grid**2, dtype=torch.long)
    rank[order] = torch.arange(len(order))
    return rank
