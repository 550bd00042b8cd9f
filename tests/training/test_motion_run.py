"""Runs on the motion world through the same command as any other: they learn, stop, go on and end in a model."""

import json
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dynimg_vl import InputError, embedded_model
from dynimg_vl.cli import main
from dynimg_vl.model import load_pretrained
from dynimg_vl.training.checkpoints import is_complete, last_checkpoint
from dynimg_vl.training.motion.export import export_model
from dynimg_vl.training.motion.staged_trainer import build_learner
from motion_runs import STAGES, TEXT_ONLY, motion_recipe, save_tokenizer, tiny_learner
from runs import after_step, command, environment, same_weights, stop_after, train_here, train_there, weights

RECIPES = Path(__file__).parents[2] / "recipes"
HEADS = Path(__file__).parents[2] / "experiments" / "embedded_heads"
WINDOW = {
    "batch": {
        "batch_size": 3, "num_keyframe_tokens": 3, "num_questions": 1, "one_object": True, "has_strip": False,
        "world": {"families": ["shape_of"]},
    },
    "losses": dict.fromkeys(("attention", "flow", "camera", "direction"), 0.0) | {"shape": 1.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_tokenizer(tmp_path_factory.mktemp("motion") / "tokenizer")


@pytest.fixture
def recipe_of(tmp_path, tokenizer):
    """Write a tiny recipe: recipe_of(output=..., model=..., stages=..., key=...) -> its path."""
    return lambda **given: motion_recipe(tmp_path, tokenizer, **given)


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def steps_of(folder):
    """Give the lines about steps, without what depends on the clock."""
    rows = [row for row in log_of(folder) if "loss" in row]
    return [{name: value for name, value in row.items() if name != "step_seconds"} for row in rows]


def same_end(one, other):
    """Tell whether two runs ended alike: losses, model and heads, to the bit."""
    last = [last_checkpoint(folder) for folder in (one, other)]
    assert last[0].name == last[1].name
    return steps_of(one) == steps_of(other) and same_weights(*map(weights, last))


def test_the_command_learns(tmp_path, capsys):
    stages = [{**STAGES[1], "steps": 24, "batch": {"batch_size": 4, "num_keyframe_tokens": 8, "num_questions": 2}}]
    recipe = motion_recipe(tmp_path, "motion", stages=stages, bf16=True, logging_steps=4, muon_learning_rate=0.02)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(recipe), "--json", "--num_threads", "1"])
    assert ended.value.code in (0, None)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["step"], facts["stopped_by"], facts["model"]) == (24, 0, str(tmp_path / "run" / "model"))
    rows = steps_of(tmp_path / "run")
    assert rows[-1]["text"] < 0.9 * rows[0]["text"]
    assert rows[-1]["attention"] < rows[0]["attention"]
    assert rows[-1]["covered"] < rows[0]["covered"]


def test_stopped_and_taken_up_is_straight_to_the_bit(recipe_of, tmp_path, monkeypatch):
    train_here(recipe_of(output="straight"))
    by_signal, by_number = recipe_of(output="signal"), recipe_of(output="number")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)  # the last step of the first stage
        result = train_here(by_signal)
        assert (result.step, result.stopped_by, result.model) == (2, 15, None)
    assert train_here(by_signal).step == 5
    assert train_here(by_number, max_steps=3).step == 3
    assert train_here(by_number).step == 5
    assert same_end(tmp_path / "straight", tmp_path / "signal")
    assert same_end(tmp_path / "straight", tmp_path / "number")
    # Each step once, also where a run was taken up.
    assert [row["step"] for row in steps_of(tmp_path / "signal")] == [1, 2, 3, 4, 5]


def test_two_batches_a_step_are_two_other_batches(recipe_of, tmp_path, monkeypatch):
    train_here(recipe_of(output="straight", gradient_accumulation_steps=2))
    halves = recipe_of(output="halves", gradient_accumulation_steps=2)
    assert train_here(halves, max_steps=3).step == 3
    assert train_here(halves).step == 5
    assert same_end(tmp_path / "straight", tmp_path / "halves")


