"""A run that is stopped and taken up again ends where it would have; what was cut off while being written is left."""

import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

from dynimg_vl.errors import InputError
from dynimg_vl.training import checkpoints as checkpoint_files
from dynimg_vl.training.checkpoints import COMPLETE, PARTIAL, checkpoints, is_complete, last_checkpoint
from dynimg_vl.training.parameter_groups import choose_again, chosen_values
from dynimg_vl.training.resuming import RECIPE_FILE
from dynimg_vl.training.run import _note_recipe
from runs import command, curve, environment, same_weights, samples_about_clips, stop_after, train_here, weights

pytest_plugins = ["run_fixtures"]


def test_four_steps_are_two_and_two_to_the_bit(recipe_of, tmp_path, monkeypatch):
    # 12 samples in batches of 4: step 4 lies in the second epoch, with other frames and crops.
    settings = {"train_sampling_strategy": "group_by_length"}
    straight = train_here(recipe_of(samples_about_clips(12, text_every=5), output="straight", **settings))
    recipe = recipe_of(samples_about_clips(12, text_every=5), output="halves", **settings)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert train_here(recipe).step == 2
    halves = train_here(recipe)
    assert curve(tmp_path / "straight") == curve(tmp_path / "halves")
    assert same_weights(weights(straight.model), weights(halves.model))


def test_dropout_goes_on_where_it_was(recipe_of, tmp_path, monkeypatch):
    lora = {"lora": {"r": 2, "dropout": 0.5}, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    straight = train_here(recipe_of(samples_about_clips(12), output="straight", **lora))
    recipe = recipe_of(samples_about_clips(12), output="halves", **lora)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train_here(recipe)
    halves = train_here(recipe)
    assert curve(tmp_path / "straight") == curve(tmp_path / "halves")
    assert same_weights(weights(straight.model), weights(halves.model))


def test_rates_that_changed_hold_from_the_next_step_on(recipe_of, tmp_path, monkeypatch):
    recipe = recipe_of(samples_about_clips(8), weight_decay=0.05)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train_here(recipe)
    folder = tmp_path / "run"
    before = weights(folder / "checkpoint-2")
    changed = {"learning_rate": 4e-5, "axis_theta_learning_rate": 8e-4, "projector_learning_rate": 0.0}
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        train_here(recipe, weight_decay=0.9, adam_beta2=0.9, **changed)
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    # Linear from the first of four steps to nothing after the last: a half at the third, a quarter after it.
    assert [row["learning_rate"] for row in rows if "loss" in row] == pytest.approx([1e-3, 7.5e-4, 2e-5])
    groups = torch.load(folder / "checkpoint-3" / "optimizer.pt", weights_only=True)["param_groups"]
    rates = {"rest": 4e-5, "theta": 8e-4, "projector": 0.0}
    assert {group["part"] for group in groups} == set(rates)
    for group in groups:
        assert group["initial_lr"] == rates[group["part"]]
        assert group["lr"] == pytest.approx(rates[group["part"]] / 4)
        assert group["betas"] == (0.9, 0.9)
    assert {group["weight_decay"] for group in groups if group["part"] != "theta"} == {0.0, 0.9}
    assert [group["weight_decay"] for group in groups if group["part"] == "theta"] == [0.0]
    scheduler = torch.load(folder / "checkpoint-3" / "scheduler.pt", weights_only=True)
    assert scheduler["base_lrs"] == [group["initial_lr"] for group in groups]
    # And they were what the step was taken with: Adam moves a number by about its rate.
    moved = {name: (value - before[name]).abs().max() for name, value in weights(folder / "checkpoint-3").items()}
    assert all(not moved[name] for name in moved if "multi_modal_projector" in name)
    assert 0 < moved["model.language_model.rotary_emb.axis_theta"] < 3 * 4e-4


def test_a_scheduler_that_finds_its_rate_keeps_what_it_found_as_a_share():
    def begin(rate, decay):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.AdamW([{"params": [parameter], "lr": rate, "weight_decay": decay}])
        chosen = chosen_values(optimizer)
        return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0), chosen

    old, scheduler, _ = begin(1e-3, 0.1)
    scheduler.step(1.0)
    scheduler.step(1.0)
    for rate, decay, expected in ((1e-3, 0.1, 5e-4), (2e-3, 0.2, 1e-3)):
        new, scheduler, chosen = begin(rate, decay)
        new.load_state_dict(old.state_dict())
        choose_again(new, scheduler, chosen)
        assert (new.param_groups[0]["lr"], new.param_groups[0]["weight_decay"]) == (expected, decay)


