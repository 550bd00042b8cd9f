import importlib.util

import numpy as np
import pytest
import torch

from dynimg_vl import InputError
from dynimg_vl.answering import Answerer, embedded_model
from dynimg_vl.cli.app import main
from dynimg_vl.model import load_pretrained, quantization
from tiny import save_tiny

has_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@has_bitsandbytes
@pytest.mark.parametrize(("kind", "bound", "share"), [("8bit", 0.05, 0.8), ("4bit", 0.2, 0.7)])
def test_the_language_model_is_quantized_and_answers_alike(kind, bound, share):
    whole, _ = load_pretrained(embedded_model(), device="cpu", dtype="float32")
    model, processor = load_pretrained(embedded_model(), device="cpu", dtype="float32", quantize=kind)
    linears = {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    changed = {name for name, part in linears.items() if type(part) is not torch.nn.Linear}
    assert changed
    assert changed == {name for name in linears if name.startswith("model.language_model.layers.")}
    rotary = model.model.language_model.rotary_emb
    assert rotary.axis_theta.dtype == torch.float32
    assert rotary.axis_theta.equal(whole.model.language_model.rotary_emb.axis_theta)
    assert model.get_memory_footprint() < share * whole.get_memory_footprint()
    frames = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)
    answerer = Answerer(model, processor)
    chat = [{"role": "user", "content": [{"type": "video", "video": answerer.look(frames, fps=4)}]}]
    inputs = processor.apply_chat_template(chat, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        expected, given = whole(**inputs).logits, model(**inputs).logits
    assert (given - expected).norm() / expected.norm() < bound
    reply = answerer.start(answerer.look(frames, fps=4)).ask("Which way does the object move?", max_new_tokens=4)
    assert reply.num_new_tokens


@has_bitsandbytes
def test_the_command_answers_without_a_line_for_each_layer(ball_video, capsys, caplog):
    with pytest.raises(SystemExit) as stop:
        main(["ask", str(ball_video), "Does anything move?", "--quantize", "8bit", "--device", "cpu"])
    assert not stop.value.code
    assert capsys.readouterr().out.count("\n") == 1
    assert not [record for record in caplog.records if record.name.startswith("bitsandbytes")]


def test_what_cannot_be_quantized_is_one_line(tmp_path, monkeypatch):
    save_tiny(tmp_path)
    cpu = torch.device("cpu")
    with pytest.raises(InputError, match="must be one of 8bit, 4bit, got '2bit'"):
        quantization.quantized("2bit", cpu, torch.float32)
    monkeypatch.setattr(quantization, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    with pytest.raises(InputError, match="needs bitsandbytes: pip install bitsandbytes"):
        load_pretrained(tmp_path, device="cpu", quantize="8bit")
    monkeypatch.setattr(quantization, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="not on mps"):
        quantization.quantized("4bit", torch.device("mps"), "auto")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a LoRA adapter, which is not quantized"):
        load_pretrained(tmp_path, device="cpu", quantize="8bit")


@has_bitsandbytes
def test_a_model_of_4_bits_computes_in_bfloat16_where_its_type_is_open():
    options = quantization.quantized("4bit", torch.device("cuda"), "auto")
    assert options["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16
    assert options["device_map"] == {"": torch.device("cuda")}


def test_auto_is_a_device(tmp_path):
    save_tiny(tmp_path)
    model, _ = load_pretrained(tmp_path, device="auto")
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert model.device.type == expected