def test_what_is_learnt_beside_is_logged_measured_and_gone_on_with_and_changes_no_other_batch(recipe_of, tmp_path):
    alone = {**STAGES[1], "steps": 3, "batch": {**STAGES[1]["batch"], "num_keyframe_tokens": 4}}
    both = [{**alone, "beside": WINDOW}]
    train_here(recipe_of(output="straight", stages=both, eval_strategy="steps", eval_steps=2))
    parts = recipe_of(output="parts", stages=both, eval_strategy="steps", eval_steps=2)
    assert train_here(parts, max_steps=2).step == 2
    assert train_here(parts).step == 3
    assert same_end(tmp_path / "straight", tmp_path / "parts")
    rows = log_of(tmp_path / "straight")
    assert {"beside_shape", "beside_text", "attention", "shape"} <= set(steps_of(tmp_path / "straight")[0])
    assert "beside_attention" not in steps_of(tmp_path / "straight")[0]
    assert {"eval_beside_shape_loss", "eval_shape_loss", "eval_exact"} <= set(rows[-2])
    # Nothing has been learnt at the first step: its losses are those of a run without.
    train_here(recipe_of(output="alone", stages=[alone]))
    first, other = (steps_of(tmp_path / name)[0] for name in ("straight", "alone"))
    assert {name: first[name] for name in ("attention", "flow", "text", "shape")} == {
        name: other[name] for name in ("attention", "flow", "text", "shape")
    }


def test_a_loss_that_is_no_number_stops_with_the_batch_saved(recipe_of, tmp_path, monkeypatch):
    def poison(trainer):
        with torch.no_grad():
            trainer.learner.heads.covered.weight[0, 0] = float("nan")

    after_step(monkeypatch, 4, poison)
    with pytest.raises(InputError, match="the loss is nan at step 4") as error:
        train_here(recipe_of(save_steps=1))
    assert "\n" not in str(error.value)
    saved = torch.load(tmp_path / "run" / "bad_batch_step4_process0.pt", weights_only=True)
    assert {"pixels", "targets", "text", "weights"} <= set(saved["batches"][0])
    assert saved["batches"][0]["text"]["ids"].shape == saved["batches"][0]["text"]["labels"].shape
    assert is_complete(tmp_path / "run" / "checkpoint-3")
    assert not (tmp_path / "run" / "checkpoint-4").exists()


