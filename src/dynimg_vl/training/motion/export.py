"""From a trained model to a folder that `from_pretrained` reads: half precision, tokenizer, processor."""

from pathlib import Path

from transformers import GenerationConfig, PreTrainedTokenizerBase

from ...model import DynImgForConditionalGeneration, DynImgProcessor


def export_model(model: DynImgForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write config, weights (float16; theta stays float32), tokenizer and processor; `model` itself is halved."""
    folder.mkdir(parents=True, exist_ok=True)
    # Greedy decoding is what was measured.
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=32,
    )
    model.set_attn_implementation("sdpa")
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    DynImgProcessor.from_config(model.config, tokenizer).save_pretrained(folder)
