"""Tiny random LLaVA-OneVisions, as transformers and as their authors would save them."""

import json
import re

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from tiny import tiny_config

GEOMETRY = {"num_dynimgs": 2, "num_prompt_frames": 2, "token_grid": 4, "patch_grid": 8}
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VISION = {"image_size": 80}  # 10 x 10 patches; a DynImg of GEOMETRY has 8 x 8


def save_tokenizer(folder, special):
    alphabet = [chr(code) for code in range(33, 127)]
    words = {word: number for number, word in enumerate([*special, "\u0120", "\u010a", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="right"
    ).save_pretrained(folder)


def source_model(*, seed=0, vision=None, text=None, **fields):
    torch.manual_seed(seed)
    parts = tiny_config(vision={**VISION, **(vision or {})}, text={"vocab_size": 128, **(text or {})})
    config = LlavaOnevisionConfig(
        vision_config=parts.vision_config,
        text_config=parts.text_config,
        image_token_index=3,
        video_token_index=4,
        **fields,
    )
    return LlavaOnevisionForConditionalGeneration(config).eval()


def save_source(folder, model, **options):
    model.save_pretrained(folder, **options)
    save_tokenizer(folder, [*CHATML, "<image>", "<video>"])
    stats = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.5, 0.5, 0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(stats))
    return folder


ORIGINAL_NAMES = (
    (r"^model\.vision_tower\.", "model.vision_tower.vision_tower.vision_model."),
    (r"^model\.multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^model\.multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^model\.language_model\.", "model."),
)


def save_original(folder, model):
    """Write a model in the layout of LLaVA-NeXT: flat configuration, other names, no placeholder token."""
    folder.mkdir(exist_ok=True)
    weights = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        for pattern, replacement in ORIGINAL_NAMES:
            name, count = re.subn(pattern, replacement, name)
            if count:
                break
        weights[name] = value.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = model.config.text_config.to_dict()
    config = {
        **{key: value for key, value in text.items() if key not in ("layer_types", "rope_parameters")},
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "model_type": "llava",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "somebody/tiny-siglip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_resampler_type": None,
        "tie_word_embeddings": model.config.tie_word_embeddings,
    }
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder, CHATML)
    return folder


def edit_weights(folder, edit):
    path = folder / "model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})
