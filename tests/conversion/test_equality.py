"""A converted model computes what its source computes."""

import json
import shutil

import numpy as np
import pytest
import torch

from dynimg_vl import DynImgForConditionalGeneration, DynImgProcessor
from dynimg_vl.answering import Answerer
from dynimg_vl.conversion import convert
from dynimg_vl.conversion.weights import read_headers
from dynimg_vl.model import load_pretrained
from llava import GEOMETRY, VISION, save_source, source_model
from tiny import tiny_inputs

SOURCES = ["plain", "tied", "sharded", "new names", "deep", "original", "original tied"]


def converted(sources, name, folder, **options):
    path, source = sources[name]
    facts = convert(str(path), folder / "model", **{**GEOMETRY, **options})
    return source, DynImgForConditionalGeneration.from_pretrained(folder / "model").eval(), facts


@pytest.fixture(scope="module", params=SOURCES)
def case(request, sources, tmp_path_factory):
    """Convert each source once, without pooling: name, folder of the source, source, model, folder of it, facts."""
    folder = tmp_path_factory.mktemp("converted")
    grid = VISION["image_size"] // 8
    return (
        request.param,
        sources[request.param][0],
        *converted(sources, request.param, folder, patch_grid=grid, token_grid=grid),
        folder / "model",
    )


def test_text_gives_the_logits_of_the_source_to_the_bit(case):
    _, _, source, model, *_ = case
    input_ids = torch.randint(6, 99, (2, 23))  # 99 is the placeholder where one had to be added
    mask = torch.ones_like(input_ids)
    mask[1, :7] = 0
    with torch.no_grad():
        assert model(input_ids=input_ids).logits.equal(source(input_ids=input_ids).logits)
        ours = model(input_ids=input_ids, attention_mask=mask).logits[1, 7:]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        theirs = source(input_ids=input_ids, attention_mask=mask, position_ids=positions).logits[1, 7:]
        assert ours.equal(theirs)
    assert model.dtype == source.dtype
    assert model.config.rope_axes == "s"


def test_a_picture_at_the_resolution_of_the_source_gives_its_features(case):
    _, _, source, model, *_ = case
    pixels = torch.randn(2, 3, VISION["image_size"], VISION["image_size"], dtype=source.dtype)
    with torch.no_grad():
        # Down to what the source would pool: it keeps no state between the projector and its pooling.
        layer = source.config.vision_feature_layer
        hidden = source.model.get_video_features(pixels[:, None], output_hidden_states=True).hidden_states[layer]
        expected = source.model.multi_modal_projector(hidden)
        given = model.get_video_features(pixels)
    assert given.last_hidden_state.equal(hidden)
    assert torch.stack(list(given.pooler_output)).equal(expected)


def test_every_weight_is_used_or_named(case):
    name, path, _, model, facts, folder = case
    stored = read_headers(path)
    left = facts["weights"]["left"]
    assert facts["weights"]["used"] + len(left) == len(stored)
    assert set(left) <= set(stored)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    assert set(read_headers(folder)) == set(model.state_dict()) - tied
    assert json.loads((folder / "conversion.json").read_text())["weights"] == facts["weights"]
    unread = [weight for weight in left if "vision_tower" in weight]
    if name == "deep":  # four layers and a pooling head, the second layer is projected
        assert facts["vision_layers"] == 2
        assert {weight.split(".layers.")[1][0] for weight in unread if ".layers." in weight} == {"2", "3"}
        assert any(".head." in weight for weight in unread)
    else:
        assert not unread
        assert [weight.rpartition(".")[2] for weight in left] == ["image_newline"]


def test_four_axes_compute_the_same_until_they_are_trained(sources, tmp_path):
    _, flat, _ = converted(sources, "tied", tmp_path / "s")
    _, model, facts = converted(sources, "tied", tmp_path / "hwts", rope_axes="hwts")
    rotary = model.model.language_model.rotary_emb
    assert facts["weights"]["new"] == ["model.language_model.rotary_emb.axis_theta"]
    assert rotary.axis_theta.dtype == torch.float32
    assert not rotary.axis_theta.any()
    inputs = tiny_inputs(flat.config)
    with torch.no_grad():
        assert model(**inputs).logits.equal(flat(**inputs).logits)
        rotary.axis_theta += 0.1
        assert not torch.allclose(model(**inputs).logits, flat(**inputs).logits)


def test_a_video_stands_at_the_positions_that_the_source_would_give_it(sources, tmp_path):
    source, model, _ = converted(sources, "plain", tmp_path)
    inputs = tiny_inputs(model.config)
    with torch.no_grad():
        tokens = model.get_video_features(inputs["pixel_values_videos"], inputs["dynimgs_per_video"]).pooler_output[0]
        embeds = source.get_input_embeddings()(inputs["input_ids"])
        embeds[inputs["input_ids"] == model.config.video_token_id] = tokens
        assert model(**inputs).logits.equal(source(inputs_embeds=embeds).logits)


