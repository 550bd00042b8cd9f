"""What the weights of a DynImg model need to be read: its parts, its geometry, its positions."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

from ..errors import InputError
from ..layout import DynImgLayout

SIGLIP_SO400M_384: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 384,
    "vision_use_head": False,
}
"""The vision tower of Section 4.1."""

QWEN2_5_7B: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
"""The language model of Section 4.1."""


@strict
class DynImgConfig(PreTrainedConfig):
    """Describe a DynImg model; the defaults are those of the paper (Section 4.1).

    Args:
        vision_config: a `SiglipVisionConfig` or its dict; it also holds the patch size.
        text_config: a `Qwen2Config`, a `Qwen3Config`, or the dict of one; it also holds the base of theta_s.
        prompt_stage: where prompt frames meet the keyframe: "before" the encoder (in pixels), "after" it (each frame is
            encoded alone, the features are pooled to the same tiles), or "none" (keyframes only). Table 3. A control of
            our own: "tiles", as "after" but each frame at the size and place that it has in the DynImg, so that
            nothing differs from "before" but what patches see of other frames.
        rope_axes: the coordinates that rotate: "s" (plain 1-D positions), "hws" or "hwts". Table 6.
        rope_combine: "merge" sums the angles of all axes (Equation 2), "split" gives each axis its own channels
            (Table 6).
        rope_trainable: whether theta_h, theta_w and theta_t learn. They start at 0 (merge) or at the values of
            theta_s in the same channels (split), and stay there when fixed.
        sequence_step: what moves s forward: one "dynimg" (the paper) or every "token".
        vision_feature_layer: the hidden state of the vision tower that is projected; -2 is the second to last.
        num_dynimgs: DynImgs per video.
        num_prompt_frames: prompt frames per DynImg, N.
        token_grid: pooled tokens along a side; a DynImg has token_grid ** 2.
        patch_grid: patches along a side; a DynImg is patch_grid * patch_size pixels wide and high.
        max_dynimgs: the 16 of the pooling shape (16, 12, 12): longer videos are averaged over time to this many
            DynImgs, shorter ones are left as they are (576 tokens only come out if time is not up-sampled).
        projector_hidden_act: the activation between the two linear layers of the projector.
        video_token_id: the placeholder of a visual token; 151656 is <|video_pad|> in Qwen's vocabulary.
    """

    model_type = "dynimg"
    sub_configs = {"vision_config": SiglipVisionConfig, "text_config": Qwen2Config}  # noqa: RUF012  (their idiom)
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012  (their idiom)

    vision_config: Any = None
    text_config: Any = None
    prompt_stage: Literal["before", "after", "tiles", "none"] = "before"
    rope_axes: Literal["s", "hws", "hwts"] = "hwts"
    rope_combine: Literal["merge", "split"] = "merge"
    rope_trainable: bool = True
    sequence_step: Literal["dynimg", "token"] = "dynimg"
    vision_feature_layer: int = -2
    num_dynimgs: int = 4
    num_prompt_frames: int = 4
    token_grid: int = 12
    patch_grid: int = 24
    max_dynimgs: int = 16
    projector_hidden_act: str = "gelu"
    video_token_id: int = 151656
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs):
        self.vision_config = _sub_config(SiglipVisionConfig, self.vision_config, SIGLIP_SO400M_384)
        self.text_config = _sub_config(_text_class(self.text_config), self.text_config, QWEN2_5_7B)
        # Checkpoints of the text model say it in their own config.
        self.tie_word_embeddings = self.tie_word_embeddings or self.text_config.tie_word_embeddings
        for name in ("num_dynimgs", "max_dynimgs"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        depth = self.vision_config.num_hidden_layers
        if not -depth - 1 <= self.vision_feature_layer <= depth:
            raise InputError(f"vision_feature_layer {self.vision_feature_layer} does not fit a tower of {depth} layers")
        if self.video_token_id >= self.text_config.vocab_size:
            raise InputError(
                f"video_token_id {self.video_token_id} is outside of the vocabulary of {self.text_config.vocab_size}"
            )
        _ = self.layout  # refuses a geometry that does not work out
        super().__post_init__(**kwargs)

    @property
    def layout(self) -> DynImgLayout:
        """Give the geometry of a DynImg; with `prompt_stage="none"` the keyframe has the whole grid."""
        return DynImgLayout(
            num_prompt_frames=0 if self.prompt_stage == "none" else self.num_prompt_frames,
            token_grid=self.token_grid,
            patch_grid=self.patch_grid,
            patch_size=self.vision_config.patch_size,
        )


def _text_class(value: Any) -> type:
    kind = value.get("model_type") if isinstance(value, dict) else getattr(value, "model_type", None)
    return Qwen3Config if kind == "qwen3" else Qwen2Config


def _sub_config(config_class: type, value: dict | PreTrainedConfig | None, default: dict) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        if not isinstance(value, config_class):
            raise InputError(f"a DynImg model is built on a {config_class.__name__}, got a {type(value).__name__}")
        return value
    return config_class(**(default if value is None else value))
