"""What a recipe and the command line can say, and how what they cannot is refused."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from accelerate.utils.deepspeed import HfDeepSpeedConfig
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
from transformers.training_args import ParallelMode

from dynimg_vl.cli import main
from dynimg_vl.errors import InputError
from dynimg_vl.training import arguments
from dynimg_vl.training.arguments import FSDP_UNITS, build_arguments
from dynimg_vl.training.lora import LoraSettings
from dynimg_vl.training.recipe import TrainRecipe, parse_overrides
from tiny import tiny_config

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if not path.name.startswith(("motion_", "my_")))
BASE = {"output_dir": "out", "use_cpu": True, "report_to": "none"}


def write(folder, **sections):
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({"model": {"path": "m"}, "data": "d.yaml", "training": {"output_dir": "out"}} | sections)
    )
    return path


# --- the recipes of the project --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_against_the_arguments(path):
    # Without a GPU: only what needs one is switched off.
    recipe = TrainRecipe.from_file(path, {"use_cpu": True})
    args = build_arguments({**recipe.training, "report_to": "none"})
    assert recipe.data.path.exists()
    assert args.bf16
    assert args.warmup_steps == 0.03
    steps = args.per_device_train_batch_size * args.gradient_accumulation_steps * (args.num_processes or 1)
    assert steps == 128
    if args.lora is not None:
        LoraSettings.from_values(args.lora)


@pytest.mark.parametrize("has_it", [True, False])
def test_bfloat16_is_taken_where_the_machine_has_it(has_it, monkeypatch):
    monkeypatch.setattr(arguments, "multiplies_bfloat16", lambda: has_it)
    values = {"output_dir": "out", "report_to": "none", "use_cpu": True}
    assert build_arguments({**values, "bf16": "auto"}).bf16 is has_it
    assert build_arguments({**values, "bf16": True}).bf16


def test_all_recipes_of_the_issue_are_there():
    names = {"qwen2_5_0_5b", "qwen2_5_7b", "qwen2_5_7b_lora", "align_projector"}
    assert names <= {path.stem for path in RECIPES}
    assert json.loads((ROOT / "recipes" / "deepspeed_zero3.json").read_text())["zero_optimization"]["stage"] == 3
    script = ROOT / "recipes" / "slurm_multi_node.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


def test_the_deepspeed_file_leaves_to_the_recipe_what_the_recipe_says():
    """DeepSpeed need not be there: transformers fills in every `auto`, and nothing contradicts the recipe."""
    theirs = HfTrainerDeepSpeedConfig

    class Filled(HfDeepSpeedConfig):
        is_auto, fill_match, fill_only = theirs.is_auto, theirs.fill_match, theirs.fill_only
        process, finalize = theirs.trainer_config_process, theirs.trainer_config_finalize

    recipe = TrainRecipe.from_file(ROOT / "recipes" / "qwen2_5_7b.yaml", {"use_cpu": True})
    args = build_arguments({**recipe.training, "report_to": "none", "fsdp": False, "fsdp_config": None})
    filled = Filled(json.loads((ROOT / "recipes" / "deepspeed_zero3.json").read_text()))
    filled.mismatches = []
    filled.process(args)
    filled.finalize(args, SimpleNamespace(config=tiny_config()), num_training_steps=10)
    assert "auto" not in json.dumps(filled.config)
    assert filled.is_zero3()
    assert filled.config["bf16"]["enabled"]
    names = ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "train_batch_size", "gradient_clipping")
    assert [filled.config[name] for name in names] == [8, 2, 16, 1.0]


def test_the_script_for_several_nodes_starts_a_launcher_on_each_with_the_arguments(tmp_path):
    """With stand-ins for SLURM and torchrun, which write down how they were called."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $*" >> calls\n[ {name} = srun ] || echo node7\n')
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "node[7-10]", "SLURM_JOB_ID": "12"}
    script = ROOT / "recipes" / "slurm_multi_node.sh"
    run = subprocess.run(
        ["bash", str(script), "a.yaml", "--max_steps", "3"],
        cwd=tmp_path, check=False, capture_output=True, text=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_GPUS_ON_NODE": "2", **given},
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    asked, started = (tmp_path / "calls").read_text().splitlines()
    assert asked == "scontrol show hostnames node[7-10]"
    words = started.split()
    assert words[words.index("torchrun") :][:5] == ["torchrun", "--nnodes", "4", "--nproc-per-node", "2"]
    assert "--rdzv-endpoint node7:29500" in started
    assert started.endswith("-m dynimg_vl train a.yaml --max_steps 3 --num_processes 8")


def test_training_without_accelerate_names_what_brings_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "accelerate" else find(name, *rest)
    )
    with pytest.raises(InputError, match=r"needs accelerate: pip install 'dynimg-vl\[train\]'"):
        build_arguments(BASE)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_WORLD_SIZE"])
