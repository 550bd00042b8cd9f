import json
import platform
import shutil

import pytest
import torch
from click.testing import CliRunner

from dynimg_vl import DynImgConfig, DynImgForConditionalGeneration, InputError
from dynimg_vl.cli import doctor as doctor_module
from dynimg_vl.cli.app import dynimg_vl
from dynimg_vl.cli.doctor import examine
from dynimg_vl.cli.machine import Device, Machine, this_machine
from dynimg_vl.model.cpu_bfloat16 import multiplies_bfloat16
from dynimg_vl.model.footprint import CONVERTED, FORMATS, converted_config, footprint
from llava import save_source, source_model
from tiny import save_tiny, tiny_config, tiny_model

GB = 10**9


def machine(*, ram=16, gpu=None, disk=100, bfloat16=True):
    kinds = ("float32", "float16", *(("bfloat16",) if bfloat16 else ()))
    gpus = () if gpu is None else (Device("cuda:0", "Card", gpu * GB, gpu * GB, kinds),)
    cpu = Device("cpu", "CPU", ram * GB, ram * GB, ("float32", "bfloat16"))
    return Machine(4, ram * GB, ram * GB, disk * GB, "/disk", (*gpus, cpu), {"torch": "2.13", "peft": None})


def fits(facts, name):
    (found,) = [each for each in facts["models"] if each["name"] == name]
    return found["fits"]


def test_a_footprint_counts_what_a_model_has():
    config = tiny_config(text={"tie_word_embeddings": True})
    sizes = footprint(config)
    model = DynImgForConditionalGeneration(config)
    assert sizes.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    text = config.text_config
    width, inner, narrow = text.hidden_size, text.intermediate_size, text.hidden_size // 2  # 2 of 4 heads hold keys
    assert sizes.num_quantizable == text.num_hidden_layers * (2 * width**2 + 2 * width * narrow + 3 * width * inner)
    assert sizes.cache_per_token == text.num_hidden_layers * 2 * narrow * 2
    assert sizes.weights("float32") == 4 * sizes.num_parameters
    assert sizes.weights("8bit") == 2 * sizes.num_parameters - sizes.num_quantizable


def test_known_sizes_are_those_of_their_sources():
    # SigLIP so400m of 26 layers, Qwen2 of 0.5 and 7 B, the projector between them.
    small, large = (footprint(converted_config(size)) for size in CONVERTED)
    assert small.num_parameters == pytest.approx(0.494e9 + 0.398e9 + 1.84e6, rel=0.01)
    assert large.num_parameters == pytest.approx(7.616e9 + 0.398e9 + 17e6, rel=0.01)
    assert isinstance(converted_config("7B"), DynImgConfig)


@pytest.mark.parametrize(
    ("ram", "gpu", "expected"),
    [
        (8, None, {"cpu": ["4bit"]}),
        (24, None, {"cpu": ["bfloat16", "8bit", "4bit"]}),
        (4, 24, {"cuda:0": ["bfloat16", "8bit", "4bit"], "cpu": []}),
        (64, 80, {"cuda:0": list(FORMATS), "cpu": list(FORMATS)}),
    ],
)
def test_what_fits_depends_on_memory(ram, gpu, expected):
    facts = examine(machine(ram=ram, gpu=gpu))
    assert fits(facts, "7B") == expected
    assert all(kinds == list(FORMATS) for kinds in fits(facts, "embedded").values())


@pytest.mark.parametrize(
    ("processor", "instructions", "slow"),
    [
        ("x86_64", {"avx2"}, ["bfloat16"]),
        ("x86_64", {"avx2", "avx512_f", "avx512_bw", "avx512_vnni"}, ["bfloat16"]),
        ("AMD64", {"avx2", "avx512_f", "avx512_bf16"}, []),
        ("aarch64", set(), []),
    ],
)
def test_a_processor_without_instructions_for_bfloat16_is_called_slow_at_it(monkeypatch, processor, instructions, slow):
    monkeypatch.setattr(platform, "machine", lambda: processor)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True), raising=False)
    facts = json.loads(CliRunner().invoke(dynimg_vl, ["doctor", "--json"], standalone_mode=False).output)
    assert facts["devices"][-1]["slow_dtypes"] == slow
    output = CliRunner().invoke(dynimg_vl, ["doctor"], standalone_mode=False).output
    assert ("float32, bfloat16 (slow)\n" in output) == bool(slow)


