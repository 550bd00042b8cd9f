"""The DynImg model: SigLIP, a pooling projector and Qwen2 with 4-D positions (Section 3, Figure 2).

Shapes: B batch, L sequence, G DynImgs of the whole batch, N prompt frames, P patches, K tokens per DynImg, S pixels
along a side, V videos of the whole batch, C and D widths.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.siglip.modeling_siglip import SiglipVisionModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from ..errors import InputError
from ..positions import dynimg_position_ids
from .configuration_dynimg import DynImgConfig
from .generation import DynImgGenerationMixin
from .position_cache import Start, first_position, has_notes, note_positions
from .projector import DynImgProjector, pool_time
from .text_model import TEXT_MODELS, DynImgTextModel, refuse_reentrant
from .tile_encoding import encode_apart, frame_of_patches


@dataclass
class DynImgModelOutputWithPast(BaseModelOutputWithPast):
    """Add the visual tokens (all tokens, D) that went into the language model; None where there was no video."""

    video_hidden_states: Tensor | None = None


@dataclass
class DynImgCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Add the visual tokens (all tokens, D) that went into the language model; None where there was no video."""

    video_hidden_states: Tensor | None = None


class DynImgPreTrainedModel(PreTrainedModel):
    """Tell transformers what a DynImg model can do."""

    config: DynImgConfig
    config_class = DynImgConfig
    base_model_prefix = "model"
    input_modalities = ["video", "text"]  # noqa: RUF012  (their idiom)
    supports_gradient_checkpointing = True
    _no_split_modules = [  # noqa: RUF012
        "Qwen2DecoderLayer",
        "Qwen3DecoderLayer",
        "SiglipEncoderLayer",
        "SiglipVisionEmbeddings",
    ]
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["rotary_emb"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model, as all of transformers' do; what no step reads stays frozen."""
        result = super().from_pretrained(*args, **kwargs)
        for module in (result[0] if isinstance(result, tuple) else result).modules():
            if isinstance(module, DynImgModel):
                module.freeze_unread_layers()
        return result

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        refuse_reentrant(self, *args, **kwargs)
        super()._set_gradient_checkpointing(*args, **kwargs)


class DynImgModel(DynImgPreTrainedModel):
    """Read videos as DynImgs and decode them together with text."""

    def __init__(self, config: DynImgConfig) -> None:
        super().__init__(config)
        self.vision_tower = SiglipVisionModel._from_config(config.vision_config)
        self.multi_modal_projector = DynImgProjector(config)
        self.language_model: DynImgTextModel = TEXT_MODELS[config.text_config.model_type]._from_config(
            config.text_config,
            rope_axes=config.rope_axes,
            rope_combine=config.rope_combine,
            rope_trainable=config.rope_trainable,
        )
        self.freeze_unread_layers()
        self.post_init()

    def freeze_unread_layers(self) -> None:
        """Freeze what comes after the projected layer of the vision tower.

        It never gets a gradient, and DistributedDataParallel stops at parameters that learn but get none.
        """
        layers = self.vision_tower.encoder.layers
        num_read = self.config.vision_feature_layer % (len(layers) + 1)
        for module in (*layers[num_read:], self.vision_tower.post_layernorm, getattr(self.vision_tower, "head", None)):
            if module is not None:
                module.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        """Give the token embedding of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding of the language model."""
        self.language_model.set_input_embeddings(value)

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        dynimgs_per_video: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> DynImgModelOutputWithPast:
        """Encode, project, place, position, decode.

        Args:
            input_ids: (B, L), one `video_token_id` per visual token; or None with `inputs_embeds`.
            pixel_values_videos: (G, 3, S, S), in the order of the placeholders; (G, 1 + N, 3, S, S), keyframe first,
                with `prompt_stage="after"`. None for text.
            dynimgs_per_video: (V,), how many of the G belong to each video. None: each counts as a video of its own.
            attention_mask: (B, past + L), or what `generate` prepares.
            position_ids: (4, B, L) or (5, B, L) coordinates as the language model takes them. None: computed from the
                token ids. Integers (B, L) are token indices: without a mask, they restart at 0 where sequences are
                packed; nothing else is read from them. Text alone, without a mask, is where they say.
            past_key_values: the cache.
            inputs_embeds: (B, L, D), or None with `input_ids`.
            use_cache: whether to fill a cache.
            mm_encoder_outputs: {"video": what `get_video_features` gave} instead of pixels.
            **kwargs: handed on to the attention of the language model.

        Raises:
            InputError: where the number of placeholders is not the number of visual tokens.
        """
        inputs_embeds = self._embed(input_ids, inputs_embeds)
        videos = (mm_encoder_outputs or {}).get("video")
        if videos is None and pixel_values_videos is not None:
            videos = self.get_video_features(pixel_values_videos, dynimgs_per_video, return_dict=True)
        is_video = self.get_placeholder_mask(input_ids, inputs_embeds)
        tokens = self._visual_tokens(videos, inputs_embeds, is_video)
        inputs_embeds = self._place(tokens, inputs_embeds, is_video)
        position_ids, start = self._locate(is_video, attention_mask, position_ids, past_key_values, tokens is not None)
        outputs = self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        # A cache that was given is filled in any case, and handed back with `use_cache` only.
        cache = outputs.past_key_values if past_key_values is None else past_key_values
        note_positions(cache, position_ids, is_video, start, self.config.layout.tokens_per_dynimg, tokens is not None)
        return DynImgModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=tokens,
        )

    @can_return_tuple
    def get_video_features(
        self, pixel_values_videos: Tensor, dynimgs_per_video: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode DynImgs and project them to visual tokens.

        Args:
            pixel_values_videos: (G, 3, S, S), or (G, 1 + N, 3, S, S) with `prompt_stage="after"`.
            dynimgs_per_video: (V,), how many of the G belong to each video. None: each counts as a video of its own.
            **kwargs: ignored; `return_dict` is dealt with by transformers.

        Returns:
            `pooler_output`: one (tokens, D) per video; `last_hidden_state`: the projected layer (G, P, C).

        Raises:
            InputError: where the pixels have another shape, or the numbers per video do not sum to G.
        """
        self._check_pixels(pixel_values_videos)
        features = self._encode(pixel_values_videos)  # (G, P, C), or (G, 1 + N, P, C)
        tokens = self.multi_modal_projector(features)  # (G, K, D)
        counts = [1] * len(tokens) if dynimgs_per_video is None else dynimgs_per_video.tolist()
        if sum(counts) != len(tokens):
            raise InputError(f"dynimgs_per_video sums to {sum(counts)}, but there are {len(tokens)} DynImgs")
        pooled = [pool_time(video, self.config.max_dynimgs).flatten(0, 1) for video in tokens.split(counts)]
        return BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=pooled)  # type: ignore[arg-type]  # a list per video, as their models give

    def _encode(self, pixels: Tensor) -> Tensor:
        layer = self.config.vision_feature_layer
        if self.config.prompt_stage == "tiles":
            layers = self.vision_tower.encoder.layers
            states = self.vision_tower.embeddings(pixels, interpolate_pos_encoding=True)
            frames = frame_of_patches(self.config.layout).to(pixels.device)
            return encode_apart(layers[: layer % (len(layers) + 1)], states, frames)
        outputs = self.vision_tower(
            pixels.flatten(0, -4),
            interpolate_pos_encoding=True,  # nothing happens where the checkpoint has this very grid
            output_hidden_states=True,  # a list of layers means different layers in transformers 5.19 and 5.23
            return_dict=True,
        )
        return outputs.hidden_states[layer].unflatten(0, pixels.shape[:-3])

    def _check_pixels(self, pixels: Tensor) -> None:
        layout = self.config.layout
        frames = (len(layout.tiles),) if self.config.prompt_stage == "after" else ()
        expected = (*frames, 3, layout.image_size, layout.image_size)
        if tuple(pixels.shape[1:]) != expected:
            raise InputError(
                f"this model (prompt_stage={self.config.prompt_stage!r}) reads pixel_values_videos of shape "
                f"(G, {', '.join(map(str, expected))}), got {tuple(pixels.shape)}"
            )

    def get_placeholder_mask(self, input_ids: Tensor | None, inputs_embeds: Tensor) -> Tensor:
        """Mark the places (B, L) that visual tokens take."""
        if input_ids is not None:
            return input_ids == self.config.video_token_id
        video_token = torch.tensor(self.config.video_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(video_token)).all(-1)

    def _visual_tokens(
        self, videos: BaseModelOutputWithPooling | None, inputs_embeds: Tensor, is_video: Tensor
    ) -> Tensor | None:
        # Returns all visual tokens of the batch (tokens, D) in the order of their placeholders.
        tokens = None if videos is None else torch.cat(list(videos.pooler_output or ())).to(inputs_embeds)
        # A step of decoding brings no features and, since the video token is never generated, needs no check.
        if torch.compiler.is_compiling() or (tokens is None and is_video.shape[1] == 1):
            return tokens
        num_places, num_tokens = int(is_video.sum()), 0 if tokens is None else len(tokens)
        if num_places != num_tokens:
            raise InputError(
                f"the text has {num_places} video placeholders, but the videos have {num_tokens} visual tokens "
                f"({self.config.layout.tokens_per_dynimg} per DynImg)"
            )
        return tokens

    def _place(self, tokens: Tensor | None, inputs_embeds: Tensor, is_video: Tensor) -> Tensor:
        if tokens is not None:
            return inputs_embeds.masked_scatter(is_video[..., None], tokens)
        if self.training and torch.distributed.is_available() and torch.distributed.is_initialized():
            # A batch of text alone must still run the vision tower, or the other ranks wait for its gradients for ever.
            size = self.config.layout.image_size
            frames = (len(self.config.layout.tiles),) if self.config.prompt_stage == "after" else ()
            black = inputs_embeds.new_zeros(1, *frames, 3, size, size)
            return inputs_embeds + 0 * self.get_video_features(black, return_dict=True).pooler_output[0].sum()
        return inputs_embeds

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        # Before the vision tower, also without video: FSDP gathers in the order of use.
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        return self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds

    def _locate(
        self, is_video: Tensor, attention_mask: Any, position_ids: Tensor | None, cache: Cache | None, has_video: bool
    ) -> tuple[Tensor, Start | None]:
        # Returns the positions as the language model takes them, and where the first of them goes on from a cache.
        if position_ids is not None and position_ids.is_floating_point() and position_ids.ndim == 2:
            raise InputError("position_ids of shape (B, L) are token indices; give coordinates as (4, B, L)")
        mask = attention_mask if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2 else None
        is_given = position_ids is not None and position_ids.ndim == 3
        start = first_position(cache, is_video, mask, is_wanted=has_video or not is_given)
        if position_ids is None:
            return self.position_ids(is_video, mask, start), start
        if is_given:
            return position_ids, start
        is_packed = attention_mask is None and bool((position_ids[:, 1:] == 0).any())
        if mask is None and not has_video and not has_notes(cache):
            # As a language model has them: continuous batching continues sequences that no cache of ours knows.
            return position_ids.expand(5, -1, -1) if is_packed else position_ids, start
        if not is_packed:
            return self.position_ids(is_video, mask, start), start
        coordinates = self.position_ids(is_video, None, token_positions=position_ids)
        return torch.cat([position_ids.expand_as(is_video)[None].to(coordinates), coordinates]), None

    def position_ids(
        self, is_video: Tensor, attention_mask: Tensor | None, start: Start | None = None, **kwargs: Any
    ) -> Tensor:
        """Compute the coordinates (4, B, L) of a batch from its placeholder mask, as this model is configured."""
        sequence, place = (None, None) if start is None else start
        return dynimg_position_ids(
            is_video.long(),
            attention_mask,
            layout=self.config.layout,
            video_token_id=1,
            rope_axes=self.config.rope_axes,
            sequence_step=self.config.sequence_step,
            start=sequence,
            start_place=place,
            **kwargs,
        )


class DynImgForConditionalGeneration(DynImgPreTrainedModel, DynImgGenerationMixin):
    """Answer questions about videos."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012

    def __init__(self, config: DynImgConfig) -> None:
        super().__init__(config)
        self.model = DynImgModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_backbones(cls, vision: str, text: str, *, dtype: Any = "auto", **config: Any) -> Any:
        """Build a DynImg model from checkpoints of SigLIP (1 or 2) and Qwen (2, 2.5 or 3); see `assembly.assemble`."""
        from .assembly import assemble

        return assemble(cls, vision, text, dtype=dtype, **config)

    def get_video_features(
        self, pixel_values_videos: Tensor, dynimgs_per_video: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Encode DynImgs and project them to visual tokens, see `DynImgModel.get_video_features`."""
        return self.model.get_video_features(pixel_values_videos, dynimgs_per_video, **kwargs)

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        dynimgs_per_video: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> DynImgCausalLMOutputWithPast:
        """Predict the next token at every place: logits (B, L, vocabulary), and the loss where `labels` are given.

        Args:
            input_ids: (B, L); this and what follows, as in `DynImgModel.forward`.
            pixel_values_videos: (G, 3, S, S), or (G, 1 + N, 3, S, S).
            dynimgs_per_video: (V,).
            attention_mask: (B, past + L).
            position_ids: (4, B, L), (5, B, L) or (B, L).
            past_key_values: the cache.
            inputs_embeds: (B, L, D).
            labels: (B, L), the ids to predict, -100 where there is no loss; not shifted.
            use_cache: whether to fill a cache.
            logits_to_keep: compute the last so many logits only (0: all), or those at the given places.
            mm_encoder_outputs: {"video": what `get_video_features` gave} instead of pixels.
            **kwargs: handed on to the attention and the loss.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values_videos=pixel_values_videos,
            dynimgs_per_video=dynimgs_per_video,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            mm_encoder_outputs=mm_encoder_outputs,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            vocab_size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)
        return DynImgCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            video_hidden_states=outputs.video_hidden_states,
        )