def test_a_launcher_that_counts_in_words_is_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(name, "two")
    with pytest.raises(SystemExit) as stop:
        main(["train", str(write(tmp_path))])
    assert stop.value.code == 2
    assert "must be numbers" in capsys.readouterr().err


def test_the_paper_is_eight_sharded_processes():
    recipe = TrainRecipe.from_file(ROOT / "recipes" / "qwen2_5_7b.yaml", {"use_cpu": True})
    args = build_arguments({**recipe.training, "report_to": "none"})
    assert (args.num_processes, args.learning_rate, args.lr_scheduler_type) == (8, 2e-5, "cosine")
    assert args.fsdp
    assert args.fsdp_config["transformer_layer_cls_to_wrap"] == FSDP_UNITS
    assert args.frozen == []
    assert recipe.data.options.flip == "paper"


# --- arguments -------------------------------------------------------------------------------------------------------


def test_checkpointing_is_never_reentrant():
    for name in ("gradient_checkpointing", "activation_checkpointing"):
        args = build_arguments({**BASE, name: True})
        assert args.gradient_checkpointing
        assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    with pytest.raises(InputError, match="cannot train axis_theta"):
        build_arguments({**BASE, "gradient_checkpointing_kwargs": {"use_reentrant": True}})


def test_lora_and_frozen_can_be_switched_off_from_the_command_line():
    assert build_arguments({**BASE, "lora": False}).lora is None
    for value, meant in ((None, []), (False, []), ("*theta", ["*theta"]), (["a", "b"], ["a", "b"])):
        assert build_arguments({**BASE, "frozen": value}).frozen == meant
    with pytest.raises(InputError, match="lora must be a section of settings, or false for none; got True"):
        build_arguments({**BASE, "lora": True})


def test_label_smoothing_is_refused():
    # transformers would not shift the labels of a class that it does not know.
    with pytest.raises(InputError, match="label_smoothing_factor is not offered"):
        build_arguments({**BASE, "label_smoothing_factor": 0.1})


def test_one_process_uses_one_gpu_of_several(monkeypatch):
    # Transformers takes all of them, and splits every tensor of a batch among them.
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    args = build_arguments({"output_dir": "out", "report_to": "none", "per_device_train_batch_size": 2})
    assert args.n_gpu == 1
    assert args.train_batch_size == 2
    assert args.parallel_mode == ParallelMode.NOT_PARALLEL
    assert build_arguments(BASE).n_gpu == 0


def test_numbers_may_be_written_as_yaml_does_not_know_them():
    assert yaml.safe_load("2e-5") == "2e-5"
    args = build_arguments({**BASE, "learning_rate": "2e-5", "max_steps": "10", "axis_theta_learning_rate": "1e-3"})
    assert (args.learning_rate, args.max_steps, args.axis_theta_learning_rate) == (2e-5, 10, 1e-3)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lerning_rate": 1}, "unknown key 'lerning_rate'; did you mean learning_rate"),
        ({"max_steps": "many"}, "max_steps must be a whole number, got 'many'"),
        ({"max_steps": 1.5}, "max_steps must be a whole number, got 1.5"),
        ({"max_steps": float("inf")}, "max_steps must be a whole number, got inf"),
        ({"learning_rate": 10**400}, "learning_rate must be a number, got 1000"),
        ({"bf16": 1}, "bf16 must be true or false, got 1"),
        ({"learning_rate": True}, "learning_rate must be a number"),
        ({"eval_strategy": "sometimes"}, "sometimes is not a valid IntervalStrategy"),
        ({"axis_theta_learning_rate": -1.0}, "must not be negative"),
        ({"load_best_model_at_end": True}, "not offered"),
        ({"seed": -1}, "seed must be at least 0 and below 2.32, got -1"),
    ],
)
def test_what_an_argument_cannot_be_is_one_line(values, words):
    with pytest.raises(InputError, match=words) as error:
        build_arguments({**BASE, **values})
    assert "\n" not in str(error.value)


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_the_command_line_changes_a_recipe(tmp_path):
    path = write(tmp_path, data={"path": "d.yaml", "flip": "off"}, training={"output_dir": "out", "lora": {"r": 8}})
    words = (
        "--learning-rate 1e-5 --training.max_steps=7 --lora.r 16 --data.max_length 99 --model.path other --bf16 true"
    )
    recipe = TrainRecipe.from_file(path, parse_overrides(words.split()))
    assert recipe.training["max_steps"] == 7
    assert recipe.training["learning_rate"] == "1e-5"
    assert recipe.training["lora"] == {"r": 16}
    assert recipe.training["bf16"] is True
    assert (recipe.data.options.max_length, recipe.data.options.flip) == (99, "off")
    assert recipe.model.path == "other"