@pytest.mark.parametrize("told", [True, False, None])
def test_a_torch_that_lists_no_instructions_is_asked_in_the_older_way(monkeypatch, told):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    if told is None:
        monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: told, raising=False)
    assert multiplies_bfloat16() is told


def test_a_card_without_bfloat16_takes_float16_and_apples_quantize_nothing():
    assert "bfloat16" in fits(examine(machine(gpu=24, bfloat16=False)), "7B")["cuda:0"]
    apple = Device("mps", "Apple GPU", 64 * GB, 64 * GB, ("float32", "float16", "bfloat16"))
    facts = examine(Machine(8, 64 * GB, 64 * GB, GB, "/disk", (apple,)))
    assert fits(facts, "7B") == {"mps": ["float32", "bfloat16"]}
    assert [each.get("disk_fits") for each in facts["models"]] == [None, False, False]


def test_the_report_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor_module, "this_machine", lambda: machine(ram=8, disk=10))
    result = CliRunner().invoke(dynimg_vl, ["doctor"], standalone_mode=False)
    assert result.exception is None
    assert "  peft          -" in result.output
    assert "cpu: 4bit" in result.output
    command = "dynimg-vl convert llava-hf/llava-onevision-qwen2-7b-ov-hf -o FOLDER"
    assert f"16.1 GB to download: {command}; not enough disk" in result.output
    facts = json.loads(CliRunner().invoke(dynimg_vl, ["doctor", "--json"], standalone_mode=False).output)
    assert facts["models"][2]["memory_gb"]["bfloat16"] == pytest.approx(17.2, abs=0.1)


def test_a_model_is_looked_at_without_reading_its_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_module, "this_machine", machine)
    save_tiny(tmp_path / "model")
    found = examine(machine(), str(tmp_path / "model"))["model"]
    assert found["problems"] == []
    assert (found["image_size"], found["tokens_per_dynimg"], found["rope_axes"]) == (64, 16, "hwts")
    result = CliRunner().invoke(dynimg_vl, ["doctor", str(tmp_path / "model")], standalone_mode=False)
    assert "no problem found" in result.output
    assert not result.return_value

    (tmp_path / "model" / "processor_config.json").unlink()
    tiny_model(text={"intermediate_size": 40}).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", tmp_path / "model")
    problems = examine(machine(), str(tmp_path / "model"))["model"]["problems"]
    assert len(problems) == 2
    assert "processor" in problems[0]
    assert "weights of another shape" in problems[1]
    result = CliRunner().invoke(dynimg_vl, ["doctor", str(tmp_path / "model")], standalone_mode=False)
    assert result.return_value == 1


def test_another_model_is_named(tmp_path):
    save_source(tmp_path / "source", source_model())
    (problem,) = examine(machine(), str(tmp_path / "source"))["model"]["problems"]
    assert "'llava_onevision' model, not a DynImg" in problem
    assert f"`dynimg-vl convert {tmp_path / 'source'} -o FOLDER` makes one" in problem
    (tmp_path / "empty").mkdir()
    (problem,) = examine(machine(), str(tmp_path / "empty"))["model"]["problems"]
    assert "convert" not in problem
    with pytest.raises(InputError, match="downloads nothing"):
        examine(machine(), "owner/name")


def test_a_model_that_cannot_be_built_and_an_adapter_alone_are_looked_at(tmp_path):
    save_tiny(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    values = json.loads(path.read_text())
    adapter = {"base_model_name_or_path": str(tmp_path / "model")}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    found = examine(machine(), str(tmp_path / "adapter"))["model"]
    assert (found["problems"], found["image_size"]) == ([], 64)
    path.write_text(json.dumps({**values, "projector_hidden_act": "geluu"}))
    (problem,) = examine(machine(), str(tmp_path / "model"))["model"]["problems"]
    assert "no model can be built" in problem
    shutil.rmtree(tmp_path / "model")
    (problem,) = examine(machine(), str(tmp_path / "adapter"))["model"]["problems"]
    assert "holds an adapter of" in problem


def test_this_machine_has_facts():
    found = this_machine()
    assert 0 < found.ram_available <= found.ram
    assert found.disk_free > 0
    assert found.devices[-1].name == "cpu"
    assert found.packages["torch"]
