"""What cannot be converted is refused in one line, and nothing is left behind."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from dynimg_vl import InputError
from dynimg_vl.conversion import convert
from dynimg_vl.conversion import write as write_module
from dynimg_vl.model import load_pretrained
from llava import GEOMETRY, edit_weights, save_original, save_source, source_model


@pytest.fixture
def folder(sources, tmp_path):
    """Copy a source, to be damaged."""
    return shutil.copytree(sources["plain"][0], tmp_path / "source")


def refusal(source, output, **options):
    with pytest.raises(InputError) as raised:
        convert(str(source), output, **{**GEOMETRY, **options})
    assert "\n" not in str(raised.value)
    assert not output.exists()
    assert not [each for each in output.parent.iterdir() if "unfinished" in each.name]
    return str(raised.value)


def change(path, **values):
    content = json.loads(path.read_text())
    for key, value in values.items():
        part, _, inner = key.partition("__")
        (content[part] if inner else content)[inner or part] = value
    path.write_text(json.dumps(content))


def text_layers(count):
    return {"text_config__num_hidden_layers": count, "text_config__layer_types": ["full_attention"] * count}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "qwen2_vl", "architectures": ["X"]}, r"holds a 'qwen2_vl' model \(X\); supported is a LLaVA"),
        ({"model_type": "dynimg"}, "is a DynImg model already"),
        ({"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy='default'"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias=False"),
        ({"vision_feature_layer": [-1, -2]}, "projects vision layer"),
        ({"vision_feature_layer": 0}, "projects vision layer 0"),
        ({"vision_feature_layer": 9}, "projects vision layer 9"),
        ({"text_config__model_type": "llama"}, "built on siglip_vision_model and llama"),
        ({"text_config__num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
        (text_layers(200), "weights for 203 layers"),
        ({"text_config__hidden_size": "many"}, "cannot be read"),
        ({"text_config__vocab_size": 64}, "has 101 tokens, the embedding 64 rows"),
        (text_layers(3), r"lacks 12 weights .*layers\.2\."),
        (text_layers(1), "12 weights that have no place"),
        ({"text_config__intermediate_size": 40}, "6 weights of another shape: .*mlp"),
        ({"projector_hidden_act": "nonsense"}, "no DynImg model can be made"),
    ],
)
def test_another_configuration_is_refused(folder, tmp_path, values, message):
    change(folder / "config.json", **values)
    assert re.search(message, refusal(folder, tmp_path / "out"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mm_vision_tower": "openai/clip-vit-large-patch14"}, "vision tower 'clip-vit-large-patch14'; known is"),
        ({"mm_projector_type": "linear"}, "mm_projector_type='linear'"),
        ({"mm_resampler_type": "qformer"}, "mm_resampler_type='qformer'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end=True"),
    ],
)
def test_another_original_is_refused(sources, tmp_path, values, message):
    folder = shutil.copytree(sources["original"][0], tmp_path / "source")
    change(folder / "config.json", **values)
    assert message in refusal(folder, tmp_path / "out")


def drop(name):
    return lambda weights: weights.pop(name)


def put(name, value):
    return lambda weights: weights.update({name: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("language_model.model.norm.weight"), "lacks 1 weights of the model: model.language_model.norm.weight"),
        (drop("language_model.lm_head.weight"), "lacks 1 weights of the model: lm_head.weight"),
        (
            put("multi_modal_projector.linear_1.bias", torch.zeros(7)),
            r"1 weights of another shape: .*linear_1.bias is (7,)",
        ),
        (put("audio_tower.weight", torch.zeros(1)), "no place in a DynImg: audio_tower.weight"),
        (put("model.mm_projector.0.bias", torch.zeros(32)), "linear_1.bias twice"),
        (put("language_model.model.norm.weight", torch.zeros(32, dtype=torch.int8)), "norm.weight (I8)"),
    ],
)
def test_other_weights_are_refused_by_name(folder, tmp_path, edit, message):
    edit_weights(folder, edit)
    said = refusal(folder, tmp_path / "out")
    assert all(part in said for part in message.split(".*"))


def test_a_tied_source_with_an_output_layer_of_its_own_is_refused(tmp_path):
    model = source_model(text={"tie_word_embeddings": True})
    folder = save_source(tmp_path / "source", model)
    embedding = model.get_input_embeddings().weight.detach()
    edit_weights(folder, put("language_model.lm_head.weight", embedding.clone()))
    facts = convert(str(folder), tmp_path / "same", **GEOMETRY)
    assert "tied" in facts["weights"]["left"]["language_model.lm_head.weight"]
    edit_weights(folder, put("language_model.lm_head.weight", embedding + 1))
    assert "holds other numbers" in refusal(folder, tmp_path / "out")


def test_a_partial_download_is_refused(sources, tmp_path):
    folder = shutil.copytree(sources["sharded"][0], tmp_path / "source")
    files = sorted(folder.glob("*.safetensors"))
    kept = files[3].read_bytes()
    files[3].unlink()
    assert f"1 of {len(files)} files are missing, {files[3].name} first" in refusal(folder, tmp_path / "out")
    files[3].write_bytes(kept[: len(kept) // 2])
    assert "cannot be read; it may be cut off" in refusal(folder, tmp_path / "out")
    save_file({"other": torch.zeros(1)}, files[3])
    assert f"{files[3].name} does not hold" in refusal(folder, tmp_path / "out")
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(files[3].name, "../../etc/passwd"))
    assert "which is no file of this folder" in refusal(folder, tmp_path / "out")
    index.write_text("[")
    assert "cannot be read" in refusal(folder, tmp_path / "out")
    index.unlink()
    assert "is the download complete?" in refusal(folder, tmp_path / "out")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert "pickled ones are not opened" in refusal(folder, tmp_path / "out")


def test_a_folder_without_a_model_or_tokenizer_is_refused(folder, tmp_path):
    assert "no such folder" in refusal("nothing-here", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "holds no model" in refusal(tmp_path / "empty", tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert "has no tokenizer" in refusal(folder, tmp_path / "out")
    (folder / "config.json").write_text("[1]")
    assert "is not an object of JSON" in refusal(folder, tmp_path / "out")


def test_a_vocabulary_without_a_spare_row_is_refused(tmp_path):
    folder = save_original(tmp_path / "source", source_model(text={"vocab_size": 99}))
    assert "no row of its embedding is spare" in refusal(folder, tmp_path / "out")


def test_an_existing_folder_is_refused_and_an_empty_one_is_taken(folder, tmp_path):
    (tmp_path / "out").mkdir()
    convert(str(folder), tmp_path / "out", **GEOMETRY)
    before = sorted(each.name for each in (tmp_path / "out").iterdir())
    with pytest.raises(InputError, match="exists already"):
        convert(str(folder), tmp_path / "out", **GEOMETRY)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == before


def test_a_disk_without_room_is_refused_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dynimg_vl.conversion.source.shutil.disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    assert "takes 0.1 GB" in refusal(folder, tmp_path / "out")


@pytest.mark.parametrize("kind", [partial(OSError, errno.ENOSPC), SafetensorError])
def test_a_disk_that_fills_up_leaves_nothing(kind, folder, tmp_path, monkeypatch):
    written = []

    def full(tensors, path, **kwargs):
        if written:
            raise kind("No space left on device")
        written.append(path)
        save_file(tensors, path, **kwargs)

    monkeypatch.setattr(write_module, "save_file", full)
    assert "No space left on device; nothing is left" in refusal(folder, tmp_path / "out", shard_bytes=20_000)
    assert written


WAITING = """
import sys, time
sys.path.insert(0, {tests!r})
from dynimg_vl.conversion import convert
from llava import GEOMETRY
def stop(done, total):
    print("written", flush=True)
    time.sleep(60)
