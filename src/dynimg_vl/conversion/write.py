"""Writing weights as they are read: one output file after the other, never the whole model in memory."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError
from ..model.foreign import reading
from .weights import ITEM_SIZES, Stored

SHARD_BYTES = 1_000_000_000
"""Of an output file; with what is mapped of the input, it bounds the memory of a conversion."""

_ROWS = 8192  # rows of a table that are compared at once


def size_of(weights: Mapping[str, Stored], dtype: torch.dtype | None) -> int:
    """Count the bytes of weights; `dtype` None keeps the type of each."""
    return sum(_num_bytes(weight, dtype) for weight in weights.values())


def _num_bytes(weight: Stored, dtype: torch.dtype | None) -> int:
    return weight.numel * (ITEM_SIZES[weight.dtype] if dtype is None else dtype.itemsize)


def write_weights(
    folder: Path,
    weights: Mapping[str, Stored],
    new: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copy weights into the safetensors files of a model, in the order in which they lie in the source.

    Args:
        folder: where to write `model.safetensors`, or numbered files and their index.
        weights: what to copy, by its name in the model.
        new: weights that the source does not have; they keep their type.
        dtype: of what is copied; None keeps the type of each.
        shard_bytes: bytes of one file, exceeded only by a single weight that is larger.
        progress: called with the bytes written so far and of all.
    """
    shards = _divide(weights, dtype, shard_bytes)
    width = len(shards)
    names = [f"model-{rank:05d}-of-{width:05d}.safetensors" for rank in range(1, width + 1)]
    names = names if width > 1 else ["model.safetensors"]
    total = size_of(weights, dtype)
    index: dict[str, str] = {}
    done = 0
    for file, shard in zip(names, shards, strict=True):
        extra = new if file == names[-1] else {}
        _write_shard(folder / file, shard, extra, dtype)
        index |= dict.fromkeys([*shard, *extra], file)
        done += size_of(shard, dtype)
        if progress is not None:
            progress(done, total)
    if width > 1:
        total += sum(each.nbytes for each in new.values())
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _divide(weights: Mapping[str, Stored], dtype: torch.dtype | None, shard_bytes: int) -> list[dict[str, Stored]]:
    shards: list[dict[str, Stored]] = [{}]
    size = 0
    # By file, so that each is opened once or twice.
    for name, weight in sorted(weights.items(), key=lambda item: (str(item[1].path), item[0])):
        if shards[-1] and size + _num_bytes(weight, dtype) > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = weight
        size += _num_bytes(weight, dtype)
    return shards


def _write_shard(path: Path, shard: Mapping[str, Stored], new: Mapping[str, Tensor], dtype: torch.dtype | None) -> None:
    tensors = dict(new)
    with ExitStack() as stack:
        opened = {
            file: stack.enter_context(safe_open(file, "pt"))
            for file in sorted({weight.path for weight in shard.values()})
        }
        for name, weight in shard.items():
            tensor = opened[weight.path].get_tensor(weight.name)
            tensors[name] = tensor if dtype is None else tensor.to(dtype)
        save_file(tensors, path, metadata={"format": "pt"})


def check_tied(embedding: Stored, output: Stored) -> None:
    """Make sure that an output layer which is to be tied is the token embedding, number for number.

    Raises:
        InputError: where it is not.
    """
    same = embedding.shape == output.shape
    with (
        reading("the weights cannot be read"),
        safe_open(embedding.path, "pt") as one,
        safe_open(output.path, "pt") as two,
    ):
        rows, others = one.get_slice(embedding.name), two.get_slice(output.name)
        for start in range(0, embedding.shape[0] if same else 0, _ROWS):
            same = same and torch.equal(rows[start : start + _ROWS], others[start : start + _ROWS])
    if not same:
        raise InputError(f"the source ties {output.name} to {embedding.name}, but holds other numbers for it")
