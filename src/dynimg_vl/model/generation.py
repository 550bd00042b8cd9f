"""What `generate` has to know of DynImgs: their coordinates, and that a visual token is never an answer."""

from typing import Any

from torch import Tensor, nn
from transformers.generation import GenerationMixin

from .position_cache import first_position


class DynImgGenerationMixin(GenerationMixin):
    """Fit coordinates of four axes into transformers' generation."""

    config: Any
    model: Any

    def _prepare_generation_config(self, *args: Any, **kwargs: Any) -> Any:
        # The video token is no word: an answer must not hold it, and prompt lookup must not copy it from the prompt.
        generation_config, model_kwargs = super()._prepare_generation_config(*args, **kwargs)  # type: ignore[misc]
        suppressed = set(generation_config.suppress_tokens or ())
        generation_config.suppress_tokens = sorted(suppressed | {self.config.video_token_id})
        return generation_config, model_kwargs

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Tensor:
        # Coordinates of the prompt, (4, B, past + L). `generate` counts them on by itself, whatever their rank.
        input_ids, embeds = model_kwargs.get("input_ids"), None
        if input_ids is None or input_ids.shape[1] == 0:
            input_ids, embeds = (inputs_tensor, None) if inputs_tensor.ndim == 2 else (None, inputs_tensor)
        is_video = self.model.get_placeholder_mask(input_ids, embeds)
        mask, cache = model_kwargs.get("attention_mask"), model_kwargs.get("past_key_values")
        past = cache.get_seq_length() if cache is not None else 0
        if past == 0 or mask is None or mask.shape[1] == is_video.shape[1]:
            return self.model.position_ids(is_video, mask)  # the whole conversation was passed
        coordinates = self.model.position_ids(is_video, mask, start=first_position(cache, is_video, mask))
        return nn.functional.pad(coordinates, (past, 0))

    def _update_model_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # A prompt may end in a visual token, whose h, w and t must not be counted on: what comes next is text.
        model_kwargs = super()._update_model_kwargs_for_generation(*args, **kwargs)
        positions, num_new = model_kwargs.get("position_ids"), kwargs.get("num_new_tokens", 1)
        if positions is not None and positions.ndim == 3:
            positions[-4:-1, :, -num_new:] = positions[-1:, :, -num_new:]
        return model_kwargs
