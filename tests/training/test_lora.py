"""LoRA: what learns, what is saved, and that it comes back."""

import json

import pytest
import torch
import yaml

from dynimg_vl import DynImgForConditionalGeneration, DynImgProcessor
from dynimg_vl.errors import InputError
from dynimg_vl.model.pretrained import load_pretrained, read_config
from dynimg_vl.training.lora import LoraSettings, add_lora, merged
from runs import curve, samples_about_clips, train_here, weights
from tiny import tiny_inputs, tiny_model

pytest_plugins = ["run_fixtures"]
LORA = {"r": 4, "alpha": 8, "dropout": 0.0}


def learning(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model, seed=0):
    with torch.no_grad():
        return model.eval()(**tiny_inputs(tiny_model().config, seed=seed)).logits


def test_adapters_theta_and_projector_learn_and_nothing_else():
    model = add_lora(tiny_model(), LoraSettings(r=2))
    names = learning(model)
    assert all("lora_" in name or "rotary_emb" in name or "multi_modal_projector" in name for name in names)
    assert len([name for name in names if name.endswith("axis_theta")]) == 1
    assert len([name for name in names if "multi_modal_projector" in name]) == 4
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in names if ".lora_" in name}
    assert adapted == {"q_proj", "v_proj"}
    assert not [name for name in names if "vision_tower" in name]


def test_the_model_is_unchanged_at_the_start():
    torch.testing.assert_close(logits(add_lora(tiny_model(theta=0.1), LoraSettings())), logits(tiny_model(theta=0.1)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rank": 4}, "unknown key 'rank'"),
        ({"r": 0}, "r must be at least 1"),
        ({"dropout": 1.0}, "dropout must lie in"),
        ({"target_modules": None}, "target_modules must be names of layers, got None"),
        ({"target_modules": [5]}, r"target_modules must be names of layers, got \[5\]"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        LoraSettings.from_values(values)


def test_a_target_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no layer is called 'query'; there are down_proj"):
        add_lora(tiny_model(), LoraSettings(target_modules=("query",)))


def test_a_model_without_theta_gets_adapters_all_the_same():
    names = learning(add_lora(tiny_model(rope_axes="s"), LoraSettings()))
    assert not [name for name in names if "rotary_emb" in name]


def test_save_reload_and_merge_give_the_model_that_was_trained(recipe_of, tiny_folder, tmp_path):
    import peft

    result = train_here(recipe_of(samples_about_clips(8), lora={**LORA, "merge": True}))
    adapter = weights(result.model)
    base = weights(tiny_folder)
    theta = next(value for name, value in adapter.items() if name.endswith("axis_theta"))
    assert (theta - base["model.language_model.rotary_emb.axis_theta"]).abs().max() > 1e-3
    assert theta.dtype == torch.float32
    assert len([name for name in adapter if "multi_modal_projector" in name]) == 4
    assert len(adapter) < len(base)

    plain = DynImgForConditionalGeneration.from_pretrained(tiny_folder)
    reloaded = peft.PeftModel.from_pretrained(plain, result.model)
    expected = logits(reloaded)
    assert (expected - logits(DynImgForConditionalGeneration.from_pretrained(tiny_folder))).abs().max() > 1e-2
    whole = DynImgForConditionalGeneration.from_pretrained(tmp_path / "run" / "merged")
    torch.testing.assert_close(logits(whole), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits(merged(reloaded)), expected, atol=1e-4, rtol=1e-4)


def test_checkpointing_does_not_change_the_losses(recipe_of, tmp_path):
    for output, on in (("plain", False), ("checkpointed", True)):
        train_here(recipe_of(samples_about_clips(8), output=output, lora=LORA, gradient_checkpointing=on))
    assert curve(tmp_path / "plain") == pytest.approx(curve(tmp_path / "checkpointed"), abs=1e-4)


def test_an_adapter_names_its_base_and_holds_what_belongs_to_it(recipe_of, tiny_folder):
    result = train_here(recipe_of(samples_about_clips(8), lora=LORA))
    named = json.loads((result.model / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == str(tiny_folder)
    assert read_config(str(result.model)).layout == read_config(str(tiny_folder)).layout
    assert DynImgProcessor.from_pretrained(result.model).tokenizer.pad_token_id == 0


def test_a_folder_with_an_adapter_loads_as_the_merged_model(recipe_of, tmp_path):
    result = train_here(recipe_of(samples_about_clips(8), lora={**LORA, "merge": True}))
    loaded, _ = load_pretrained(result.model, device="cpu")
    whole = DynImgForConditionalGeneration.from_pretrained(tmp_path / "run" / "merged")
    torch.testing.assert_close(logits(loaded), logits(whole), atol=1e-4, rtol=1e-4)


def test_an_adapter_without_its_base_is_refused(recipe_of, tmp_path):
    result = train_here(recipe_of(samples_about_clips(8), lora=LORA))
    settings = result.model / "adapter_config.json"
    values = json.loads(settings.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}
    settings.write_text(json.dumps(values))
    with pytest.raises(InputError, match="gone"):
        load_pretrained(result.model, device="cpu")


def test_lora_on_a_model_that_is_nowhere_is_refused(recipe_of):
    recipe = recipe_of(samples_about_clips(4), lora=LORA)
    values = yaml.safe_load(recipe.read_text())
    values["model"] = {"vision": "a", "text": "b"}
    recipe.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="LoRA needs model: path"):
        train_here(recipe)
