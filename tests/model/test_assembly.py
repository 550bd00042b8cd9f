"""Models made of parts: how they end an answer, pad a batch, and that a folder is there as a whole or not at all."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import GenerationConfig, Qwen2ForCausalLM, SiglipVisionModel

from dynimg_vl import DynImgForConditionalGeneration, InputError
from dynimg_vl.answering import Answerer
from dynimg_vl.cli.app import dynimg_vl
from dynimg_vl.model import create_model, load_pretrained
from dynimg_vl.model.generation import answering_config
from dynimg_vl.model.new_folder import new_folder
from tiny import VIDEO_TOKEN_ID, tiny_config, tiny_inputs, tiny_model, tiny_processor, tiny_tokenizer

GEOMETRY = {"num_dynimgs": 2, "num_prompt_frames": 2, "token_grid": 4, "patch_grid": 8}
TEXT_END, TURN_END = 0, 2  # <|endoftext|> and <|im_end|>


@pytest.fixture
def parts(tmp_path):
    """Save a SigLIP, and a Qwen as base models come: it ends at the end of a text alone, and pads on the right."""
    torch.manual_seed(0)
    config = tiny_config(vision={"image_size": 72})
    SiglipVisionModel(config.vision_config).save_pretrained(tmp_path / "vision")
    Qwen2ForCausalLM(config.text_config).save_pretrained(tmp_path / "text")
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path / "text")
    says = {"eos_token_id": TEXT_END, "do_sample": False, "temperature": 0.7, "repetition_penalty": 1.3}
    (tmp_path / "text" / "generation_config.json").write_text(json.dumps(says))
    return tmp_path


def test_a_model_of_a_base_model_ends_its_answers(parts, ball_video):
    create_model(parts / "new", str(parts / "vision"), str(parts / "text"), **GEOMETRY)
    model, processor = load_pretrained(parts / "new")
    assert model.generation_config.eos_token_id == [TURN_END, TEXT_END]
    assert model.generation_config.suppress_tokens == [VIDEO_TOKEN_ID]
    assert processor.tokenizer.padding_side == "left"
    force(model, [50, TURN_END, 51, 52])
    answerer = Answerer(model, processor)
    reply = answerer.start(answerer.look(ball_video)).ask("What?", max_new_tokens=8)
    assert reply.text == processor.tokenizer.decode([50])


def force(model, answer):
    """Make a model say these tokens whatever it reads."""
    spoken = iter(answer)

    def forced(module, inputs, logits):
        logits[:, -1] = 0
        logits[:, -1, next(spoken)] = 1
        return logits

    model.lm_head.register_forward_hook(forced)


def test_answers_are_greedy_whatever_penalty_the_language_model_came_with(parts, ball_video):
    create_model(parts / "new", str(parts / "vision"), str(parts / "text"), **GEOMETRY)
    texts = []
    for penalty in (1.3, 1.0):
        model, processor = load_pretrained(parts / "new")
        assert model.generation_config.repetition_penalty == 1.3
        model.generation_config.repetition_penalty = penalty
        answerer = Answerer(model, processor)
        texts.append(answerer.start(answerer.look(ball_video)).ask("What moves?", max_new_tokens=8).text)
    assert texts[0] == texts[1]


def test_a_folder_that_was_not_finished_is_not_there(parts, monkeypatch):
    monkeypatch.setattr(DynImgForConditionalGeneration, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        create_model(parts / "new", str(parts / "vision"), str(parts / "text"), **GEOMETRY)
    assert sorted(path.name for path in parts.iterdir()) == ["text", "vision"]


def test_what_is_there_is_not_written_over(parts):
    (parts / "new").mkdir()
    (parts / "new" / "mine.txt").touch()
    arguments = ["init", "-o", str(parts / "new"), "--vision", str(parts / "vision"), "--text", str(parts / "text")]
    result = CliRunner().invoke(dynimg_vl, arguments, standalone_mode=False)
    assert isinstance(result.exception, InputError)
    assert "exists already; choose another folder" in str(result.exception)


def test_an_empty_folder_may_be_a_link_and_not_where_one_is(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new_folder(tmp_path / "link") as partial:
        (partial / "a").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").exists()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="the folder that you are in, which cannot be replaced"), new_folder(Path()):
        pytest.fail("hours of work")
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "disk")
    (tmp_path / "disk").mkdir()
    with pytest.raises(InputError, match="a mount point"), new_folder(tmp_path / "disk"):
        pytest.fail("hours of work")


def test_ends_are_kept_in_order_and_once():
    tokenizer = tiny_tokenizer()
    for known, expected in ((None, [2]), (0, [2, 0]), ([0, 2], [2, 0]), ([5, 7], [2, 5, 7])):
        source = GenerationConfig(eos_token_id=known)
        assert answering_config(source, tokenizer, 5).eos_token_id == expected
        assert source.eos_token_id == known
    assert answering_config(None, tokenizer, 5).pad_token_id == tokenizer.pad_token_id


def test_frames_of_their_own_without_prompt_frames(tmp_path, ball_video):
    model = tiny_model(prompt_stage="after", num_prompt_frames=0)
    processor = tiny_processor(model.config)
    inputs = processor(videos=[ball_video], text=["<|video_pad|>"], return_tensors="pt")
    assert inputs["pixel_values_videos"].shape[1:3] == (1, 3)
    model(**inputs)


def test_an_adapter_as_peft_writes_it_is_loaded(tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_model(text={"vocab_size": len(tiny_tokenizer())})
    model.save_pretrained(tmp_path / "base")
    tiny_processor(model.config).save_pretrained(tmp_path / "base")
    base, _ = load_pretrained(tmp_path / "base")
    settings = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    inputs = tiny_inputs(model.config)
    expected = adapted(**inputs).logits
    found, _ = load_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(found(**inputs).logits, expected, rtol=1e-3, atol=1e-4)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(InputError, match="base"):
        load_pretrained(tmp_path / "adapter")


def test_a_draft_model_is_refused_where_there_is_a_video():
    model = tiny_model(theta=0.1)
    inputs = tiny_inputs(model.config)
    for options in ({"assistant_model": tiny_model()}, {"assistant_early_exit": 1}):
        with pytest.raises(InputError, match="a draft model cannot see videos"):
            model.generate(**inputs, **options, do_sample=False, max_new_tokens=3)


@pytest.mark.parametrize("clip", [(1,), 5, ("a", "b"), "ab", (0.0, float("nan")), (True, 2.0)])
def test_a_clip_is_two_bounds_in_seconds(clip, ball_video):
    processor = tiny_processor(tiny_config())
    with pytest.raises(InputError, match="a clip is"):
        processor.video_processor.load(ball_video, clip=clip)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_frames_are_bytes(dtype):
    processor = tiny_processor(tiny_config())
    with pytest.raises(InputError, match=r"frames must be \(F, H, W, 3\) uint8, got"):
        processor.video_processor.load(torch.zeros(4, 8, 8, 3, dtype=dtype, requires_grad=True))
