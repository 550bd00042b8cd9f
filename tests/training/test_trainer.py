"""The trainer: who learns at what rate, in what order, and what ends a run."""

import importlib.util
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import time
from itertools import pairwise

import pytest
import torch
import yaml
from filelock import FileLock
from transformers import Qwen2ForCausalLM, SiglipVisionModel

from dynimg_vl.errors import InputError
from dynimg_vl.model import load_pretrained
from dynimg_vl.training.checkpoints import is_complete
from dynimg_vl.training.data.dataset import VideoTextDataset
from dynimg_vl.training.parameter_groups import freeze, master_weights, parameter_groups, theta_sizes
from dynimg_vl.training.recipe import TrainRecipe
from dynimg_vl.training.run import Launch, check_devices
from dynimg_vl.training.sampling import EpochSampler
from runs import after_step, command, curve, environment, samples_about_clips, stop_after, train_here, weights
from tiny import tiny_config, tiny_inputs, tiny_model, tiny_tokenizer

pytest_plugins = ["run_fixtures"]


def groups_of(model, **rates):
    decayed = [name for name, parameter in model.named_parameters() if parameter.ndim > 1]
    return parameter_groups(model.named_parameters(), decayed, weight_decay=0.1, learning_rate=1.0, **rates)


# --- groups and precisions -------------------------------------------------------------------------------------------


def test_theta_has_its_own_rate_and_no_decay_and_nothing_is_left_out():
    model = tiny_model()
    groups = groups_of(model, axis_theta_learning_rate=3.0, projector_learning_rate=2.0)
    theta = [group for group in groups if group["part"] == "theta"]
    assert [group["weight_decay"] for group in theta] == [0.0]
    assert [group["lr"] for group in theta] == [3.0]
    assert [id(p) for p in theta[0]["params"]] == [id(model.model.language_model.rotary_emb.axis_theta)]
    projector = {id(p) for group in groups if group["part"] == "projector" for p in group["params"]}
    assert projector == {id(p) for p in model.model.multi_modal_projector.parameters()}
    assert {group["lr"] for group in groups if group["part"] == "projector"} == {2.0}
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_without_rates_of_their_own_all_learn_at_one():
    assert {group["lr"] for group in groups_of(tiny_model())} == {1.0}


def test_freezing_by_pattern():
    model = tiny_model()
    freeze(model, ["model.vision_tower.*", "*.mlp.*"])
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning
    assert not [name for name in learning if name.startswith("model.vision_tower.") or ".mlp." in name]
    with pytest.raises(InputError, match=r"no parameter is called 'vision\.\*'"):
        freeze(model, ["vision.*"])
    with pytest.raises(InputError, match="nothing would learn"):
        freeze(model, ["*"])


def test_what_deepspeed_has_put_away_learns_all_the_same():
    """ZeRO-3 leaves parameters empty while the model is loaded, and notes on them how many numbers they have."""
    model = tiny_model()
    for parameter in model.parameters():
        parameter.ds_numel = parameter.numel()
        parameter.data = parameter.data.new_empty(0)
    assert freeze(model, ["model.vision_tower.*"]) > 0
    with pytest.raises(InputError, match="every parameter is frozen"):
        freeze(model, ["*"])


def test_what_learns_is_float32_and_the_matrices_that_are_frozen_stay_small():
    model = tiny_model().to(torch.bfloat16)
    freeze(model, ["model.vision_tower.*"])
    master_weights(model)
    for _, parameter in model.named_parameters():
        is_small = parameter.requires_grad or parameter.ndim == 1
        assert parameter.dtype == (torch.float32 if is_small else torch.bfloat16)


def test_theta_is_measured_per_axis():
    model = tiny_model()
    theta = model.model.language_model.rotary_emb.axis_theta
    with torch.no_grad():
        theta.copy_(torch.tensor([[1.0, -3.0, 0.0, 0.0], [0.0] * 4, [2.0] * 4]))
    assert theta_sizes(model) == {
        "theta_h_mean": 1.0, "theta_w_mean": 0.0, "theta_t_mean": 2.0,
        "theta_h_max": 3.0, "theta_w_max": 0.0, "theta_t_max": 2.0,
    }  # fmt: skip
    assert theta_sizes(tiny_model(rope_axes="s")) == {}
    assert set(theta_sizes(tiny_model(rope_axes="hws"))) == {
        "theta_h_mean", "theta_w_mean", "theta_h_max", "theta_w_max"
    }  # fmt: skip


