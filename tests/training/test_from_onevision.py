"""From a converted model to a DynImg model with four axes: the recipe of the project on a tiny source."""

import json
from pathlib import Path

import torch
import yaml

from dynimg_vl.conversion import convert
from dynimg_vl.model import load_pretrained
from llava import GEOMETRY, save_source, source_model
from runs import TRAINING, samples_about_clips, train_here, weights
from tiny import tiny_inputs

RECIPE = Path(__file__).parents[2] / "recipes" / "from_onevision_lora.yaml"
THETA = "rotary_emb.axis_theta"


def test_two_steps_of_the_recipe_move_theta_and_leave_the_source(tmp_path, clips):
    source = save_source(tmp_path / "source", source_model())
    convert(str(source), tmp_path / "model", rope_axes="hwts", **GEOMETRY)
    before = weights(tmp_path / "model")
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, samples_about_clips(8))))
    values = yaml.safe_load(RECIPE.read_text())
    values["model"] = {"path": str(tmp_path / "model"), "dtype": "float32"}
    values["data"] |= {"path": str(data), "video_root": str(clips)}
    for key in ("bf16", "num_train_epochs", "gradient_accumulation_steps", "dataloader_num_workers", "save_steps"):
        values["training"].pop(key)
    values["training"] |= {**TRAINING, "output_dir": str(tmp_path / "run"), "max_steps": 2, "warmup_steps": 0}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    result = train_here(recipe)

    adapter = weights(result.model)
    (theta,) = [value for name, value in adapter.items() if name.endswith(THETA)]
    assert theta.abs().max() > 0
    assert len([name for name in adapter if "lora_B" in name]) == 4 * 2  # four kinds of layer, two layers
    after = weights(tmp_path / "model")
    assert all(after[name].equal(value) for name, value in before.items())
    model, processor = load_pretrained(result.model, device="cpu", dtype="float32")
    assert model.config.rope_axes == "hwts"
    assert model.config.sequence_step == "token"
    assert model.model.language_model.rotary_emb.axis_theta.equal(theta)
    assert processor.video_token == "<video>"
    with torch.no_grad():
        assert model(**tiny_inputs(model.config)).logits.isfinite().all()