def test_the_log_has_stages_losses_and_validations_that_repeat(recipe_of, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = recipe_of(
        eval_strategy="steps", eval_steps=4, report_to="tensorboard", learning_rate=0.0, muon_learning_rate=0.0,
        axis_theta_learning_rate=0.0,
    )  # fmt: skip
    train_here(recipe)
    rows = log_of(tmp_path / "run")
    steps, validations = ([row for row in rows if name in row] for name in ("loss", "eval_covered_loss"))
    assert [(row["step"], row["stage"]) for row in steps] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert "text" not in steps[0]
    assert {"text", "attention", "flow", "learning_rate", "grad_norm", "theta_t_max"} <= set(steps[-1])
    assert all("step_seconds" in row for row in steps[1:])
    # At the end of each stage, and every fourth step.
    assert [row["step"] for row in validations] == [2, 4, 5]
    assert "eval_text_loss" not in validations[0]
    assert 0 <= validations[1]["eval_exact"] <= 1
    # Nothing learns: the second validation of a stage is the first.
    clock = ("step", "epoch")
    first, second = ({name: value for name, value in row.items() if name not in clock} for row in validations[1:])
    assert first == second
    events = next((tmp_path / "run").rglob("events.out.tfevents*"))
    written = accumulator.EventAccumulator(str(events.parent))
    written.Reload()
    assert {"train/loss", "train/attention", "train/stage", "eval/covered_loss"} <= set(written.Tags()["scalars"])


def test_the_model_that_comes_out_is_an_ordinary_one(tmp_path, tokenizer, recipe_of):
    from dynimg_vl.model import load_pretrained

    train_here(recipe_of())
    checkpoint = weights(tmp_path / "run" / "checkpoint-5")
    loaded, processor = load_pretrained(tmp_path / "run" / "model")
    assert loaded.config._attn_implementation == "sdpa"
    assert loaded.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    state = loaded.state_dict()
    for name, value in weights(tmp_path / "run" / "model").items():
        kept = checkpoint[name] if name.endswith("axis_theta") else checkpoint[name].half()
        assert torch.equal(value, kept), name
        assert torch.equal(state[name], value.float()), name
    assert not any(name in checkpoint and name not in state for name in checkpoint if name.startswith("model."))
    # A checkpoint is a model folder like any other.
    again, _ = load_pretrained(tmp_path / "run" / "checkpoint-5")
    assert torch.equal(again.lm_head.weight, checkpoint["model.language_model.embed_tokens.weight"])
    learner = tiny_learner(processor.tokenizer)
    export_model(learner.model, processor.tokenizer, tmp_path / "other")
    assert load_pretrained(tmp_path / "other")[0].config.num_dynimgs == 1


def test_videos_of_a_folder_are_the_background(recipe_of, tmp_path, clips):
    train_here(recipe_of(output="drawn"))
    train_here(recipe_of(output="filmed", world={"pictures": str(clips), "pictures_per_video": 2}))
    drawn, filmed = steps_of(tmp_path / "drawn"), steps_of(tmp_path / "filmed")
    assert len(filmed) == 5
    assert drawn[0]["loss"] != filmed[0]["loss"]


@pytest.mark.parametrize(
    ("arm", "training"),
    [
        ({"prompt_stage": "none"}, TEXT_ONLY),
        ({"num_prompt_frames": 0}, TEXT_ONLY),
        ({"prompt_stage": "after"}, TEXT_ONLY),
        ({"prompt_stage": "tiles", "num_dynimgs": 2}, TEXT_ONLY),
        ({"num_dynimgs": 4, "num_prompt_frames": 1}, {}),
    ],
    ids=str,
)
def test_every_arm_runs(arm, training, recipe_of, tmp_path):
    stages = [{**STAGES[1], "steps": 2}]
    # A rate of its own for a part with neither loss nor gradient does no harm either.
    assert train_here(recipe_of(model=arm, stages=stages, **training)).step == 2
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert {name: config[name] for name in arm} == arm


def test_supervision_of_what_no_patch_sees_is_refused(recipe_of):
    for arm in ({"prompt_stage": "after"}, {"prompt_stage": "none"}, {"num_prompt_frames": 0}):
        with pytest.raises(InputError, match=r"attention.* cannot be learnt.*--motion_attention_loss 0"):
            train_here(recipe_of(model=arm))


@pytest.mark.parametrize("name", ["motion_cpu", "motion_short", "motion_keyframes_only"])
def test_the_recipes_of_the_project_can_be_run(name, tmp_path, tokenizer):
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    changes = {f"model.{part}.{key}": value for part in ("vision", "text") for key, value in small.items()}
    changes |= {
        "model.vision.num_hidden_layers": 2,
        "model.text.num_hidden_layers": 1,
        "model.tokenizer": str(tokenizer),
    }
    changes |= {"data.world.num_pictures": 3, "data.world.validation_pictures": 3, "data.world.validation_batches": 1}
    changes |= {"output_dir": str(tmp_path), "dataloader_num_workers": 0, "dataloader_prefetch_factor": None}
    first = "keyframes" if name == "motion_keyframes_only" else "strip"
    changes |= {"num_processes": 1} if name == "motion_short" else {}
    changes |= {f"stages.{first}.batch.batch_size": 2, "report_to": "none", "disable_tqdm": True, "max_steps": 1}
    assert train_here(RECIPES / f"{name}.yaml", **changes).step == 1


@pytest.mark.parametrize(
    ("name", "stage"),
    [("motion_further_heads", "heads"), ("motion_further", "further"), ("motion_shapes", "shapes")],
)
def test_the_embedded_model_can_be_taught_further(name, stage, tmp_path):
    small = {f"stages.{stage}.batch.{key}": value for key, value in {"batch_size": 1, "num_keyframe_tokens": 1}.items()}
    small |= {"data.world.num_pictures": 3, "data.world.validation_pictures": 3, "data.world.validation_batches": 1}
    small |= {"output_dir": str(tmp_path), "dataloader_num_workers": 0, "dataloader_prefetch_factor": None}
    small |= {"report_to": "none", "disable_tqdm": True, "max_steps": 1, "model.path": "embedded"}
    if stage != "heads":
        small |= {f"stages.{stage}.beside.batch.batch_size": 2, "num_processes": 1}
    before = weights(embedded_model())
    assert train_here(RECIPES / f"{name}.yaml", **small).step == 1
    after = weights(tmp_path / "checkpoint-1")
    assert train_here(RECIPES / f"{name}.yaml", **small | {"max_steps": 2}).step == 2
    later = weights(tmp_path / "checkpoint-2")
    assert not torch.equal(later["track.weight"], after["track.weight"])
    changed = {key for key, value in before.items() if not torch.equal(value.float(), after[key].float())}
    tower = [key for key in before if "vision_tower" in key]
    assert changed.isdisjoint(tower) if stage == "heads" else changed >= {key for key in tower if "q_proj" in key}


def test_the_heads_that_are_kept_are_those_of_the_embedded_model():
    """What does not fit would be left out without a word, and learnt anew."""
    model, processor = load_pretrained(embedded_model())
    kept = weights(HEADS)
    taken = build_learner(model, processor.tokenizer, str(HEADS)).heads.state_dict()
    assert kept.keys() == taken.keys()
    assert all(torch.equal(value, taken[name]) for name, value in kept.items())


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_with_the_same_recipe_only(recipe_of):
    recipe = recipe_of()
    train_here(recipe, max_steps=2)
    for changes, named in (
        ({"stages.whole.steps": 4}, r"schedule.stages.whole.steps was 3 and is 4"),
        ({"stages.whole.losses.attention": 0}, r"stages.whole.losses.attention was 1.0 and is 0.0"),
        ({"data.world.num_pictures": 5}, r"data.world.num_pictures was 4 and is 5"),
        ({"model.rope_axes": "s"}, r"model.config.rope_axes was null and is \"s\""),
        ({"seed": 4}, r"data.world.seed was 3 and is 4; training.seed was 3 and is 4"),
    ):
        with pytest.raises(InputError, match=named) as error:
            train_here(recipe, **changes)
        assert "\n" not in str(error.value)
    allowed = {"logging_steps": 2, "save_steps": 50, "report_to": "none", "data.world.validation_batches": 1}
    assert train_here(recipe, max_steps=3, learning_rate=2e-3, **allowed).step == 3
    assert train_here(recipe, **{"stages.whole.steps": 4, "resume": "force"}).step == 6
    with pytest.raises(InputError, match="resume must be true, false or force"):
        train_here(recipe, resume="maybe")


@pytest.mark.slow
def test_two_processes_with_what_is_learnt_beside_are_accumulated_batches(recipe_of, tmp_path):
    stages = [{**STAGES[1], "beside": WINDOW}]
    train_here(recipe_of(output="one", stages=stages, gradient_accumulation_steps=2))
    train_there(recipe_of(output="two", stages=stages, num_processes=2), num_processes=2)
    one, two = (steps_of(tmp_path / name) for name in ("one", "two"))
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=1e-4)
    assert [row["beside_shape"] for row in two] == pytest.approx([row["beside_shape"] for row in one], abs=1e-3)
    ends = [weights(tmp_path / name / "model") for name in ("one", "two")]
    assert max((value - ends[1][name]).abs().max().item() for name, value in ends[0].items()) < 1e-4


