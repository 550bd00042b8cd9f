"""See where the vision tower looks: the attention of patches, computed beside the model's own (Figures 1 and 2).

Fast attention never forms its weights, so queries and keys of each layer are computed a second time, one head at a
time: no more than one P x P matrix is held, and the model's attention stays what it is.

Shapes: G DynImgs, P patches, Q patches whose attention is wanted, S pixels along a side.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..layout import DynImgLayout
from .configuration_dynimg import DynImgConfig
from .modeling_dynimg import DynImgForConditionalGeneration
from .processing_dynimg import DynImgProcessor
from .tile_encoding import frame_of_patches

if TYPE_CHECKING:
    from ..loading import DynImgs


@dataclass(frozen=True, eq=False)
class PatchAttention:
    """Hold the attention of one patch of the keyframe.

    `shares` (patch_grid, patch_grid) float32 adds up to one over the DynImg. `alone` is the same where no patch sees
    another frame in any layer: it adds up to one over the keyframe; None where there are no prompt frames. `layer` and
    `head` count from 1; `head` is None for the mean over heads. With `is_rollout`, layers 1 to `layer` are followed.
    """

    shares: np.ndarray
    alone: np.ndarray | None
    layout: DynImgLayout
    dynimg: int
    patch: tuple[int, int]
    layer: int
    num_layers: int
    head: int | None
    num_heads: int
    is_rollout: bool

    def frame_shares(self) -> tuple[float, ...]:
        """Sum up the attention on each frame: the keyframe first, then the prompt frames in time order."""
        frames = frame_of_patches(self.layout).numpy()
        return tuple(np.bincount(frames, self.shares.ravel(), len(self.layout.tiles)).tolist())


def keyframe_patches(layout: DynImgLayout) -> tuple[int, int]:
    """Count the rows and columns of patches of the keyframe."""
    tile = layout.pixel_tiles[0]
    return tile.height // layout.patch_size, tile.width // layout.patch_size


def num_read_layers(config: DynImgConfig) -> int:
    """Count the layers of the vision tower that the language model gets to see; those above are never read."""
    return config.vision_feature_layer % (config.vision_config.num_hidden_layers + 1)


def head_weights(
    tower: Any, pixels: Tensor, num_layers: int, *, patches: Tensor | None = None, queries: Tensor | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    """Run the first layers of a SigLIP tower and give the attention weights of every head on the way.

    Args:
        tower: a `SiglipVisionModel`.
        pixels: (G, 3, S, S), normalised.
        num_layers: how many layers to run.
        patches: the patches that see each other, by number in the grid; the others are cut off. None for all.
        queries: whose attention is given, by number among `patches`. None for all.

    Yields:
        Layer and head, both from 0, and weights (G, Q, P) float32 that add up to one over the patches.
    """
    states = tower.embeddings(pixels, interpolate_pos_encoding=True)
    if patches is not None:
        states = states[:, patches]
    for number, layer in enumerate(tower.encoder.layers[:num_layers]):
        attention = layer.self_attn
        normed = layer.layer_norm1(states)
        asking = attention.q_proj(normed if queries is None else normed[:, queries])
        queries_of, keys_of = (part.chunk(attention.num_heads, -1) for part in (asking, attention.k_proj(normed)))
        for head, (query, key) in enumerate(zip(queries_of, keys_of, strict=True)):
            yield number, head, (query @ key.transpose(-1, -2) * attention.scale).float().softmax(-1)
        states = layer(states, None)


def patch_attention(
    model: DynImgForConditionalGeneration,
    processor: DynImgProcessor,
    dynimgs: "DynImgs",
    patch: tuple[int, int],
    *,
    dynimg: int = 1,
    layer: int | None = None,
    head: int | None = None,
    rollout: bool = False,
) -> PatchAttention:
    """Compute the attention of a patch of a keyframe over keyframe and strip, with and without prompt frames.

    "Without" is the very same DynImg with the prompt frames cut off in every layer (as `prompt_stage="tiles"` encodes
    it): a keyframe without strip would be larger, and its patches others.

    Args:
        model: with a composed DynImg before its tower, `prompt_stage` "before" or "none".
        processor: that belongs to it.
        dynimgs: of a video, from this processor.
        patch: row and column within the keyframe, from 0.
        dynimg: which DynImg of the video, from 1.
        layer: of the vision tower, from 1; None takes the last that is read.
        head: from 1; None takes the mean over heads.
        rollout: multiply the attention of the layers up to this one, each averaged with the identity for its residual
            path (Abnar and Zuidema, arXiv 2005.00928).

    Raises:
        InputError: where patch, DynImg, layer or head do not exist, or the model encodes frames apart.
    """
    config, layout = model.config, model.config.layout
    num_layers, num_heads = num_read_layers(config), config.vision_config.num_attention_heads
    layer = num_layers if layer is None else layer
    _check_stage(config)
    _check_patch(patch, layout)
    _check_number("DynImg", dynimg, len(dynimgs.pixels), "the DynImgs of this video")
    _check_number("layer", layer, num_layers, "the layers that this model reads")
    _check_number("head", 1 if head is None else head, num_heads, "the heads of this model")
    if rollout and head is not None:
        raise InputError("a rollout is over the mean of all heads; leave the head or the rollout out")
    composed = torch.as_tensor(dynimgs.pixels[dynimg - 1 : dynimg])
    pixels = processor.video_processor.normalise(composed).to(model.device, model.dtype)
    frames = frame_of_patches(layout).to(model.device)
    number = patch[0] * keyframe_patches(layout)[1] + patch[1]
    keyframe = (frames == 0).nonzero()[:, 0]

    def spread(own: int, patches: Tensor | None) -> np.ndarray:
        found = _row(model.model.vision_tower, pixels, layer, head, rollout, own, patches)
        whole = torch.zeros(len(frames))
        whole[keyframe.cpu() if patches is not None else slice(None)] = found.cpu()
        return whole.view(layout.patch_grid, layout.patch_grid).numpy()

    with torch.inference_mode():
        shares = spread(int(keyframe[number]), None)
        alone = spread(number, keyframe) if layout.num_prompt_frames else None
    return PatchAttention(shares, alone, layout, dynimg, patch, layer, num_layers, head, num_heads, rollout)


def _check_stage(config: DynImgConfig) -> None:
    if config.prompt_stage in ("after", "tiles"):
        raise InputError(
            f"this model encodes every frame alone (prompt_stage={config.prompt_stage!r}): no patch of a keyframe "
            "attends to the strip; take a model with prompt_stage 'before'"
        )


def _check_patch(patch: tuple[int, int], layout: DynImgLayout) -> None:
    size = keyframe_patches(layout)
    if not all(0 <= place < count for place, count in zip(patch, size, strict=True)):
        raise InputError(
            f"patch {patch[0]},{patch[1]} is outside of the keyframe; rows go from 0 to {size[0] - 1}, "
            f"columns from 0 to {size[1] - 1}"
        )


def _check_number(name: str, value: int, count: int, what: str) -> None:
    if not 1 <= value <= count:
        raise InputError(f"there is no {name} {value}; {what} are numbered 1 to {count}")


def _row(
    tower: Any, pixels: Tensor, layer: int, head: int | None, rollout: bool, own: int, patches: Tensor | None
) -> Tensor:
    # The attention (P,) of patch number `own`; with rollout, the row of the product of all layers.
    queries = None if rollout else torch.tensor([own], device=pixels.device)
    product: Tensor | None = None
    mean: Tensor | float = 0.0
    for number, which, weights in head_weights(tower, pixels, layer, patches=patches, queries=queries):
        is_wanted = rollout or (number == layer - 1 and head in (None, which + 1))
        if not is_wanted:
            continue
        count = tower.config.num_attention_heads if head is None else 1
        mean = mean + weights[0] / count
        if rollout and which + 1 == count:
            assert isinstance(mean, Tensor)
            mixed = (mean + torch.eye(len(mean), device=mean.device)) / 2
            product, mean = mixed if product is None else mixed @ product, 0.0
    if product is not None:
        return product[own]
    assert isinstance(mean, Tensor)
    return mean[0]
