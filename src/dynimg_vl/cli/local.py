"""The engine around a model of this machine, and the place of this process among those that share a run."""

import os
import sys
from logging import ERROR, getLogger
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .options import given

SMALL_MODEL = 20_000_000
"""Parameters below which one thread answers fastest on a CPU."""

if TYPE_CHECKING:
    from ..answering import Answerer
    from ..inference.local import LocalEngine


def load_answerer(model: str | None, **loading: Any) -> "Answerer":
    """Load a model, quietly, and set the threads that serve it best; options that are None are left out."""
    from transformers.utils import logging

    from ..answering import Answerer

    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # in a file it would be noise
    # What matters of them comes as one line of ours; bitsandbytes has a line for each layer and each word of an answer.
    for library in ("transformers", "huggingface_hub", "bitsandbytes"):
        getLogger(library).setLevel(ERROR)
    answerer = Answerer.from_pretrained(model, **given(**loading))
    # Threads that wait for one another cost a small model more than they bring: 0.05 s an answer with one, 0.2 to 1.0 s
    # with two on a busy machine of two cores (the embedded model).
    if answerer.model.num_parameters() < SMALL_MODEL:
        import torch

        torch.set_num_threads(1)
    return answerer


def make_local_engine(
    model: str | None,
    *,
    batch_size: int,
    workers: int,
    local_rank: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    num_prompts: int | None = None,
    **selection: Any,
) -> "LocalEngine":
    """Make the engine around a model of this machine, from the options of a verb; None stands for a default.

    Args:
        model: folder or hub id; None takes the embedded one.
        batch_size: requests at a time.
        workers: processes that decode ahead.
        local_rank: which of the processes on this machine this is; it takes the GPU of that number.
        device: see `load_pretrained`, as `dtype` and `quantize`.
        dtype: see `device`.
        quantize: see `device`.
        num_prompts: prompt frames of each DynImg.
        **selection: of `LocalEngine`.
    """
    import torch

    from ..inference.local import LocalEngine

    if device is None and local_rank is not None and torch.cuda.is_available():
        device = f"cuda:{local_rank}"
    answerer = load_answerer(model, device=device, dtype=dtype, quantize=quantize, num_prompt_frames=num_prompts)
    name = "embedded" if model is None else model
    options: Any = {"batch_size": batch_size, "num_workers": workers, **given(**selection)}
    return LocalEngine(answerer.model, answerer.processor, name=name, **options)


def place_among_processes() -> tuple[tuple[int, int], int | None]:
    """Read what `accelerate launch` and `torchrun` tell each process.

    Returns:
        Which it is of how many, and its number on this machine, None where it was started alone.
    """
    try:
        rank, count = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
        return (rank, count), int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None
    except ValueError as error:
        raise InputError("RANK, WORLD_SIZE and LOCAL_RANK must be numbers; start with accelerate launch") from error
