"""A model folder that is damaged in any file is refused in one line, never with a traceback."""

import json
import shutil

import pytest

import tiny
from dynimg_vl import InputError
from dynimg_vl.model import DynImgForConditionalGeneration, load_pretrained
from dynimg_vl.model.assembly import assemble


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    tiny.save_tiny(path)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def refused(folder):
    with pytest.raises(InputError) as caught:
        load_pretrained(folder, device="cpu")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("content", ["", "3", "[]", "{", '{"model_type": "dynimg"'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json"])
def test_a_file_that_is_not_what_it_should_be(folder, name, content):
    (folder / name).write_text(content)
    assert str(folder) in refused(folder)


def test_code_that_comes_with_a_model_is_never_run_nor_offered(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    (folder / "evil.py").write_text("raise SystemExit")
    values = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(values))
    assert "holds a 'evil' model, with code of its own, which is not run" in refused(folder)
    with pytest.raises(InputError, match="which is not run"):
        assemble(DynImgForConditionalGeneration, str(folder), str(folder))


@pytest.mark.parametrize(
    "values",
    [
        {"num_dynimgs": "x"},
        {"rope_axes": "zzz"},
        {"video_token_id": None},
        {"vision_config": 3},
        {"text_config": []},
        {"dtype": "nonsense"},
    ],
    ids=str,
)
def test_a_config_with_a_value_of_the_wrong_kind(folder, values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    refused(folder)


@pytest.mark.parametrize("values", [{"token_grid": "12"}, {"image_std": [0, 0, 0]}, {"image_mean": [1]}], ids=str)
def test_a_processor_with_a_value_that_cannot_be(folder, values):
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["video_processor"] |= values
    path.write_text(json.dumps(settings))
    refused(folder)


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_weights_that_are_cut_off(folder, keep):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    assert "weights" in refused(folder)


@pytest.mark.parametrize("name", ["", "nowhere", "/no/where", "a/b/c", "../x"])
def test_a_name_that_is_no_folder_and_no_hub_id_is_refused_before_the_hub_is_asked(name):
    with pytest.raises(InputError, match="no such folder"):
        load_pretrained(name, device="cpu")


def test_a_file_is_no_model(folder):
    with pytest.raises(InputError, match="is a file"):
        load_pretrained(folder / "config.json", device="cpu")
