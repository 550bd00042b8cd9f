"""Qwen2 and Qwen3 with 4-D positions: the same weights and layers, another rotary embedding."""

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2Model
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..errors import InputError
from ..positions import RopeAxes
from .rotary import DynImgRotaryEmbedding

if TYPE_CHECKING:
    _Base = Qwen2Model  # the attributes are the same in all of them
else:
    _Base = object


class _FourAxes(_Base):
    # What follows is put before a text model of transformers whose layers take cos and sin from outside.

    rotary_emb: DynImgRotaryEmbedding
    _keep_in_fp32_modules_strict = ["rotary_emb"]  # noqa: RUF012  (their idiom)
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # noqa: RUF012  (their idiom)

    def __init__(
        self,
        config: Qwen2Config | Qwen3Config,
        rope_axes: RopeAxes = "hwts",
        rope_combine: Literal["merge", "split"] = "merge",
        rope_trainable: bool = True,
    ) -> None:
        super().__init__(config)  # type: ignore[arg-type]  # of the model that comes next
        self.rotary_emb = DynImgRotaryEmbedding(config, rope_axes, rope_combine, rope_trainable)

    @torch.no_grad()
    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        # Of this class and not of the whole model: each PreTrainedModel initialises what it owns.
        if isinstance(module, DynImgRotaryEmbedding) and module.axis_theta is not None:
            init.copy_(module.axis_theta, module.initial_axis_theta())

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        refuse_reentrant(self, *args, **kwargs)
        super()._set_gradient_checkpointing(*args, **kwargs)

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Any] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Decode embeddings (B, L, D) to hidden states (B, L, D).

        Args:
            input_ids: (B, L), or None with `inputs_embeds`.
            attention_mask: (B, past + L), or the masks by layer type that `generate` prepares.
            position_ids: one of (4, B, L): h, w, t, s; (5, B, L): the token index first, which restarts at 0 in packed
                sequences; (B, L): the token index, for text alone. None counts on from the cache.
            past_key_values: the cache.
            inputs_embeds: (B, L, D), or None with `input_ids`.
            use_cache: whether to fill a cache; packed sequences never do.
            **kwargs: handed on to the attention.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        coordinates, token_positions = self._positions(position_ids, inputs_embeds, past_key_values)
        is_packed = position_ids is not None and len(position_ids) == 5 and position_ids.ndim == 3
        if use_cache and past_key_values is None and not is_packed:
            # With a cache, even an empty one, masks no longer tell packed sequences apart.
            past_key_values = DynamicCache(config=self.config)
        masks = self._masks(attention_mask, inputs_embeds, token_positions, past_key_values)
        if is_packed and "flash" in str(self.config._attn_implementation):
            kwargs = {**sequence_lengths(token_positions), **kwargs}
        rotation = self.rotary_emb(inputs_embeds, coordinates)

        hidden = inputs_embeds
        for layer, layer_type in zip(self.layers, self.config.layer_types or (), strict=True):
            hidden = layer(
                hidden,
                attention_mask=masks[layer_type],
                position_embeddings=rotation,
                # Never the coordinates: FlashAttention takes any step other than 1 for the start of a packed sequence.
                position_ids=token_positions,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden), past_key_values=past_key_values if use_cache else None
        )

    def _positions(
        self, position_ids: Tensor | None, inputs_embeds: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Tensor | None]:
        # Returns the coordinates (4, B, L) and the token indices (B, L), by which masks tell packed sequences apart.
        if position_ids is None:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past)[None]
        if position_ids.ndim == 2:
            return position_ids.expand(4, -1, -1), position_ids
        if position_ids.ndim == 3 and len(position_ids) == 4:
            return position_ids, None
        if position_ids.ndim == 3 and len(position_ids) == 5:
            return position_ids[1:], position_ids[0].long()
        raise InputError(f"position_ids must be (B, L), (4, B, L) or (5, B, L), got {tuple(position_ids.shape)}")

    def _masks(
        self,
        attention_mask: Tensor | dict[str, Any] | None,
        inputs_embeds: Tensor,
        token_positions: Tensor | None,
        cache: Cache | None,
    ) -> dict[str, Any]:
        if isinstance(attention_mask, dict):
            return attention_mask
        arguments: dict[str, Any] = {
            "config": self.config,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "past_key_values": cache,
            "position_ids": token_positions,
        }
        masks: dict[str, Any] = {"full_attention": create_causal_mask(**arguments)}
        if self.has_sliding_layers:
            masks["sliding_attention"] = create_sliding_window_causal_mask(**arguments)
        return masks


def sequence_lengths(token_positions: Tensor | None) -> dict[str, Any]:
    """Tell FlashAttention where packed sequences begin.

    It has no mask, and transformers finds the borders by itself in batches of one row only: with more rows, samples
    would see those before them.

    Args:
        token_positions: (B, L), each token's index within its sequence.

    Returns:
        Where sequences begin over all rows, one behind the other, and end; and the length of the longest.
    """
    if token_positions is None:
        return {}
    flat = token_positions.flatten()
    starts = (flat == 0).nonzero()[:, 0]
    borders = torch.cat([starts, starts.new_tensor([flat.numel()])]).to(torch.int32)
    longest = int(borders.diff().max())
    return {
        "cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip


class DynImgTextModel(_FourAxes, Qwen2Model):
    """Run Qwen2 on embeddings whose positions have four coordinates.

    Loads any Qwen2 checkpoint; only `rotary_emb.axis_theta` is new. On text, with `axis_theta` at its initial values,
    the output is Qwen2's bit for bit.
    """


class DynImgQwen3TextModel(_FourAxes, Qwen3Model):  # type: ignore[misc]  # declared as if it were a Qwen2
    """Run Qwen3 on embeddings whose positions have four coordinates; see `DynImgTextModel`."""


TEXT_MODELS: dict[str, Any] = {"qwen2": DynImgTextModel, "qwen3": DynImgQwen3TextModel}
"""The language models that a DynImg model can have, by the `model_type` of their configuration."""


def refuse_reentrant(model: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
    """Refuse reentrant checkpointing while theta learns.

    All layers share cos and sin, which carry the gradient to theta; the reentrant kind walks back through them once per
    layer, and the second walk fails.

    Raises:
        InputError: where the checkpoint function among the arguments is reentrant.
    """
    reentrant = any(
        getattr(value, "keywords", {}).get("use_reentrant") is True
        for value in (*args, *kwargs.values())
        if hasattr(value, "keywords")
    )
    thetas = [module.axis_theta for module in model.modules() if isinstance(module, DynImgRotaryEmbedding)]
    if reentrant and any(theta is not None and theta.requires_grad for theta in thetas):
        raise InputError("use_reentrant=True cannot train axis_theta; set use_reentrant=False or rope_trainable=False")
