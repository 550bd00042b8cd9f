"""Tiny random models, tokenizers and processors: everything of the 7B but its size."""

from typing import Any

import torch
from transformers.models.qwen2.configuration_qwen2 import Qwen2Config
from transformers.models.siglip.configuration_siglip import SiglipVisionConfig

VIDEO_TOKEN_ID = 5
VOCAB_SIZE = 128


def tiny_config(**fields: Any):
    """Configure a model of about 30 000 parameters: 4 x 4 tokens per DynImg, 2 prompt frames, 64 pixels."""
    from dynimg_vl import DynImgConfig

    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 64,
        "vision_use_head": False,
        **fields.pop("vision", {}),
    }
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        "initializer_range": 0.3,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **fields.pop("text", {}),
    }
    defaults = {
        "num_dynimgs": 2,
        "num_prompt_frames": 2,
        "token_grid": 4,
        "patch_grid": 8,
        "video_token_id": VIDEO_TOKEN_ID,
    }
    return DynImgConfig(
        vision_config=SiglipVisionConfig(**vision), text_config=Qwen2Config(**text), **{**defaults, **fields}
    )


def tiny_model(seed: int = 0, theta: float = 0.0, **fields: Any):
    """Build a tiny random model; `theta` is the size of random values in axis_theta."""
    from dynimg_vl import DynImgForConditionalGeneration

    torch.manual_seed(seed)
    model = DynImgForConditionalGeneration(tiny_config(**fields)).eval()
    axis_theta = model.model.language_model.rotary_emb.axis_theta
    if theta and axis_theta is not None:
        with torch.no_grad():
            axis_theta.add_(theta * torch.randn_like(axis_theta))
    return model


def tiny_inputs(config: Any, *, num_dynimgs: int = 2, before: int = 3, after: int = 4, seed: int = 0) -> dict[str, Any]:
    """Make one prompt: text, one video, text; pixels are noise."""
    generator = torch.Generator().manual_seed(seed)
    layout = config.layout
    head, tail = (torch.randint(6, VOCAB_SIZE, (count,), generator=generator) for count in (before, after))
    video = torch.full((num_dynimgs * layout.tokens_per_dynimg,), config.video_token_id)
    frames = (len(layout.tiles),) if config.prompt_stage == "after" else ()
    input_ids = torch.cat([head, video, tail])[None]
    return {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values_videos": torch.randn(
            num_dynimgs, *frames, 3, layout.image_size, layout.image_size, generator=generator
        ),
        "dynimgs_per_video": torch.tensor([num_dynimgs]),
    }


def tiny_tokenizer():
    """Build a byte-level tokenizer with Qwen's special tokens; <|video_pad|> has the id of `VIDEO_TOKEN_ID`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
    alphabet = [chr(code) for code in range(33, 127)]
    # Byte-level spelling of space and newline, then printable ASCII: 6 + 2 + 94 = 102 words.
    words = {word: number for number, word in enumerate([*special, "\u0120", "\u010a", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )


def tiny_processor(config: Any, **options: Any):
    """Build the processor that fits a tiny model."""
    from dynimg_vl import DynImgProcessor

    return DynImgProcessor.from_config(config, tiny_tokenizer(), **options)


def save_tiny(folder: Any) -> None:
    """Write a tiny model and its processor, as a user would find them."""
    model = tiny_model(text={"vocab_size": len(tiny_tokenizer())})
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