def test_a_step_keeps_its_number_of_samples(recipe_of, tmp_path, monkeypatch):
    straight = recipe_of(samples_about_clips(12), output="straight")
    train_here(straight)
    recipe = recipe_of(samples_about_clips(12), output="halves")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train_here(recipe)
    note = tmp_path / "halves" / RECIPE_FILE
    assert json.loads(note.read_text())["training"]["num_processes"] == 1
    for changes, named in (
        ({"per_device_train_batch_size": 2}, r"a step had 4 samples \(4 x 1 x 1\) and has 2 \(2 x 1 x 1: per_device"),
        ({"gradient_accumulation_steps": 2}, r"a step had 4 samples \(4 x 1 x 1\) and has 8 \(4 x 2 x 1: per_device"),
    ):
        with pytest.raises(InputError, match=named) as error:
            train_here(recipe, **changes)
        assert "\n" not in str(error.value)
    # Divided in another way it is the same step, of the same samples.
    assert train_here(recipe, per_device_train_batch_size=2, gradient_accumulation_steps=2).step == 4
    assert curve(tmp_path / "halves") == pytest.approx(curve(tmp_path / "straight"), abs=2.5e-5)
    assert train_here(recipe, per_device_train_batch_size=1, max_steps=5, resume="force").step == 5


def test_a_note_of_the_recipe_that_was_cut_off_is_no_leave_to_go_on(stopped):
    recipe, folder = stopped
    cut(folder / RECIPE_FILE)
    with pytest.raises(InputError, match=rf"{RECIPE_FILE} cannot be read.*--resume force") as error:
        train_here(recipe, seed=8)
    assert "\n" not in str(error.value)
    assert train_here(recipe, max_steps=5, resume="force").step == 5
    assert json.loads((folder / RECIPE_FILE).read_text())["training"]["max_steps"] == 5


def test_the_note_of_the_recipe_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    _note_recipe(tmp_path, {"training": {"seed": 1}})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        _note_recipe(tmp_path, {"training": {"seed": 2}})
    assert json.loads((tmp_path / RECIPE_FILE).read_text()) == {"training": {"seed": 1}}
    assert [path.name for path in tmp_path.iterdir()] == [RECIPE_FILE]


@pytest.fixture
def stopped(recipe_of, tmp_path):
    """Give a recipe whose run has ended with the checkpoints 2 and 4."""
    recipe = recipe_of(samples_about_clips(8), save_strategy="steps", save_steps=2)
    train_here(recipe)
    return recipe, tmp_path / "run"


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("damage", ["model.safetensors", "optimizer.pt", "trainer_state.json", COMPLETE, "no marker"])
def test_a_checkpoint_that_was_cut_off_is_not_picked_up(stopped, damage):
    _, folder = stopped
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-2", "checkpoint-4"]
    if damage == "no marker":
        (folder / "checkpoint-4" / COMPLETE).unlink()
    else:
        cut(folder / "checkpoint-4" / damage)
    assert last_checkpoint(folder) == folder / "checkpoint-2"


def test_a_checkpoint_that_goes_away_while_it_is_looked_at_is_none(stopped, monkeypatch):
    _, folder = stopped

    def gone(path, *_, **__):  # it was there when its size was read, and for the first of the two times it is opened
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    last = last_checkpoint(folder)
    monkeypatch.setattr(checkpoint_files, "safe_open", gone)
    assert not is_complete(last)


def test_a_run_goes_past_a_damaged_checkpoint_and_replaces_it(stopped):
    recipe, folder = stopped
    expected = weights(folder / "checkpoint-4")
    cut(folder / "checkpoint-4" / "model.safetensors")
    shutil.copytree(folder / "checkpoint-2", folder / PARTIAL / "checkpoint-6")
    assert train_here(recipe).step == 4
    assert is_complete(folder / "checkpoint-4")
    assert same_weights(weights(folder / "checkpoint-4"), expected)
    assert not (folder / PARTIAL).exists()


