"""One process, two, sharded or not, and accumulated batches: the same losses. Processes of their own, on gloo."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from dynimg_vl.training.checkpoints import checkpoints
from runs import command, curve, environment, samples_about_clips, train_here, train_there, weights

pytest_plugins = ["run_fixtures"]
pytestmark = pytest.mark.slow

# In order: with two processes of two samples each, now the one and now the other has text alone, at last both.
TEXT = {0, 1, 6, 7, 8, 9, 10, 11}
SAMPLES = [samples_about_clips(1, 1)[0] if n in TEXT else sample for n, sample in enumerate(samples_about_clips(16))]
ORDER = {"train_sampling_strategy": "sequential"}
HALF = {"per_device_train_batch_size": 2, **ORDER}
SHARDED = {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}
# Measured after four steps of tiny float32 models with gradients of norm 100: 2.5e-5.
NOISE = 2e-4


@pytest.fixture
def alone(recipe_of, tmp_path):
    """Give the losses of one process with whole batches."""
    train_here(recipe_of(SAMPLES, output="alone", **ORDER))
    return curve(tmp_path / "alone")


def test_accumulated_halves_are_one_batch(alone, recipe_of, tmp_path):
    train_here(recipe_of(SAMPLES, output="halves", gradient_accumulation_steps=2, **HALF))
    assert curve(tmp_path / "halves") == pytest.approx(alone, abs=NOISE)


def test_two_processes_are_one(alone, recipe_of, tmp_path):
    train_there(recipe_of(SAMPLES, output="two", num_processes=2, **HALF), num_processes=2)
    assert curve(tmp_path / "two") == pytest.approx(alone, abs=NOISE)


def test_two_sharded_processes_are_one_and_can_be_resumed(alone, recipe_of, tmp_path):
    settings = {**HALF, **SHARDED, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 5}
    recipe = recipe_of(SAMPLES, output="sharded", **settings)
    train_there(recipe, num_processes=2)
    folder = tmp_path / "sharded"
    assert curve(folder) == pytest.approx(alone, abs=NOISE)
    whole = weights(folder / "model")
    assert "model.language_model.rotary_emb.axis_theta" in whole
    # As if it had been killed after step 3.
    last = checkpoints(folder)[-1]
    assert last.name == "checkpoint-4"
    last.rename(folder / "gone")
    train_there(recipe, num_processes=2)
    assert curve(folder) == pytest.approx(alone, abs=NOISE)
    for name, value in weights(folder / "model").items():
        assert (value - whole[name]).abs().max() < 1e-5, name


def test_sharded_with_activation_checkpointing_is_the_same(alone, recipe_of, tmp_path):
    config = {**SHARDED["fsdp_config"], "activation_checkpointing": True}
    recipe = recipe_of(SAMPLES, output="checkpointed", fsdp=True, fsdp_config=config, **HALF)
    train_there(recipe, num_processes=2)
    assert curve(tmp_path / "checkpointed") == pytest.approx(alone, abs=NOISE)


def test_theta_is_computed_in_float32_where_the_rest_is_bfloat16(recipe_of, tmp_path):
    recipe = recipe_of(SAMPLES, bf16=True, max_steps=1, **HALF, **SHARDED)
    worker = Path(__file__).parents[1] / "rotary_worker.py"
    start = command(recipe, num_processes=2)
    start = [*start[: start.index("-m", 3)], str(worker), str(recipe), str(tmp_path / "seen")]
    result = subprocess.run(start, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    for rank in range(2):
        seen = json.loads((tmp_path / f"seen{rank}.json").read_text())
        assert seen == {"unit": True, "theta": "torch.float32", "rotation": "torch.bfloat16", "layer": "torch.bfloat16"}


def test_a_bad_loss_in_one_process_stops_both(recipe_of, tmp_path):
    recipe = recipe_of(SAMPLES, learning_rate=1e30, max_grad_norm=0.0, axis_theta_learning_rate=None, **HALF)
    stderr = train_there(recipe, num_processes=2, expect=1)  # 1 is torchrun's own, whatever its processes gave
    assert "at step" in stderr
    assert "no weight was changed" in stderr
    assert list((tmp_path / "run").glob("bad_batch_step*_process*.pt"))


def test_a_signal_to_the_launcher_ends_in_a_checkpoint(recipe_of, tmp_path):
    settings = {**HALF, "max_steps": 100_000, "save_strategy": "steps", "save_steps": 7, "save_total_limit": 2}
    process = subprocess.Popen(
        command(recipe_of(SAMPLES, **settings), num_processes=2),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not checkpoints(tmp_path / "run"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    out, _ = process.communicate(timeout=90)
    last = checkpoints(tmp_path / "run")[-1]
    assert f"stopped after step {last.name.removeprefix('checkpoint-')} of 100000" in out
    assert len(list(last.glob("rng_state_*.pth"))) == 2
    assert not (tmp_path / "run" / ".partial").exists()
