import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2ForCausalLM, SiglipConfig, SiglipModel

from dynimg_vl import DynImgForConditionalGeneration, InputError
from dynimg_vl.model import create_model, load_pretrained
from tiny import VIDEO_TOKEN_ID, tiny_config, tiny_inputs, tiny_model, tiny_processor, tiny_tokenizer

GEOMETRY = {"num_dynimgs": 2, "num_prompt_frames": 2, "token_grid": 4, "patch_grid": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Save a tiny model and its processor."""
    path = tmp_path_factory.mktemp("model")
    model = tiny_model(theta=0.1)
    model.save_pretrained(path)
    tiny_processor(model.config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Save a full SigLIP with a pooling head, its vision part, and Qwen2 with tied and with own output weights."""
    path = tmp_path_factory.mktemp("backbones")
    torch.manual_seed(0)
    config = tiny_config(vision={"image_size": 72, "vision_use_head": True})
    text = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    special = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    siglip = SiglipModel(SiglipConfig(vision_config=config.vision_config.to_dict(), text_config={**text, **special}))
    siglip.save_pretrained(path / "siglip")
    siglip.vision_model.save_pretrained(path / "vision")
    for name, tied in (("qwen", False), ("qwen-tied", True)):
        language = tiny_config(text={"tie_word_embeddings": tied}).text_config
        Qwen2ForCausalLM(language).to(torch.bfloat16).save_pretrained(path / name)
        tiny_tokenizer().save_pretrained(path / name)
    return path


@pytest.mark.parametrize("vision", ["siglip", "vision"])
@pytest.mark.parametrize("text", ["qwen", "qwen-tied"])
def test_backbones_become_a_model(backbones, vision, text):
    options = {**GEOMETRY, "video_token_id": VIDEO_TOKEN_ID, "rope_combine": "split"}
    options["rope_trainable"] = text == "qwen"  # a fixed theta must start right, too
    model = DynImgForConditionalGeneration.from_backbones(str(backbones / vision), str(backbones / text), **options)
    tower = SiglipModel.from_pretrained(backbones / "siglip").vision_model
    language = Qwen2ForCausalLM.from_pretrained(backbones / text)
    weights = model.state_dict()
    for name, value in tower.state_dict().items():
        if not name.startswith("head."):
            assert weights[f"model.vision_tower.{name}"].equal(value.bfloat16())
    for name, value in language.model.state_dict().items():
        assert weights[f"model.language_model.{name}"].equal(value)
    assert model.lm_head.weight.equal(language.lm_head.weight)
    rotary = model.model.language_model.rotary_emb
    assert rotary.axis_theta.equal(rotary.initial_axis_theta())
    assert rotary.inv_freq.equal(Qwen2ForCausalLM(language.config).model.rotary_emb.inv_freq)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.suppress_tokens == [VIDEO_TOKEN_ID]
    inputs = tiny_inputs(model.config)
    inputs["pixel_values_videos"] = inputs["pixel_values_videos"].bfloat16()
    assert model(**inputs).logits.isfinite().all()


def test_a_created_folder_can_be_loaded(backbones, tmp_path):
    facts = create_model(tmp_path, str(backbones / "siglip"), str(backbones / "qwen"), dtype="float32", **GEOMETRY)
    assert facts["tokens_per_dynimg"] == 16
    model, processor = load_pretrained(tmp_path, device="cpu")
    assert model.config.video_token_id == processor.video_token_id == VIDEO_TOKEN_ID
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["num_parameters"]


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ("qwen", "qwen", "holds a 'qwen2' model; the vision backbone must be a SigLIP"),
        ("siglip", "siglip", "holds a 'siglip' model; the text backbone must be a Qwen2"),
        ("nothing", "qwen", "no such folder"),
    ],
)
def test_backbones_of_another_kind_are_refused(backbones, vision, text, message):
    with pytest.raises(InputError, match=message):
        DynImgForConditionalGeneration.from_backbones(str(backbones / vision), str(backbones / text), **GEOMETRY)