@pytest.mark.parametrize(("name", "token", "added"), [("plain", "<video>", False), ("original", "<|video_pad|>", True)])
def test_the_chat_is_the_one_of_the_source(sources, tmp_path, name, token, added):
    path, source = sources[name]
    facts = convert(str(path), tmp_path / "model", **GEOMETRY)
    assert facts["video_token"] == {"text": token, "id": 4 if name == "plain" else 99, "added": added}
    processor = DynImgProcessor.from_pretrained(tmp_path / "model")
    video = {"type": "video", "video": np.zeros((9, 20, 20, 3), np.uint8)}
    chat = [
        {"role": "user", "content": [video, {"type": "text", "text": "Which way?"}]},
        {"role": "assistant", "content": "Left."},
        {"role": "user", "content": "Why?"},
    ]
    # What the code of LLaVA-NeXT makes of it (its template "qwen_1_5"), with one placeholder for <image>.
    assert processor.apply_chat_template(chat, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{token}\nWhich way?<|im_end|>\n<|im_start|>assistant\nLeft.<|im_end|>\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = processor.apply_chat_template([{"role": "system", "content": "Be brief."}, *chat[:1]])
    assert own.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert own.count("system") == 1
    expected = [0.4, 0.5, 0.6] if name == "plain" else [0.5, 0.5, 0.5]
    assert processor.video_processor.image_mean == expected
    # Only the tokenizer grows: its new token takes a row that the embedding had to spare.
    assert DynImgForConditionalGeneration.from_pretrained(tmp_path / "model").lm_head.weight.equal(
        source.lm_head.weight
    )


@pytest.mark.parametrize("name", ["tied", "original"])
def test_it_answers_about_a_video(sources, tmp_path, name):
    convert(str(sources[name][0]), tmp_path / "model", **GEOMETRY)
    model, processor = load_pretrained(tmp_path / "model", device="cpu")
    answerer = Answerer(model, processor)
    frames = np.random.default_rng(0).integers(0, 255, (12, 30, 40, 3), np.uint8)
    conversation = answerer.start(answerer.look(frames, fps=4))
    reply = conversation.ask("Which way?", max_new_tokens=5)
    assert reply.num_visual_tokens == 32
    assert 1 <= reply.num_new_tokens <= 5
    assert conversation.ask("Why?", max_new_tokens=3).num_visual_tokens == 32


def test_the_source_says_how_answers_end_and_are_drawn(sources, tmp_path):
    path = shutil.copytree(sources["plain"][0], tmp_path / "source")
    (path / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "eos_token_id": 0, "pad_token_id": 0}))
    convert(str(path), tmp_path / "model", **GEOMETRY)
    config = load_pretrained(tmp_path / "model", device="cpu")[0].generation_config
    assert config.eos_token_id == [2, 0]  # <|im_end|> first
    assert (config.temperature, config.do_sample, config.suppress_tokens) == (0.5, True, [4])


def test_another_type_is_written_where_it_is_asked_for(sources, tmp_path):
    source, model, facts = converted(sources, "plain", tmp_path, dtype=torch.bfloat16, rope_axes="hwts")
    assert facts["dtype"] == "bfloat16"
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.equal(source.lm_head.weight.bfloat16())
    assert model.model.language_model.rotary_emb.axis_theta.dtype == torch.float32


def test_shards_hold_what_one_file_would(sources, tmp_path):
    path, _ = sources["sharded"]
    seen = []
    convert(str(path), tmp_path / "one", **GEOMETRY)
    convert(
        str(path),
        tmp_path / "many",
        shard_bytes=20_000,
        progress=lambda *now: seen.append(now),
        rope_axes="hwts",
        **GEOMETRY,
    )
    files = sorted(each.name for each in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) == len(seen) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    one = DynImgForConditionalGeneration.from_pretrained(tmp_path / "one").state_dict()
    many = DynImgForConditionalGeneration.from_pretrained(tmp_path / "many").state_dict()
    assert set(many) - set(one) == {"model.language_model.rotary_emb.axis_theta"}
    assert all(many[name].equal(value) for name, value in one.items())


def test_what_a_tokenizer_calls_its_tokens_is_no_code(tmp_path):
    model = source_model()
    save_source(tmp_path / "source", model)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / "source" / file
        path.write_text(path.read_text().replace("<video>", "{{ 1/0 }}' + raise_exception('no') + '"))
    convert(str(tmp_path / "source"), tmp_path / "model", **GEOMETRY)
    processor = DynImgProcessor.from_pretrained(tmp_path / "model")
    chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}]
    assert "user\n{{ 1/0 }}' + raise" in processor.apply_chat_template(chat)