convert({source!r}, {output!r}, shard_bytes=20_000, progress=stop, **GEOMETRY)
"""


@pytest.mark.slow
def test_a_conversion_that_is_killed_is_no_model(folder, tmp_path, request):
    output = tmp_path / "out"
    tests = str(request.config.rootpath / "tests")
    code = WAITING.format(tests=tests, source=str(folder), output=str(output))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, signal.SIGKILL)
    assert not output.exists()
    (rest,) = [each for each in tmp_path.iterdir() if "unfinished" in each.name]
    with pytest.raises(InputError):
        load_pretrained(rest)
    convert(str(folder), output, **GEOMETRY)
    load_pretrained(output, device="cpu")


def test_the_hub_is_asked_for_sizes_first(folder, tmp_path, monkeypatch):
    asked = []

    def snapshot(name, *, allow_patterns, dry_run=False, local_files_only=False):
        asked.append((name, dry_run, local_files_only))
        if name == "some/offline" and not local_files_only:
            raise ConnectionError("no network\nat all")
        if name == "some/locked":
            raise PermissionError("not yours") if local_files_only else ConnectionError("no network")
        if name == "some/missing":
            raise huggingface_hub.errors.LocalEntryNotFoundError("not on the hub")
        assert not {"*.py", "*.bin"} & set(allow_patterns)
        size = 10**18 if name == "some/large" else 10
        return [SimpleNamespace(file_size=size, will_download=True)] if dry_run else str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr("dynimg_vl.model.foreign._check_reachable", lambda name: None)
    assert convert("some/model", tmp_path / "model", **GEOMETRY)["source"] == "some/model"
    assert asked == [("some/model", True, False), ("some/model", False, False)]
    assert convert("some/offline", tmp_path / "cached", **GEOMETRY)["source"] == "some/offline"
    assert "fetching some/large takes 1000000000.0 GB" in refusal("some/large", tmp_path / "out")
    assert "some/missing is not here and cannot be fetched: not on the hub" in refusal("some/missing", tmp_path / "out")
    said = refusal("some/locked", tmp_path / "out")
    assert "some/locked cannot be fetched (no network), nor read where it is kept: not yours" in said
