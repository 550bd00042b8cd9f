import json

import pytest
from click.testing import CliRunner

from dynimg_vl.cli import app
from dynimg_vl.model import load_pretrained


def run(*words):
    return CliRunner().invoke(
        app.dynimg_vl, [str(word) for word in words], standalone_mode=False, catch_exceptions=False
    )


def test_the_command_says_what_it_used_and_left(sources, tmp_path):
    # The grid of a real DynImg, on tiny weights: 24 x 24 patches of 8 pixels.
    result = run("convert", sources["original"][0], "-o", tmp_path / "model", "--dtype", "bfloat16", "--num-dynimgs", 3)
    assert "84 weights of" in result.output
    assert "1 left" in result.output
    assert "<|video_pad|> was added to the tokenizer" in result.output
    model, processor = load_pretrained(tmp_path / "model", device="cpu")
    assert (model.config.patch_grid, model.config.num_dynimgs) == (24, 3)
    assert processor.video_processor.num_dynimgs == 3


def test_the_command_gives_json(sources, tmp_path):
    facts = json.loads(
        run("convert", sources["plain"][0], "-o", tmp_path / "model", "--json", "--rope-axes", "hwts").output
    )
    assert facts == {
        **json.loads((tmp_path / "model" / "conversion.json").read_text()),
        "num_bytes": facts["num_bytes"],
    }
    assert facts["patch_grid"] == {"source": 10, "dynimg": 24, "interpolated": True}
    assert facts["weights"]["new"]


def test_a_refusal_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as raised:
        app.main(["convert", str(tmp_path), "-o", str(tmp_path / "model")])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path} holds no model")
    assert error.count("\n") == 1
