"""Low-rank adapters through peft, with theta and the projector trained and saved whole beside them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError
from ..model.pretrained import located
from .arguments import check_keys

WHOLE_MODULES = ["rotary_emb", "multi_modal_projector"]
"""What is trained whole: theta starts at 0 and the projector is fresh, and peft would freeze both."""


@dataclass(frozen=True)
class LoraSettings:
    """Choose the adapters; the defaults are those of PLLaVA, whose recipe the paper follows.

    Args:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: on the input of an adapter.
        target_modules: names of the linear layers of the language model that get one.
        embeddings: whether the token embedding is trained whole as well, as a model needs that is to say words it has
            never seen; a tied output layer goes with it.
        merge: whether the finished model is also written as a whole one, which needs no peft to load.
    """

    r: int = 128
    alpha: float = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    embeddings: bool = False
    merge: bool = False

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "LoraSettings":
        """Read the `lora` section of a recipe.

        Raises:
            InputError: where a key is unknown or a value cannot be.
        """
        check_keys(values, {each.name for each in dataclasses.fields(cls)}, "training.lora")
        targets = values.get("target_modules", cls.target_modules)
        targets = [targets] if isinstance(targets, str) else targets
        if not isinstance(targets, list | tuple) or not all(isinstance(each, str) for each in targets):
            raise InputError(f"training.lora: target_modules must be names of layers, got {targets!r}")
        settings = cls(**{**values, "target_modules": tuple(targets)})
        numbers = (settings.r, settings.alpha, settings.dropout)
        if not all(isinstance(number, int | float) for number in numbers) or settings.r < 1:
            raise InputError(f"training.lora: r must be at least 1, alpha and dropout numbers, got {numbers}")
        if not 0 <= settings.dropout < 1:
            raise InputError(f"training.lora: dropout must lie in [0, 1), got {settings.dropout}")
        return settings


def add_lora(model: Any, settings: LoraSettings, base: str | None = None) -> Any:
    """Put adapters into the language model and free theta and the projector; everything else is frozen.

    Args:
        model: a `DynImgForConditionalGeneration`.
        settings: what adapters.
        base: hub id, folder or name of the model, which the adapter names as what it belongs to.

    Returns:
        The model inside of a `peft.PeftModel`.

    Raises:
        InputError: where peft is missing, or a target is no layer of the language model.
    """
    try:
        import peft
    except ImportError as error:
        raise InputError("LoRA needs peft: pip install 'dynimg-vl[train]'") from error

    text = model.model.language_model
    leaves = {name.rpartition(".")[2] for name, part in text.named_modules() if isinstance(part, nn.Linear)}
    for target in settings.target_modules:
        if target not in leaves:
            raise InputError(f"training.lora: no layer is called {target!r}; there are {', '.join(sorted(leaves))}")
    # The layers of SigLIP bear the same names.
    names = "|".join(settings.target_modules)
    if base is not None:
        base = located(base)
        base = str(Path(base).resolve()) if Path(base).is_dir() else base
        model.name_or_path = base  # peft prefers it to what it is told
    config = peft.LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a factor; any number does
        lora_dropout=settings.dropout,
        target_modules=rf".*language_model\.layers\..*\.({names})",
        modules_to_save=_whole_modules(model, settings),
        ensure_weight_tying=settings.embeddings and bool(model.config.tie_word_embeddings),
        base_model_name_or_path=base,
    )
    return peft.get_peft_model(model, config)


def merged(model: Any) -> Any:
    """Add the adapters to the weights: a plain `DynImgForConditionalGeneration`; the PEFT model is used up."""
    return model.merge_and_unload()


def _whole_modules(model: Any, settings: LoraSettings) -> list[str]:
    names = [name for name in WHOLE_MODULES if name != "rotary_emb" or _learns_theta(model)]
    if settings.embeddings:
        names += ["embed_tokens"] if model.config.tie_word_embeddings else ["embed_tokens", "lm_head"]
    return names


def _learns_theta(model: Any) -> bool:
    return isinstance(model.model.language_model.rotary_emb.axis_theta, nn.Parameter)
