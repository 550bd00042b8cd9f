"""From features of the vision tower to visual tokens: Linear, GELU, Linear, then average structure pooling.

Shapes: G DynImgs of the whole batch, N prompt frames, P patches, K tokens per DynImg, C and D widths.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from ..layout import DynImgLayout
from .configuration_dynimg import DynImgConfig


class DynImgProjector(nn.Module):
    """Project patch features to the width of the LLM and pool them to the token grid (Section 4.1)."""

    def __init__(self, config: DynImgConfig) -> None:
        super().__init__()
        vision_width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.layout: DynImgLayout = config.layout
        self.linear_1 = nn.Linear(vision_width, text_width)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (G, P, C), or (G, 1 + N, P, C) of frames that were encoded alone, to tokens (G, K, D)."""
        hidden = self.linear_2(self.act(self.linear_1(features)))
        hidden = hidden.unflatten(-2, (self.layout.patch_grid, self.layout.patch_grid))
        tokens = self._assemble(hidden) if hidden.ndim == 5 else pool_grid(hidden, self._square, self._square)
        return tokens.flatten(1, 2)

    @property
    def _square(self) -> int:
        return self.layout.token_grid

    def _assemble(self, hidden: Tensor) -> Tensor:
        # Table 3, "After Encoder": the same tiles as in a composed DynImg, filled with features instead of pixels.
        keyframe, *prompts = (
            pool_grid(hidden[:, rank], tile.height, tile.width) for rank, tile in enumerate(self.layout.tiles)
        )
        if not prompts:
            return keyframe
        return torch.cat([keyframe, torch.cat(prompts, dim=2)], dim=1)


def pool_grid(features: Tensor, height: int, width: int) -> Tensor:
    """Average features (G, rows, columns, D) to (G, height, width, D), as AdaptiveAvgPool does."""
    rows, columns = features.shape[1:3]
    if rows % height == 0 and columns % width == 0:
        # The default, 2 x 2 patches per token. As a mean it needs no transposition and has a deterministic gradient.
        return features.unflatten(2, (width, -1)).unflatten(1, (height, -1)).mean((2, 4))
    return functional.adaptive_avg_pool2d(features.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)


def pool_time(tokens: Tensor, max_dynimgs: int) -> Tensor:
    """Average the tokens (T, K, D) of one video to at most `max_dynimgs` DynImgs; fewer are left as they are."""
    if len(tokens) <= max_dynimgs:
        return tokens
    flat = tokens.flatten(1).T[None]  # (1, K * D, T)
    return functional.adaptive_avg_pool1d(flat, max_dynimgs)[0].T.unflatten(1, tokens.shape[1:])