def test_off_is_no_truth_value(tmp_path):
    path = write(tmp_path, data={"path": "d.yaml"})
    assert TrainRecipe.from_file(path, parse_overrides(["--data.flip", "off"])).data.options.flip == "off"


def test_the_embedded_model_is_named_and_no_folder_beside_the_recipe(tmp_path):
    (tmp_path / "embedded").mkdir()
    assert TrainRecipe.from_file(write(tmp_path, model={"path": "embedded"})).model.path == "embedded"


def test_paths_of_a_recipe_start_from_it_and_those_of_the_command_line_from_here(tmp_path):
    (tmp_path / "m").mkdir()
    path = write(tmp_path)
    assert TrainRecipe.from_file(path).data.path == tmp_path / "d.yaml"
    assert TrainRecipe.from_file(path).model.path == str(tmp_path / "m")
    assert TrainRecipe.from_file(path, {"data": "mine.jsonl"}).data.path == Path("mine.jsonl")
    hub = write(tmp_path, model={"vision": "google/siglip", "text": "Qwen/Qwen2.5", "num_dynimgs": 8})
    assert TrainRecipe.from_file(hub).model.vision == "google/siglip"
    assert TrainRecipe.from_file(hub).model.config == {"num_dynimgs": 8}
    # A model instead of its parts, as after the alignment stage.
    assert TrainRecipe.from_file(hub, {"model.path": "aligned"}).model.path is not None


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"modle": {}}, "unknown key 'modle'; did you mean model"),
        ({"model": {"path": "a", "vision": "b", "text": "c"}}, "give either path .* or both vision and text"),
        ({"model": {"vision": "b"}}, "give either path .* or both vision and text"),
        ({"model": {"path": "a", "num_dynimgs": 3}}, "num_dynimgs belongs to the model in path"),
        ({"model": {"path": "a", "rope_axis": "s"}}, "unknown key 'rope_axis'; did you mean rope_axes"),
        ({"model": {"path": "a", "dtype": "int8"}}, "dtype must be one of"),
        ({"model": 3}, "model must have keys"),
        ({"data": {"flip": "off"}}, "data: path is missing"),
        ({"data": {"path": "d", "flop": "off"}}, "unknown key 'flop'; did you mean flip"),
        ({"data": {"path": "d", "pack_length": 10}}, "pack_length must be at least max_length"),
        ({"data": {"path": "d", "max_length": "abc"}}, "max_length must be a whole number of at least 1, got 'abc'"),
        ({"data": {"path": "d", "short_side": -3}}, "short_side must be a whole number of at least 16, got -3"),
        ({"data": {"path": "d", "seed": "x"}}, "seed must be a whole number of at least 0, got 'x'"),
        ({"data": {"path": "d", "augment": "maybe"}}, "augment must be true or false, got 'maybe'"),
        ({"data": {"path": "d", "allowed_share": 2}}, "allowed_share must lie between 0 and 1, got 2"),
        ({"data": {"path": "d", "flip": 5}}, "flip must be one of paper, off, safe, got 5"),
        ({"training": {}}, "output_dir is missing"),
    ],
)
def test_what_a_recipe_cannot_say_is_one_line(tmp_path, sections, words):
    with pytest.raises(InputError, match=words) as error:
        TrainRecipe.from_file(write(tmp_path, **sections))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["- a list", "a: [", "\x00", "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_recipe_is_one_line(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"bad\.yaml") as error:
        TrainRecipe.from_file(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("words", [["stray"], ["--key"], ["--one", "--two", "3"], ["--"], ["--a", "[1"]])
def test_words_that_are_no_overrides_are_refused(words):
    with pytest.raises(InputError):
        parse_overrides(words)


def test_the_verb_says_what_is_wrong_in_one_line(tmp_path, capsys):
    from dynimg_vl.cli.app import main

    path = write(tmp_path)
    for words in (["missing.yaml"], [path, "--nonsense", "1"], [path, "--use_cpu", "true"]):
        with pytest.raises(SystemExit) as stop:
            main(["train", *map(str, words)])
        captured = capsys.readouterr()
        assert stop.value.code == 2
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1, captured.err
        assert captured.err.startswith("error: ")
