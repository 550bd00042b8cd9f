"""What `generate` has to know of DynImgs: their coordinates, and that a visual token is never an answer."""

import copy
from typing import Any

from torch import Tensor, nn
from transformers.generation import GenerationConfig, GenerationMixin

from ..errors import InputError
from .chat_template import END_TOKEN
from .position_cache import first_position

GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""The likeliest token at each step, whatever the source of a model does: a penalty would count for the prompt, too."""

_OF_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


def answering_config(source: GenerationConfig | None, tokenizer: Any, video_token_id: int) -> GenerationConfig:
    """Take over how a language model generates, so that the end of a turn always ends an answer.

    A base model ends at the end of its text only, which ChatML has none of.

    Args:
        source: of the language model; None where it says nothing.
        tokenizer: that knows ChatML.
        video_token_id: is never generated.
    """
    config = GenerationConfig(pad_token_id=tokenizer.pad_token_id) if source is None else copy.deepcopy(source)
    if not config.do_sample and any(getattr(config, name) is not None for name in _OF_SAMPLING):
        config.do_sample = True  # or transformers refuses to write it; ours decode greedily all the same
    known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    end = tokenizer.get_vocab().get(END_TOKEN)
    ends = [each for each in (end, *known) if each is not None]
    config.eos_token_id = list(dict.fromkeys(ends)) or None
    config.suppress_tokens = [video_token_id]
    return config


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

    def _get_candidate_generator(self, generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        # A draft model is given token ids alone: it would see placeholders where the videos are.
        model_kwargs = kwargs.get("model_kwargs") or {}
        has_draft = kwargs.get("assistant_model") is not None or generation_config.assistant_early_exit is not None
        has_video = any(model_kwargs.get(name) is not None for name in ("pixel_values_videos", "mm_encoder_outputs"))
        if has_draft and has_video:
            raise InputError("a draft model cannot see videos; leave assistant_model and assistant_early_exit out")
        return super()._get_candidate_generator(generation_config, *args, **kwargs)  # type: ignore[misc]

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
        coordinates = self.model.position_ids(is_video, mask, first_position(cache, is_video, mask))
        return nn.functional.pad(coordinates, (past, 0))

    def _update_model_kwargs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # A prompt may end in a visual token, whose h, w and t must not be counted on: what comes next is text.
        model_kwargs = super()._update_model_kwargs_for_generation(*args, **kwargs)
        positions, num_new = model_kwargs.get("position_ids"), kwargs.get("num_new_tokens", 1)
        if positions is not None and positions.ndim == 3:
            positions[-4:-1, :, -num_new:] = positions[-1:, :, -num_new:]
        return model_kwargs
