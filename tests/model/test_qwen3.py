"""Qwen3 as the language model: the same four axes on other layers."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model, SiglipVisionModel

from dynimg_vl import DynImgConfig, DynImgForConditionalGeneration
from dynimg_vl.model import create_model, load_pretrained
from dynimg_vl.model.text_model import DynImgQwen3TextModel
from tiny import VIDEO_TOKEN_ID, tiny_config, tiny_inputs, tiny_tokenizer

GEOMETRY = {"num_dynimgs": 2, "num_prompt_frames": 2, "token_grid": 4, "patch_grid": 8}


def qwen3(**fields):
    text = tiny_config().text_config
    return Qwen3Config(
        vocab_size=text.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.3,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        eos_token_id=2,
        pad_token_id=0,
        **fields,
    )


@pytest.mark.parametrize("options", [{"rope_axes": "s"}, {"rope_axes": "hwts"}])
def test_text_is_that_of_a_stock_qwen3(options):
    torch.manual_seed(0)
    stock = Qwen3Model(qwen3()).eval()
    ours = DynImgQwen3TextModel(qwen3(), **options).eval()
    ours.load_state_dict(stock.state_dict(), strict=False)
    input_ids = torch.randint(6, 120, (2, 19))
    mask = torch.ones_like(input_ids)
    mask[0, :5] = 0
    with torch.no_grad():
        for attention_mask in (None, mask):
            given = ours(input_ids, attention_mask=attention_mask).last_hidden_state
            assert given.equal(stock(input_ids, attention_mask=attention_mask).last_hidden_state)
    theta = ours.rotary_emb.axis_theta
    assert theta is None or theta.shape == (3, 8)  # half of a head that is wider than its share of the model


@pytest.mark.parametrize("tied", [False, True])
def test_a_qwen3_becomes_a_model_that_answers(tmp_path, tied):
    torch.manual_seed(0)
    source = Qwen3ForCausalLM(qwen3(tie_word_embeddings=tied)).eval()
    source.save_pretrained(tmp_path / "text")
    tiny_tokenizer().save_pretrained(tmp_path / "text")
    SiglipVisionModel(tiny_config().vision_config).save_pretrained(tmp_path / "vision")
    create_model(tmp_path / "model", str(tmp_path / "vision"), str(tmp_path / "text"), dtype="float32", **GEOMETRY)
    model, _ = load_pretrained(tmp_path / "model", device="cpu")
    assert isinstance(model.config.text_config, Qwen3Config)
    assert isinstance(model.model.language_model, DynImgQwen3TextModel)
    input_ids = torch.randint(6, 120, (2, 19))
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        assert model(input_ids=input_ids).logits.equal(source(input_ids=input_ids).logits)
        # Word by word with a cache, and all at once: theta turned on.
        model.model.language_model.rotary_emb.axis_theta += 0.1 * torch.randn(3, 8)
        new = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        whole = {**inputs, "input_ids": new, "attention_mask": torch.ones_like(new)}
        logits = model(**whole).logits[:, -5:-1]
    logits[..., [VIDEO_TOKEN_ID, 2]] = -torch.inf
    assert logits.argmax(-1).equal(new[:, -4:])
    loss = model.train()(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert model.model.language_model.rotary_emb.axis_theta.grad.abs().max() > 0


def test_its_configuration_survives_a_file(tmp_path):
    config = DynImgConfig(
        vision_config=tiny_config().vision_config, text_config=qwen3(), video_token_id=VIDEO_TOKEN_ID, **GEOMETRY
    )
    config.save_pretrained(tmp_path)
    assert DynImgConfig.from_pretrained(tmp_path).text_config.to_dict() == config.text_config.to_dict()
    assert DynImgForConditionalGeneration(config).num_parameters() > 0
