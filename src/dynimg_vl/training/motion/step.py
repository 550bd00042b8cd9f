"""One training step on the motion world: a DynImg model, a batch, and the losses with their weights.

The model is run part by part through its own modules, so that only the kept patches cost anything and several questions
share one video. What comes out is what its own forward pass gives (a test compares them).

Shapes: B clips of G DynImgs, Q encoded patches and K' kept tokens of each DynImg, C and D widths, L positions of text.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from ...errors import InputError
from ...layout import DynImgLayout
from ...model import DynImgForConditionalGeneration
from ...model.tile_encoding import encode_apart, frame_of_patches
from ...motion.wordings import ALL_FAMILIES
from .data import MotionBatch, View, tile_tokens
from .losses import (
    MotionHeads,
    attention_loss,
    flow_loss,
    known_cross_entropy,
    track_loss,
    watch_attention,
    where_loss,
)
from .packing import PackedText
from .targets import IGNORE, MotionTargets, frame_grids

ATTENTION_BLOCK = 1
"""The ViT block whose first two heads are supervised: the second."""


def head_ids(tokenizer: PreTrainedTokenizerBase, num_tokens: int) -> Tensor:
    """Give the ids that stand before the first question of a chat: the start of the turn and one video of so many."""
    video = "<|video_pad|>" * num_tokens
    return torch.tensor(tokenizer(f"<|im_start|>user\n<|vision_start|>{video}<|vision_end|>")["input_ids"])


class MotionLearner(nn.Module):
    """Hold all that learns, the model and the training-only heads, and compute losses and exact matches on batches.

    Args:
        model: the model to train.
        heads: training-only readers of ViT tokens.
        head: ids of the text up to the end of the (whole) video, see `head_ids`.

    Raises:
        InputError: where the parts of the model cannot be run one by one, for its tokens mix frames, its positions are
            interpolated, or several of its DynImgs are pooled to one.
    """

    head: Tensor
    frame_rank: Tensor
    strip_tokens: Tensor
    frame_number: Tensor

    def __init__(self, model: DynImgForConditionalGeneration, heads: MotionHeads, head: Tensor) -> None:
        super().__init__()
        self.model, self.heads = model, heads
        config = model.config
        self.view, self.layout = View.of(config), config.layout
        if not self.layout.is_exact:
            raise InputError("data.world needs tokens of whole patches: a patch_grid that is a multiple of token_grid")
        num_places = model.model.vision_tower.embeddings.position_embedding.num_embeddings
        if num_places != config.patch_grid**2:
            raise InputError(f"data.world needs an image_size of patch_grid * patch_size, {self.layout.image_size}")
        if config.num_dynimgs > config.max_dynimgs:
            raise InputError(f"data.world needs max_dynimgs of at least num_dynimgs, which is {config.num_dynimgs}")
        self.patches_per_token = config.patch_grid // config.token_grid
        self.num_layers = config.vision_feature_layer % (config.vision_config.num_hidden_layers + 1)
        if self.num_layers <= ATTENTION_BLOCK:
            raise InputError(f"data.world needs a vision_feature_layer beyond {ATTENTION_BLOCK}")
        self.register_buffer("head", head, persistent=False)
        rank = _frame_order(self.layout.patch_grid, frame_patches(self.layout))
        self.register_buffer("frame_rank", rank, persistent=False)
        key = tile_tokens(self.layout, 0)
        tokens = torch.arange(self.layout.tokens_per_dynimg)
        self.register_buffer("strip_tokens", tokens[~torch.isin(tokens, key)], persistent=False)
        self.register_buffer("frame_number", frame_of_patches(self.layout), persistent=False)

    def forward(
        self,
        pixels: Tensor,
        keep_tokens: Tensor,
        targets: dict[str, Tensor] | None,
        camera_id: Tensor,
        direction_id: Tensor,
        text: dict[str, Tensor] | None,
        weights: dict[str, float],
        beside: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Compute a batch as `MotionBatch.as_inputs` gives it, and the weights of the losses by name.

        Returns:
            `loss`, the losses by name in `losses`, and with text `correct` (B, L): which tokens were predicted. What is
            learnt `beside`, given alike, adds to the loss, and its losses are called `beside_` something.
        """
        inputs = {"pixels": pixels, "keep_tokens": keep_tokens, "targets": targets, "text": text}
        batch = MotionBatch.from_inputs({**inputs, "camera_id": camera_id, "direction_id": direction_id})
        losses, correct = self.losses(batch)
        total = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
        found: dict[str, Any] = {"loss": total, "losses": {name: value.detach() for name, value in losses.items()}}
        if beside is not None:
            other = self.forward(**beside)  # not as a module: hooks of FSDP are for the step as a whole
            found["loss"] = total + other["loss"]
            found["losses"] |= {f"beside_{name}": value for name, value in other["losses"].items()}
        return found if correct is None else {**found, "correct": correct}

    def losses(self, batch: MotionBatch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Give the losses by name, and for each text position whether its token was predicted (None without text)."""
        watched = batch.targets is not None and bool(torch.isin(batch.keep_tokens, self.strip_tokens).any())
        features, visual, scores = self.encode(batch.pixels, batch.keep_tokens, watched)
        losses = {} if batch.targets is None else self.dense_losses(features, scores, batch, batch.targets)
        correct = None
        if batch.text is not None:
            visual = self.project(features) if visual is None else visual
            visual = visual.unflatten(0, (-1, self.view.num_dynimgs)).flatten(1, 2)
            losses["text"], correct = self.text_loss(visual, batch.keep_tokens, batch.text)
        return losses, correct

    def dense_losses(
        self, features: Tensor, scores: Tensor | None, batch: MotionBatch, targets: MotionTargets
    ) -> dict[str, Tensor]:
        """Give the losses on single patches and of the heads: features (B * G, Q, C), scores as in `encode`."""
        read = {name: value.float() for name, value in self.heads(features).items()}
        keep = torch.arange(features.shape[1], device=features.device)
        if not self.view.is_apart:
            keep = self.frame_rank[self.kept_patches(batch.keep_tokens)]
        losses = {}
        # Whoever sees no other frame cannot tell how anything moves.
        if scores is not None:
            losses["attention"] = attention_loss(scores, targets, self.layout, keep)
            losses["flow"] = flow_loss(read["flow"], targets, keep)
            losses["track"] = track_loss(read["track"], targets, keep)
            for name in ("path", "ways"):
                losses[name] = known_cross_entropy(read[name], getattr(targets, name)[:, keep])
        losses["covered"] = F.binary_cross_entropy_with_logits(read["covered"], targets.covered[:, keep].float())
        losses["kind"] = F.cross_entropy(read["kind"].flatten(0, 1), targets.kind[:, keep].flatten())
        losses["shape"] = F.cross_entropy(read["shape"].flatten(0, 1), targets.shape[:, keep].flatten())
        # One patch in a hundred holds a centre.
        centre = targets.centre[:, keep].float()
        losses["centre"] = F.binary_cross_entropy_with_logits(read["centre"], centre, pos_weight=centre.new_tensor(8.0))
        losses["where"] = where_loss(read["where"], targets, keep)
        of_cover = torch.where(targets.shape == 0, IGNORE, targets.shape)
        losses["cover_shape"] = known_cross_entropy(read["shape"], of_cover[:, keep])
        if scores is not None:
            for name, known in (("camera", batch.camera_id), ("direction", batch.direction_id)):
                logits = read[name].unflatten(0, (-1, self.view.num_dynimgs)).mean(1)  # of the whole clip
                losses[name] = known_cross_entropy(logits, known)
        return losses

    def kept_patches(self, keep_tokens: Tensor) -> Tensor:
        """List the patches of the kept tokens by their number in the grid, token by token."""
        side, grid = self.patches_per_token, self.layout.patch_grid
        top = keep_tokens // self.layout.token_grid * side
        left = keep_tokens % self.layout.token_grid * side
        inner = torch.arange(side, device=keep_tokens.device)
        rows = top[:, None, None] + inner[:, None]
        return (rows * grid + left[:, None, None] + inner).flatten()

    def encode(
        self, pixels: Tensor, keep_tokens: Tensor, watched: bool = True
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run the ViT on the patches of the kept tokens; on all of them where frames are apart.

        Returns:
            Features (B * G, Q, C); the kept visual tokens (B * G, K', D) where they are no plain means of those, else
            None; scores (B * G, 2, Q, Q) where they are watched and patches of different frames see each other.
        """
        inner = self.model.model
        tower = inner.vision_tower
        values = pixels.float() / 127.5 - 1
        if self.view.is_apart:
            whole = inner.get_video_features(values, return_dict=True)
            tokens = torch.stack(list(whole.pooler_output))[:, keep_tokens]
            return whole.last_hidden_state.flatten(1, 2), tokens, None
        patches = self.kept_patches(keep_tokens)
        embedded = tower.embeddings.patch_embedding(values).flatten(2).transpose(1, 2)
        states = embedded[:, patches] + tower.embeddings.position_embedding.weight[patches]
        layers = tower.encoder.layers[: self.num_layers]
        if self.view.prompt_stage != "before":
            return encode_apart(layers, states, self.frame_number[patches]), None, None
        block = tower.encoder.layers[ATTENTION_BLOCK]
        with watch_attention(block) if watched else nullcontext([None]) as scores:
            for layer in layers:
                states = layer(states, None)
        return states, None, scores[0]

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
        numbers = torch.arange(len(self.head), device=self.head.device)
        firsts = start + self.layout.tokens_per_dynimg * torch.arange(self.view.num_dynimgs, device=numbers.device)
        kept = torch.cat((numbers[:start], (firsts[:, None] + keep_tokens).flatten(), numbers[stop:]))
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
        for index, name in enumerate(ALL_FAMILIES):
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


def _frame_order(patch_grid: int, order: Tensor) -> Tensor:
    rank = torch.empty(patch_grid**2, dtype=torch.long)
    rank[order] = torch.arange(len(order))
    return rank