def test_only_so_many_checkpoints_are_kept(recipe_of, tmp_path):
    train_here(recipe_of(samples_about_clips(8), save_strategy="steps", save_steps=1, save_total_limit=2))
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["checkpoint-3", "checkpoint-4"]
    assert not (tmp_path / "run" / PARTIAL).exists()


def test_a_folder_with_checkpoints_is_taken_up_or_refused(stopped):
    recipe, folder = stopped
    with pytest.raises(InputError, match="holds checkpoints of an earlier run"):
        train_here(recipe, resume=False)
    with pytest.raises(InputError, match="no such folder"):
        train_here(recipe, resume_from_checkpoint=str(folder / "checkpoint-9"))
    assert train_here(recipe, max_steps=6).step == 6


def test_a_finished_run_that_is_started_again_changes_nothing(stopped):
    recipe, folder = stopped
    before = weights(folder / "model")
    assert train_here(recipe).step == 4
    assert same_weights(weights(folder / "model"), before)


def test_going_back_beside_later_checkpoints_is_refused(recipe_of, tmp_path):
    recipe = recipe_of(samples_about_clips(8), save_strategy="steps", save_steps=2, save_total_limit=2)
    train_here(recipe)
    with pytest.raises(InputError, match=r"holds checkpoint-4, later than .*checkpoint-2; choose another output_dir"):
        train_here(recipe, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    elsewhere = {
        "output_dir": str(tmp_path / "again"),
        "resume_from_checkpoint": str(tmp_path / "run" / "checkpoint-2"),
    }
    assert train_here(recipe, **elsewhere).step == 4


def test_a_run_that_ended_within_an_epoch_is_at_its_end(recipe_of, tmp_path):
    # 12 samples in batches of 4: step 4 is the first of three of the second epoch.
    recipe = recipe_of(samples_about_clips(12), lr_scheduler_type="constant", save_strategy="steps", save_steps=4)
    before = weights(train_here(recipe).model)
    again = train_here(recipe)
    assert again.step == 4
    assert same_weights(weights(again.model), before)
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-4"


def test_a_checkpoint_at_the_end_of_an_epoch_comes_with_a_line_of_the_log(recipe_of, tmp_path):
    train_here(recipe_of(samples_about_clips(8), save_strategy="epoch", logging_steps=3))
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {2, 4} <= {row["step"] for row in rows if "loss" in row}


@pytest.mark.slow
def test_killed_ten_times_the_loss_curve_is_that_of_an_uninterrupted_run(recipe_of, tmp_path):
    settings = {"max_steps": 120, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 2}
    train_here(recipe_of(samples_about_clips(20, text_every=6), output="whole", **settings))
    recipe = recipe_of(samples_about_clips(20, text_every=6), output="killed", **settings)
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(10):
        before = step_of(tmp_path / "killed")
        process = subprocess.Popen(command(recipe), env=environment(), stderr=subprocess.DEVNULL)
        # Not before it got on by some steps: a run that dies at its start ten times proves nothing.
        wait_for(lambda: step_of(tmp_path / "killed") > before, process)  # noqa: B023  (called in this very turn)
        time.sleep(float(rng.uniform(0, 0.3)))
        process.kill()
        process.wait()
        reached.append(step_of(tmp_path / "killed"))
    assert reached == sorted(reached)
    assert reached[-1] < 120, "the runs were too fast to be killed"
    train_here(recipe)
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert same_weights(weights(tmp_path / "killed" / "model"), weights(tmp_path / "whole" / "model"))


def step_of(folder):
    found = last_checkpoint(folder)
    return int(found.name.removeprefix("checkpoint-")) if found else 0


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_sigterm_ends_a_process_of_its_own_with_a_checkpoint(recipe_of, tmp_path):
    recipe = recipe_of(samples_about_clips(8), max_steps=100_000, save_strategy="steps", save_steps=5)
    process = subprocess.Popen(
        command(recipe, "--dataloader_num_workers", 2),
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: step_of(tmp_path / "run") > 0, process)
    os.killpg(process.pid, signal.SIGTERM)  # as torchrun and SLURM do
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in out
    step = step_of(tmp_path / "run")
    state = json.loads((tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json").read_text())
    assert f"stopped after step {step} of" in out
    assert state["global_step"] == step
