"""Weights of 8 or 4 bits, through transformers' own integration of bitsandbytes: on CUDA and on the CPU.

The layers of the language model alone are quantized. SigLIP, a twentieth of a 7B, the projector, theta and the output
layer keep their type.
"""

from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from ..errors import InputError

Quantization = Literal["8bit", "4bit"]

WHOLE = ["lm_head", "model.multi_modal_projector", "model.vision_tower"]
"""What keeps its type; theta is no linear layer and is never touched."""

NEEDED = ("bitsandbytes", "accelerate")


def quantized(kind: str, device: torch.device, dtype: torch.dtype | str) -> dict[str, Any]:
    """Give the options with which `from_pretrained` quantizes a model while it loads it.

    Args:
        kind: "8bit" (LLM.int8) or "4bit" (NF4).
        device: where the model will be.
        dtype: of what is not quantized.

    Raises:
        InputError: where a package is missing, or the device or the kind is another.
    """
    if kind not in get_args(Quantization):
        raise InputError(f"quantize must be one of {', '.join(get_args(Quantization))}, got {kind!r}")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"--quantize needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    if device.type not in ("cuda", "cpu"):
        raise InputError(f"--quantize works on cuda and on the cpu, not on {device.type}; leave it out")
    from transformers.utils.quantization_config import BitsAndBytesConfig

    if kind == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=WHOLE)
    else:
        compute = dtype if isinstance(dtype, torch.dtype) else torch.bfloat16
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=compute,
            llm_int8_skip_modules=WHOLE,
        )
    return {"quantization_config": config, "device_map": {"": device}}
