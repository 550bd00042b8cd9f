"""The 4-D rotary embedding: one angle from four coordinates (Section 3.2, Equation 2; Table 6)."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config

from ..positions import RopeAxes

AXES = "hwts"
"""The order of the axes in `position_ids` and everywhere else."""


class DynImgRotaryEmbedding(Qwen2RotaryEmbedding):
    """Turn coordinates into rotations of the channel pairs of queries and keys; for Qwen3 as for Qwen2.

    theta_s is the LLM's own inverse frequency. `axis_theta` holds the frequencies of the other axes, shared by all
    layers and heads: float32 (3, head_dim / 2) for "hwts", (2, head_dim / 2) for "hws", absent for "s".

    - merge: angle = h theta_h + w theta_w + t theta_t + s theta_s in every channel pair; the learnable ones start at 0,
      so that the pretrained LLM is unharmed (Equation 2).
    - split: each axis owns a contiguous, near-equal block of channel pairs (64 pairs: 16/16/16/16, or 21/21/22) and
      starts with theta_s of that block. Entries outside of the block of their axis are not used.

    The class name has to contain "RotaryEmbedding": by it transformers restores `inv_freq`, a buffer that is not saved.
    """

    def __init__(
        self,
        config: Qwen2Config | Qwen3Config,
        rope_axes: RopeAxes = "hwts",
        rope_combine: Literal["merge", "split"] = "merge",
        rope_trainable: bool = True,
    ) -> None:
        super().__init__(config)  # type: ignore[arg-type]  # Qwen3 has the same
        self.rope_axes = rope_axes
        self.rope_combine = rope_combine
        self.axis_theta: Tensor | None
        if rope_axes == "s":
            self.register_parameter("axis_theta", None)
        elif rope_trainable:
            self.axis_theta = nn.Parameter(self.initial_axis_theta())
        else:
            # A buffer and not a frozen parameter: loading a checkpoint makes every parameter learn again.
            self.register_buffer("axis_theta", self.initial_axis_theta())

    def initial_axis_theta(self) -> Tensor:
        """Compute the values that `axis_theta` starts from: zeros (merge) or theta_s (split); float32 on the CPU."""
        compute: Callable = self.compute_default_rope_parameters
        if self.rope_type != "default":
            compute = ROPE_INIT_FUNCTIONS[str(self.rope_type)]
        with torch.device("cpu"):
            inv_freq, _ = compute(self.config)
        theta = inv_freq.float().expand(len(self.rope_axes) - 1, -1)
        return torch.zeros_like(theta) if self.rope_combine == "merge" else theta.clone()

    # No torch.no_grad here, unlike in the parent: axis_theta learns.
    @dynamic_rope_update
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Compute cosines and sines for coordinates (4, B, L): two tensors (B, L, head_dim) of the type of `x`.

        Angles are float32 products and sums. A matmul would run in bfloat16 under autocast, and bfloat16 cannot even
        tell position 257 from 256.
        """
        coordinates = position_ids.float()
        angles = self._split_angles(coordinates) if self.rope_combine == "split" else self._merged_angles(coordinates)
        angles = torch.cat((angles, angles), dim=-1)  # half-split pairing: channel i turns with i + head_dim / 2
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)

    def _merged_angles(self, coordinates: Tensor) -> Tensor:
        angles = coordinates[AXES.index("s"), ..., None] * self.inv_freq.float()
        for theta, axis in self._learnable_axes():
            angles = angles + coordinates[AXES.index(axis), ..., None] * theta.float()
        return angles

    def _split_angles(self, coordinates: Tensor) -> Tensor:
        inv_freq = self.inv_freq.float()
        blocks = self.channel_blocks(inv_freq.shape[-1])
        thetas = [(theta.float(), axis) for theta, axis in self._learnable_axes()] + [(inv_freq, "s")]
        return torch.cat(
            [
                coordinates[AXES.index(axis), ..., None] * theta[block]
                for (theta, axis), block in zip(thetas, blocks, strict=True)
            ],
            dim=-1,
        )

    def _learnable_axes(self) -> list[tuple[Tensor, str]]:
        return [] if self.axis_theta is None else list(zip(self.axis_theta, self.rope_axes[:-1], strict=True))

    def channel_blocks(self, num_pairs: int) -> list[slice]:
        """Divide the channel pairs among the axes in the order h, w, t, s; the last takes the remainder."""
        count = len(self.rope_axes)
        edges = [num_pairs * rank // count for rank in range(count + 1)]
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def _apply(self, fn: Callable, recurse: bool = True) -> "DynImgRotaryEmbedding":
        # `model.to(torch.bfloat16)` moves to another device but keeps float32 here: rounded frequencies are wrong by
        # 0.29 in the cosine at position 3000 already, and no update of 2e-5 reaches a bfloat16 theta above 0.01.
        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_precision, recurse)

    def extra_repr(self) -> str:
        """Name the variant in the printed model."""
        return f"rope_axes={self.rope_axes!r}, rope_combine={self.rope_combine!r}"
