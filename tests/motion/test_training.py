"""The trainer: what it computes is what the model computes, it learns, and it can be interrupted."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from dynimg_vl import InputError
from dynimg_vl.motion.textures import PictureBank
from dynimg_vl.training.motion.data import BatchPlan, MotionDataset, Packer
from dynimg_vl.training.motion.export import export_model, load_checkpoint
from dynimg_vl.training.motion.losses import MotionHeads
from dynimg_vl.training.motion.step import LossWeights, MotionStep, exact_matches, head_ids
from dynimg_vl.training.motion.tokenizer import build_tokenizer
from dynimg_vl.training.motion.trainer import MotionRecipe, MotionTrainer, build_model

RECIPE = Path(__file__).parents[2] / "recipes" / "motion_cpu.yaml"


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def bank():
    return PictureBank.procedural(16, torch.Generator().manual_seed(0))


def small_recipe(tmp_path, steps=20, **changes):
    values = yaml.safe_load(RECIPE.read_text())
    values["vision"].update(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    values["text"].update(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2)
    values["stages"] = [
        {
            "name": "smoke",
            "steps": steps,
            "warmup_steps": 5,
            "batch": {"batch_size": 12, "num_keyframe_tokens": 4, "num_questions": 2},
        }
    ]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**values, **changes}))
    return MotionRecipe.from_file(path)


def first_and_last(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "text" in row]
    return rows[0], rows[-1]


def test_twenty_steps_lower_the_losses(tmp_path, tokenizer, bank):
    trainer = MotionTrainer(small_recipe(tmp_path), tmp_path / "run", tokenizer, bank=bank, num_workers=0)
    assert trainer.run(log_steps=5, evaluate_steps=0)
    first, last = first_and_last(tmp_path / "run")
    assert last["text"] < 0.85 * first["text"]
    assert last["attention"] < first["attention"]


def test_a_run_goes_on_where_it_was_interrupted(tmp_path, tokenizer, bank):
    recipe = small_recipe(tmp_path, steps=4)

    def run(folder, stop_after=None):
        trainer = MotionTrainer(recipe, tmp_path / folder, tokenizer, bank=bank, num_workers=0)
        trainer.resume()
        if stop_after:
            update = trainer._update

            def count(*args):
                trainer._stop = trainer.step + 1 >= stop_after
                return update(*args)

            trainer._update = count
        finished = trainer.run(evaluate_steps=0)
        return finished, trainer.model.state_dict()

    finished, whole = run("whole")
    assert finished
    finished, _ = run("parts", stop_after=2)
    assert not finished
    finished, parts = run("parts")
    assert finished
    for name, values in whole.items():
        assert torch.allclose(values, parts[name], atol=1e-5), name


def test_a_step_computes_what_the_model_computes(tmp_path, tokenizer, bank):
    recipe = small_recipe(tmp_path)
    torch.manual_seed(0)
    model = build_model(recipe, tokenizer).eval()
    with torch.no_grad():
        model.model.language_model.rotary_emb.axis_theta.normal_(std=0.1)
    head = head_ids(tokenizer, 64)
    step = MotionStep(model, MotionHeads(64), head, LossWeights())
    dataset = MotionDataset(BatchPlan(6, 48, 3), model.config.layout, bank, 1, 0, tokenizer, refresh=False)
    batch = dataset[0]
    with torch.no_grad():
        features, _ = step.encode(batch.pixels, batch.keep_tokens)
        visual = step.project(features)
        pixels = batch.pixels.float() / 127.5 - 1
        pooled = torch.stack(model.get_video_features(pixels, return_dict=True).pooler_output)
        assert torch.allclose(visual, pooled, atol=1e-4)
        # The first block of the first clip, alone, through the model's own forward pass.
        length = int((batch.text.block[0] == 1).sum())
        ids = torch.cat((head, batch.text.ids[0, :length]))[None]
        whole = model(input_ids=ids, pixel_values_videos=pixels[:1]).logits[0, len(head) - 1 : -1]
        inputs, positions, shared = step.text_inputs(visual, batch.keep_tokens, batch.text)
        states = model.model.language_model(
            inputs_embeds=inputs,
            position_ids=positions,
            attention_mask={"full_attention": batch.text.mask(shared)},
            use_cache=False,
        ).last_hidden_state
        packed = model.lm_head(states[0, shared - 1 : shared - 1 + length])
    assert torch.allclose(whole, packed, atol=1e-3)


def test_questions_side_by_side_do_not_see_each_other_and_turns_do(tokenizer, bank, tmp_path):
    import numpy as np

    from dynimg_vl.motion.questions import Exchange

    exchanges = [[Exchange("anything", "Does anything move?", "Yes."), Exchange("count", "How many?", "One object.")]]
    packed, chat = (Packer(tokenizer, share).pack(exchanges, np.random.default_rng(0)) for share in (0.0, 1.0))
    mask = packed.mask(3)[0, 0]
    second = int((packed.block[0] == 2).float().argmax()) + 3
    first = slice(3, second)
    assert mask[second, :3].all()
    assert not mask[second, first].any()
    assert packed.offset[0, second - 3] == 0
    mask = chat.mask(3)[0, 0]
    length = int((chat.block[0] == 1).sum())
    assert mask[3 + length - 1, : 3 + length].all()  # the end of the second turn sees all before it
    assert chat.offset[0].diff()[: length - 1].eq(1).all()
    assert tokenizer.decode(chat.ids[0]).count("<|im_start|>user") == 1  # the first turn's is in the head


def test_exact_matches_need_every_token(tokenizer):
    import numpy as np

    from dynimg_vl.motion.questions import Exchange

    exchanges = [[Exchange("anything", "Does anything move?", "Yes.")], [Exchange("count", "How many?", "One object.")]]
    packed = Packer(tokenizer, 0.0).pack(exchanges, np.random.default_rng(0))
    correct = torch.ones_like(packed.ids, dtype=torch.bool)
    assert exact_matches(correct, packed) == {"anything": (1, 1), "count": (1, 1)}
    correct[1, int((packed.labels[1] != -100).float().argmax())] = False
    assert exact_matches(correct, packed) == {"anything": (1, 1), "count": (0, 1)}


def test_batches_are_a_function_of_the_seed(tokenizer, bank):
    from dynimg_vl.layout import DynImgLayout

    layout = DynImgLayout(4, 8, 16, 8)
    plan = BatchPlan(8, 3, 2)
    first, second = (MotionDataset(plan, layout, bank, 5, 3, tokenizer, refresh=False)[2] for _ in range(2))
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.text.ids, second.text.ids)
    other = MotionDataset(plan, layout, bank, 5, 4, tokenizer, refresh=False)[2]
    assert not torch.equal(first.pixels, other.pixels[:1])


def test_an_exported_model_is_an_ordinary_one(tmp_path, tokenizer, bank):
    from dynimg_vl.model import load_pretrained

    recipe = small_recipe(tmp_path, steps=1)
    trainer = MotionTrainer(recipe, tmp_path / "run", tokenizer, bank=bank, num_workers=0)
    trainer.run(evaluate_steps=0)
    model = load_checkpoint(recipe, trainer.checkpoint, tokenizer)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    export_model(model, tokenizer, tmp_path / "model")
    loaded, processor = load_pretrained(tmp_path / "model")
    assert loaded.config._attn_implementation == "sdpa"
    assert loaded.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for name, value in loaded.state_dict().items():
        assert torch.allclose(value, weights[name], atol=2e-3), name


def test_a_broken_recipe_is_named(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text('{"seed": 1, "stages": [], "no_such_field": 2}')
    with pytest.raises(InputError, match="no_such_field"):
        MotionRecipe.from_file(path)
    with pytest.raises(InputError, match="not a training recipe"):
        MotionRecipe.from_file(tmp_path / "absent.yaml")
