"""Start a model from the weights of another one that need not be quite like it: arms of an ablation share theirs."""

import hashlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import AutoTokenizer

from ..errors import InputError
from ..model.foreign import reading
from ..model.pretrained import located

_PATTERN = "model*.safetensors"


def take_weights(
    model: Any, tokenizer: PreTrainedTokenizerBase, source: str, exceptions: Sequence[str] = ()
) -> list[str]:
    """Put the weights of another model's folder into a model, where the names are the same and the shapes fit.

    Args:
        model: a DynImg model; whatever is an exception stays as it is there.
        tokenizer: of the model.
        source: a folder, or "embedded".
        exceptions: patterns (`*`, `?`) over the names of what may be missing, left over, or of another shape.

    Returns:
        What was left out, with the reason.

    Raises:
        InputError: where there are no weights, the tokenizer there has another vocabulary, or something that is no
            exception does not fit.
    """
    folder = Path(located(source))
    state = _read(folder)
    _check_vocabulary(folder, tokenizer)
    own = model.state_dict()
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    reasons = {name: "is missing there" for name in own if name not in state and name not in tied}
    reasons |= {name: "has no place in this model" for name in state if name not in own}
    reasons |= {
        name: f"has the shape {tuple(state[name].shape)} there and {tuple(own[name].shape)} here"
        for name in own
        if name in state and state[name].shape != own[name].shape
    }
    bad = [name for name in sorted(reasons) if not any(fnmatchcase(name, pattern) for pattern in exceptions)]
    if bad:
        more = f", and {len(bad) - 1} more do not fit" if len(bad) > 1 else ""
        raise InputError(
            f"model: weights in {source}: {bad[0]} {reasons[bad[0]]}{more}; if that is meant, name it in "
            "model.weights_except (patterns with * and ?)"
        )
    model.load_state_dict({name: value for name, value in state.items() if name not in reasons}, strict=False)
    return [f"{name} {reason}" for name, reason in sorted(reasons.items())]


def digest_of(folder: Path) -> str:
    """Name the weights in a folder by what they are, so that two runs can be told to have started from the same.

    Raises:
        InputError: where there are none.
    """
    found = hashlib.sha256()
    for name, value in sorted(_read(folder).items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def _read(folder: Path) -> Mapping[str, Tensor]:
    files = sorted(folder.glob(_PATTERN)) if folder.is_dir() else []
    if not files:
        raise InputError(f"model: weights: no {_PATTERN} in {folder}; give the folder of a DynImg model")
    state: dict[str, Tensor] = {}
    with reading(f"the weights in {folder} cannot be read"):
        for path in files:
            with safe_open(path, framework="pt") as file:
                # Copies, or the model would hang on the file, which the next checkpoint may replace.
                state |= {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return state


def _check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    if (folder / "tokenizer.json").is_file():
        with reading(f"{folder} has no tokenizer that can be read"):
            other = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if other.get_vocab() != tokenizer.get_vocab():
            raise InputError(
                f"model: weights in {folder} belong to another vocabulary, so that its embeddings mean other words; "
                "name the tokenizer of that folder in model.tokenizer"
            )