def test_the_best_of_one_checkpoint_is_no_mistake_at_the_end(recipe_of, tmp_path):
    best = {"eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "exact"}
    train_here(recipe_of(output="one", stages=[STAGES[1]], save_steps=3, save_total_limit=1, **best))
    assert is_complete(tmp_path / "one" / "model")


def test_checkpointing_is_refused(recipe_of):
    with pytest.raises(InputError, match=r"gradient_checkpointing is not for data\.world"):
        train_here(recipe_of(output="one"), gradient_checkpointing=True)


@pytest.mark.slow
def test_two_processes_learn_from_text_alone(recipe_of, tmp_path):
    # The heads have no part in it.
    recipe = recipe_of(output="two", stages=[STAGES[1]], num_processes=2, **TEXT_ONLY)
    train_there(recipe, num_processes=2)
    assert len(steps_of(tmp_path / "two")) == STAGES[1]["steps"]


@pytest.mark.slow
def test_two_processes_learn_in_steps_without_text(recipe_of, tmp_path):
    # The language model has no part in them, which DistributedDataParallel takes for a mistake unless it is told.
    train_there(recipe_of(output="two", stages=[{**STAGES[0], "steps": 3}], num_processes=2), num_processes=2)
    assert STAGES[0]["losses"]["text"] == 0
    assert len(steps_of(tmp_path / "two")) == 3


@pytest.mark.slow
def test_killed_again_and_again_the_run_ends_as_an_uninterrupted_one(recipe_of, tmp_path):
    settings = {
        "stages": [{**STAGES[0], "steps": 20}, {**STAGES[1], "steps": 60}], "save_steps": 3, "save_total_limit": 2,
        "dataloader_num_workers": 1, "dataloader_prefetch_factor": 2,
    }  # fmt: skip
    train_here(recipe_of(output="whole", **settings))
    recipe = recipe_of(output="killed", **settings)
    rng = np.random.default_rng(0)

    def step():
        found = last_checkpoint(tmp_path / "killed")
        return int(found.name.removeprefix("checkpoint-")) if found else 0

    for _ in range(5):
        before = step()
        process = subprocess.Popen(command(recipe), env=environment(), stderr=subprocess.DEVNULL)
        while step() <= before:
            assert process.poll() is None, "the run ended before it was killed"
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.3)))
        process.kill()
        process.wait()
    assert step() < 80, "the runs were too fast to be killed"
    train_here(recipe)
    assert same_end(tmp_path / "whole", tmp_path / "killed")