def test_a_backbone_that_lacks_weights_is_refused(backbones, tmp_path):
    for name in ("config.json", "generation_config.json"):
        (tmp_path / name).write_text((backbones / "qwen" / name).read_text())
    weights = load_file(backbones / "qwen" / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights .* model\.norm\.weight"):
        DynImgForConditionalGeneration.from_backbones(
            str(backbones / "siglip"), str(tmp_path), **GEOMETRY, video_token_id=VIDEO_TOKEN_ID
        )


def test_a_folder_gives_a_model_and_its_processor(folder):
    model, processor = load_pretrained(folder, device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    processor.check_compatible(model)
    model, processor = load_pretrained(folder, device="cpu", dtype="bfloat16", num_prompt_frames=4)
    assert model.dtype == torch.bfloat16
    assert model.config.layout.num_prompt_frames == processor.video_processor.layout.num_prompt_frames == 4


def copy_of(folder, target):
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_folder_without_a_model_is_one_line(tmp_path):
    for name, message in ((tmp_path, "no DynImg model at"), (tmp_path / "missing", "no such folder")):
        with pytest.raises(InputError, match=message) as raised:
            load_pretrained(name)
        assert "\n" not in str(raised.value)


def test_a_model_of_another_kind_is_refused(backbones):
    with pytest.raises(InputError, match=r"holds a 'qwen2' model, not a DynImg; .* convert.* init"):
        load_pretrained(backbones / "qwen")


def test_a_processor_that_does_not_fit_its_model_is_refused(folder, tmp_path):
    copy_of(folder, tmp_path)
    change(tmp_path / "config.json", num_prompt_frames=4)
    with pytest.raises(InputError, match="num_prompt_frames is 2 here and 4 in the model"):
        load_pretrained(tmp_path)


def test_a_folder_without_a_processor_is_refused(folder, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no processor"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("change_of", ["missing", "unexpected", "truncated"])
def test_wrong_weights_are_refused(folder, tmp_path, change_of):
    path = copy_of(folder, tmp_path) / "model.safetensors"
    weights = load_file(path)
    if change_of == "missing":
        weights.pop("model.multi_modal_projector.linear_1.bias")
    else:
        weights["model.other.weight"] = torch.zeros(1)
    save_file(weights, path, metadata={"format": "pt"})
    if change_of == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    message = {"truncated": "cannot be loaded"}.get(change_of, f"1 {change_of} keys, model")
    with pytest.raises(InputError, match=message):
        load_pretrained(tmp_path)


REGISTRATION = """
import sys
{before}
import dynimg_vl
{after}
assert {heavy} or not {{"torch", "transformers"}} & sys.modules.keys()
{use}
"""
USES = {
    "config": "from transformers import AutoConfig\nfound = AutoConfig.from_pretrained({folder!r})",
    "model": "from transformers import AutoModel\nfound = AutoModel.from_pretrained({folder!r})",
    "generation": "from transformers import AutoModelForImageTextToText as Auto\n"
    "found = Auto.from_pretrained({folder!r})",
    "multimodal": "from transformers import AutoModelForMultimodalLM as Auto\nfound = Auto.from_pretrained({folder!r})",
    "processor": "from transformers import AutoProcessor\nfound = AutoProcessor.from_pretrained({folder!r})",
    "video": "from transformers.models.auto.video_processing_auto import AutoVideoProcessor\n"
    "found = AutoVideoProcessor.from_pretrained({folder!r})",
}
CLASSES = {
    "config": "DynImgConfig",
    "model": "DynImgModel",
    "generation": "DynImgForConditionalGeneration",
    "multimodal": "DynImgForConditionalGeneration",
    "processor": "DynImgProcessor",
    "video": "DynImgVideoProcessor",
}


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.parametrize(
    "use", ["processor", *(pytest.param(name, marks=pytest.mark.slow) for name in CLASSES if name != "processor")]
)
def test_importing_the_package_alone_makes_it_known(folder, use):
    code = REGISTRATION.format(before="", after="", heavy=False, use=USES[use].format(folder=str(folder)))
    assert run(f"{code}\nprint(type(found).__name__)").split()[-1] == CLASSES[use]


@pytest.mark.slow
def test_it_is_known_when_transformers_came_first(folder):
    before = "from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor"
    uses = "\n".join(f"{USES[use].format(folder=str(folder))}\nprint(type(found).__name__)" for use in CLASSES)
    code = REGISTRATION.format(before=before, after="", heavy=True, use=uses)
    assert run(code).split() == list(CLASSES.values())


@pytest.mark.slow
def test_nothing_here_needs_torchvision(folder):
    block = "sys.modules['torchvision'] = None"  # any import of it fails
    use = f"from dynimg_vl.model import load_pretrained\nprint(len(load_pretrained({str(folder)!r}, device='cpu')))"
    assert run(REGISTRATION.format(before=block, after="", heavy=False, use=use)).split()[-1] == "2"


@pytest.mark.slow
def test_the_pipeline_of_transformers_answers(folder, tmp_path):
    use = f"""
import numpy as np
from pathlib import Path
from PIL import Image
frames = Path({str(tmp_path)!r})
for number in range(6):
    Image.fromarray(np.full((32, 32, 3), 40 * number, np.uint8)).save(frames / f"{{number}}.png")
from transformers import pipeline
chat = [{{"role": "user", "content": [{{"type": "video", "path": str(frames)}}, {{"type": "text", "text": "What?"}}]}}]
result = pipeline("image-text-to-text", model={str(folder)!r})(
    text=chat, max_new_tokens=2, processor_kwargs={{"fps": 2}})
print(result[0]["generated_text"][-1]["role"])
"""
    assert run(REGISTRATION.format(before="", after="", heavy=False, use=use)).split()[-1] == "assistant"
