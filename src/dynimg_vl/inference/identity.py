"""Say which model answered, so that it can be told apart from every other one: hashes of weights and settings."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor


def digest_of_weights(model: Any) -> str:
    """Hash the weights as they are in memory: after a cast, a merged adapter or a quantisation they are other weights.

    SHA-256 over the sorted lines "name dtype shape hash" of the state, each tensor hashed by itself.
    """
    state = sorted(model.state_dict().items())
    # hashlib lets other threads run meanwhile: 16 GB take seconds.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        digests = pool.map(_digest, (value for _, value in state))
        lines = [f"{name} {_shape(value)} {digest}\n" for (name, value), digest in zip(state, digests, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digest_of_settings(model: Any, processor: Any) -> str:
    """Hash what besides the weights decides on an answer: configuration, processor, chat template and tokenizer."""
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = {
        "config": _without_origin(model.config.to_dict()),
        "generation": _without_origin(model.generation_config.to_dict()),
        "video_processor": _without_origin(processor.video_processor.to_dict()),
        "chat_template": processor.chat_template,
        "tokenizer": backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items()),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Give the versions of what an answer goes through."""
    from .. import __version__

    return {"dynimg_vl": __version__, **{name: version(name) for name in ("torch", "transformers", "av")}}


def _digest(value: Any) -> str:
    if not isinstance(value, Tensor):  # quantised models keep more than tensors there
        return hashlib.sha256(repr(value).encode()).hexdigest()
    array: Any = value.detach().reshape(-1).cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(array).hexdigest()


def _shape(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _without_origin(value: Any) -> Any:
    """Leave out where a configuration was read from and what wrote it, at any depth."""
    if isinstance(value, dict):
        origin = ("_name_or_path", "name_or_path", "transformers_version")
        return {key: _without_origin(part) for key, part in value.items() if key not in origin}
    return [_without_origin(part) for part in value] if isinstance(value, list | tuple) else value
