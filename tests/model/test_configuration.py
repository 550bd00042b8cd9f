import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config

from dynimg_vl import DynImgConfig, DynImgLayout, InputError
from tiny import tiny_config


def test_the_defaults_are_those_of_the_paper():
    config = DynImgConfig()
    assert config.layout == DynImgLayout()
    assert config.num_dynimgs * config.layout.tokens_per_dynimg == 576
    assert (config.vision_config.hidden_size, config.vision_config.image_size) == (1152, 384)
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (3584, 28)
    assert config.text_config.rope_parameters["rope_theta"] == 1e6
    assert (config.prompt_stage, config.rope_axes, config.rope_combine) == ("before", "hwts", "merge")


def test_a_config_survives_its_own_dictionary(tmp_path):
    config = tiny_config(rope_axes="hws", rope_combine="split", prompt_stage="after", max_dynimgs=3)
    config.save_pretrained(tmp_path)
    again = DynImgConfig.from_pretrained(tmp_path)
    assert again.layout == config.layout
    assert again.vision_config.hidden_size == config.vision_config.hidden_size
    for name in ("rope_axes", "rope_combine", "prompt_stage", "max_dynimgs", "video_token_id"):
        assert getattr(again, name) == getattr(config, name)


def test_a_small_geometry_takes_its_patch_size_from_the_vision_tower():
    config = tiny_config(token_grid=8, patch_grid=16, num_prompt_frames=4, vision={"patch_size": 8})
    assert config.layout == DynImgLayout(4, 8, 16, 8)


def test_without_prompts_the_keyframe_has_the_whole_grid():
    assert tiny_config(prompt_stage="none").layout.tiles == DynImgLayout(0, 4, 8, 8).tiles


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prompt_frames": 3}, "3 prompt frames do not fit"),
        ({"num_dynimgs": 0}, "num_dynimgs must be at least 1, got 0"),
        ({"vision_feature_layer": -7}, "tower of 3 layers"),
        ({"video_token_id": 500}, "outside of the vocabulary of 128"),
        ({"patch_grid": 2}, "needs at least as many patches"),
    ],
)
def test_what_does_not_work_out_is_refused(fields, message):
    with pytest.raises(InputError, match=message):
        tiny_config(**fields)


def test_a_backbone_of_another_kind_is_refused():
    with pytest.raises(InputError, match="built on a SiglipVisionConfig, got a Qwen2Config"):
        DynImgConfig(vision_config=Qwen2Config())


def test_an_unknown_choice_is_refused():
    with pytest.raises(StrictDataclassFieldValidationError, match="rope_axes"):
        tiny_config(rope_axes="thw")