# --- order -----------------------------------------------------------------------------------------------------------


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = [number * 7 % 50 for number in range(1003)]
    sampler = EpochSampler(1003, 8, seed=1, lengths=lambda: lengths)
    first = list(sampler)
    torch.manual_seed(99)
    assert list(sampler) == first
    assert sorted(first) == list(range(1003))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(EpochSampler(1003, 8, seed=2, lengths=lambda: lengths)) != first


def test_batches_hold_samples_of_like_length():
    lengths = torch.randint(10, 500, (4000,), generator=torch.Generator().manual_seed(0)).tolist()
    grouped = list(EpochSampler(4000, 8, seed=1, lengths=lambda: lengths))
    spread = [max(batch) - min(batch) for batch in torch.tensor(lengths)[grouped].view(-1, 8).tolist()]
    assert sum(spread) / len(spread) < 30
    firsts = [lengths[index] for index in grouped[::8]]
    assert sum(a < b for a, b in pairwise(firsts)) > 200  # and the batches come in no order of length


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_logs_theta_beside_the_loss_and_moves_what_it_should(recipe_of, tiny_folder, tmp_path):
    before = weights(tiny_folder)
    result = train_here(recipe_of(samples_about_clips(12, text_every=4), frozen=["model.vision_tower.*"]))
    assert (result.step, result.stopped_by, result.num_steps) == (4, 0, 4)
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    line = state["log_history"][0]
    assert {"loss", "learning_rate", "theta_h_mean", "theta_t_max"} <= set(line)
    after = weights(result.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.language_model.rotary_emb.axis_theta" in moved
    assert after["model.language_model.rotary_emb.axis_theta"].dtype == torch.float32
    assert [name for name in moved if "projector" in name]
    assert not [name for name in moved if "vision_tower" in name]
    assert result.samples == {"used": 12}


def test_checkpointing_does_not_change_the_losses(recipe_of, tmp_path):
    train_here(recipe_of(samples_about_clips(8), output="plain"))
    train_here(recipe_of(samples_about_clips(8), output="checkpointed", gradient_checkpointing=True))
    plain, checkpointed = curve(tmp_path / "plain"), curve(tmp_path / "checkpointed")
    assert plain == pytest.approx(checkpointed, abs=1e-4)


def test_length_grouped_and_packed_batches_train(recipe_of):
    grouped = recipe_of(samples_about_clips(12, text_every=3), train_sampling_strategy="group_by_length")
    assert train_here(grouped).step == 4
    packed = {"data.max_length": 200, "data.pack_length": 200, "output_dir": str(grouped.parent / "packed")}
    assert train_here(grouped, **packed).step == 4


def test_a_model_is_built_from_its_parts_and_trained_in_bfloat16(recipe_of, tmp_path):
    config = tiny_config()
    Qwen2ForCausalLM(config.text_config).save_pretrained(tmp_path / "qwen")
    tiny_tokenizer().save_pretrained(tmp_path / "qwen")
    SiglipVisionModel(config.vision_config).save_pretrained(tmp_path / "siglip")
    recipe = recipe_of(samples_about_clips(8), bf16=True, gradient_checkpointing=True)
    values = yaml.safe_load(recipe.read_text())
    sizes = {name: getattr(config, name) for name in ("num_dynimgs", "num_prompt_frames", "token_grid", "patch_grid")}
    values["model"] = {"vision": "siglip", "text": "qwen", "dtype": "bfloat16", **sizes}
    recipe.write_text(yaml.safe_dump(values))
    result = train_here(recipe)
    model, _ = load_pretrained(result.model, device="cpu")
    assert model.config.num_prompt_frames == config.num_prompt_frames
    trained = weights(result.model)
    assert trained["model.multi_modal_projector.linear_1.weight"].dtype == torch.float32
    assert trained["model.vision_tower.encoder.layers.2.mlp.fc1.weight"].dtype == torch.bfloat16  # read by nobody


@pytest.mark.slow
def test_a_tiny_model_overfits_eight_samples(recipe_of, tmp_path):
    recipe = recipe_of(
        samples_about_clips(8), max_steps=250, per_device_train_batch_size=8, learning_rate=5e-3, max_grad_norm=1.0,
        lr_scheduler_type="cosine", warmup_steps=10, logging_steps=10,
    )  # fmt: skip
    result = train_here(recipe)
    assert result.loss is not None
    assert result.loss < 0.05


# --- what ends a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_after_the_step(recipe_of, tmp_path, monkeypatch, number):
    handler = signal.getsignal(number)
    after_step(monkeypatch, 2, lambda _: signal.raise_signal(number))
    result = train_here(recipe_of(samples_about_clips(8)))
    assert (result.stopped_by, result.step, result.model) == (number, 2, None)
    assert is_complete(tmp_path / "run" / "checkpoint-2")
    assert signal.getsignal(number) is handler


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_saves_and_stops_too(recipe_of, tmp_path, monkeypatch, number):
    def signal_all(_):
        (reader,) = multiprocessing.active_children()
        subprocess.run(
            ["kill", f"-{number}", str(reader.pid)], check=True
        )  # torch takes one of its parent's for an end
        time.sleep(0.5)
        signal.raise_signal(number)

    after_step(monkeypatch, 2, signal_all)
    settings = {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 1}
    result = train_here(recipe_of(samples_about_clips(24), **settings))
    assert (result.stopped_by, result.step) == (number, 2)
    assert is_complete(tmp_path / "run" / "checkpoint-2")
    assert multiprocessing.active_children() == []


def test_a_loss_that_is_no_number_stops_with_the_batch_saved_and_the_weights_unharmed(recipe_of, tmp_path, monkeypatch):
    recipe = recipe_of(samples_about_clips(8), save_strategy="steps", save_steps=1)

    def poison(trainer):
        with torch.no_grad():
            trainer.model.lm_head.weight[0, 0] = float("nan")

    after_step(monkeypatch, 3, poison)
    with pytest.raises(InputError, match="the loss is nan at step 3") as error:
        train_here(recipe)
    saved = torch.load(tmp_path / "run" / "bad_batch_step3_process0.pt", weights_only=True)
    assert saved["step"] == 3
    assert {"input_ids", "labels", "pixel_values_videos"} <= set(saved["batches"][0])
    assert "\n" not in str(error.value)
    assert is_complete(tmp_path / "run" / "checkpoint-2")
    assert not (tmp_path / "run" / "checkpoint-3").exists()


def test_a_full_disk_is_one_line_and_loses_nothing(recipe_of, tmp_path):
    recipe = recipe_of(samples_about_clips(8), save_strategy="steps", save_steps=2)
    train_here(recipe, max_steps=2)
    before = weights(tmp_path / "run" / "checkpoint-2")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write checkpoint-4 .* can go on from checkpoint-2") as error:
            train_here(recipe, max_steps=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert is_complete(tmp_path / "run" / "checkpoint-2")
    assert all(torch.equal(before[name], value) for name, value in weights(tmp_path / "run" / "checkpoint-2").items())
    assert sorted(path.name for path in (tmp_path / "run").glob("check*")) == ["checkpoint-2"]
    assert not (tmp_path / "run" / ".partial").exists()
    assert train_here(recipe, max_steps=4).step == 4


def test_a_recipe_for_other_processes_than_there_are_is_refused(recipe_of):
    recipe = TrainRecipe.from_file(recipe_of(samples_about_clips(4), num_processes=8))
    with pytest.raises(InputError, match=r"for 8 processes.*torchrun --nproc-per-node 8"):
        check_devices(recipe, Launch())
    check_devices(recipe, Launch(8, 8))
    on_gpus = TrainRecipe.from_file(recipe_of(samples_about_clips(4), use_cpu=False))
    with pytest.raises(InputError, match=f"on a machine with {torch.cuda.device_count()} GPUs"):
        check_devices(on_gpus, Launch(99, 99))
    sharded = TrainRecipe.from_file(recipe_of(samples_about_clips(4), fsdp=True))
    with pytest.raises(InputError, match="fsdp shards a model over several processes"):
        check_devices(sharded, Launch())


def test_a_logger_that_is_not_installed_is_one_line(recipe_of):
    if importlib.util.find_spec("wandb"):
        pytest.skip("wandb is installed")
    with pytest.raises(InputError, match="wandb"):
        train_here(recipe_of(samples_about_clips(4), report_to="wandb"))


def test_tensorboard_gets_the_loss_and_theta(recipe_of, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train_here(recipe_of(samples_about_clips(4), report_to="tensorboard"))
    events = next((tmp_path / "run").rglob("events.out.tfevents*"))
    written = accumulator.EventAccumulator(str(events.parent))
    written.Reload()
    assert {"train/loss", "train/theta_t_mean", "train/theta_t_max"} <= set(written.Tags()["scalars"])


def test_broken_samples_are_counted_and_listed(recipe_of, tmp_path):
    broken = samples_about_clips(8)
    broken[3]["messages"][0]["content"][0]["video"] = "missing.mp4"
    recipe = recipe_of(broken, max_steps=2)
    with pytest.raises(InputError, match="over the allowed share"):
        train_here(recipe)
    result = train_here(recipe, **{"data.allowed_share": 0.5})
    assert result.samples["missing"] == 1
    rows = (tmp_path / "run" / "broken_samples_0.jsonl").read_text().splitlines()
    assert [json.loads(row)["reason"] for row in rows] == ["missing"]


def test_broken_samples_of_odd_names_are_listed_too(recipe_of, tmp_path):
    """A name that is no UTF-8, as JSON escapes it, and one that no file system takes."""
    samples = samples_about_clips(8)
    samples[3]["messages"][0]["content"][0]["video"] = "\udce9.mp4"
    samples[4]["messages"][0]["content"][0]["video"] = "a sentence " * 99
    result = train_here(recipe_of(samples, max_steps=2), **{"data.allowed_share": 0.5})
    assert result.samples["missing"] + result.samples.get("unreadable", 0) == 2
    assert is_complete(result.model)
    rows = map(json.loads, (tmp_path / "run" / "broken_samples_0.jsonl").read_bytes().splitlines())
    assert {row["videos"][0].rpartition("/")[2] for row in rows} == {"\udce9.mp4", "a sentence " * 99}


def test_one_run_at_a_time_is_in_a_folder(recipe_of, tmp_path, monkeypatch):
    monkeypatch.setattr("dynimg_vl.training.run._PATIENCE", 0.0)
    recipe = recipe_of(samples_about_clips(4), max_steps=1)
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".train.lock"), pytest.raises(InputError, match="another process trains in"):
        train_here(recipe)
    assert train_here(recipe).step == 1


def test_training_outlives_whoever_reads_along(recipe_of, tmp_path):
    recipe = recipe_of(samples_about_clips(8), save_strategy="steps", save_steps=4)
    ends = [os.pipe() for _ in range(2)]
    for reader, _ in ends:
        os.close(reader)
    out, err = (writer for _, writer in ends)
    assert subprocess.run(command(recipe), env=environment(), stdout=out, stderr=err, check=False).returncode == 0
    assert is_complete(tmp_path / "run" / "model")
    assert is_complete(tmp_path / "run" / "checkpoint-4")
    for _, writer in ends:
        os.close(writer)


def test_what_was_found_broken_before_a_resumption_still_counts(recipe_of, tmp_path, monkeypatch):
    samples = samples_about_clips(12)
    for number in (0, 5, 7):
        samples[number]["messages"][0]["content"][0]["video"] = f"missing{number}.mp4"
    settings = {"data.allowed_share": 0.5}
    straight = train_here(recipe_of(samples, output="straight", max_steps=3), **settings)
    recipe = recipe_of(samples, output="halves", max_steps=3)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        train_here(recipe, **settings)
    assert train_here(recipe, **settings).samples == straight.samples == {"used": 9, "missing": 3}
    rows = (tmp_path / "halves" / "broken_samples_0.jsonl").read_text().splitlines()
    assert [json.loads(row)["entry"] for row in rows] == [1, 6, 8]


def test_a_killed_data_process_is_one_line(recipe_of, monkeypatch):
    def deadly(self, number, rng):
        if number >= 20:  # in the sixth step
            os.kill(os.getpid(), signal.SIGKILL)
        return make(self, number, rng)

    make = VideoTextDataset._make
    monkeypatch.setattr(VideoTextDataset, "_make", deadly)
    settings = {"save_strategy": "steps", "save_steps": 1, "dataloader_num_workers": 1, "dataloader_prefetch_factor": 1}
    recipe = recipe_of(samples_about_clips(24), **settings, max_steps=6, train_sampling_strategy="sequential")
    with pytest.raises(InputError, match=r"reads data was killed.*the same command goes on from checkpoint-[2-5]$"):
        train_here(recipe)


def test_text_alone_trains_and_moves_theta():
    model = tiny_model().train()
    inputs = tiny_inputs(model.config)
    ids = inputs["input_ids"].clone()
    ids[ids == model.config.video_token_id] = 7
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.model.language_model.rotary_emb.axis_theta.grad.abs().max() > 0
