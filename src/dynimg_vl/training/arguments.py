"""What a run can be told: the training arguments of transformers, and what DynImg adds to them (Section 4.1)."""

import contextlib
import dataclasses
import difflib
import importlib.util
import logging
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import TrainingArguments

from ..errors import InputError
from ..model.cpu_bfloat16 import multiplies_bfloat16
from .resuming import FORCE

logger = logging.getLogger(__name__)

FSDP_UNITS = ["Qwen2DecoderLayer", "SiglipEncoderLayer", "SiglipVisionEmbeddings"]
"""What FSDP shards one by one. Left alone, it reads the list off the model, where transformers has mixed in a class of
SigLIP's text tower, which is not there; and stops."""

MUON = "muon"
AUTO = "auto"
"""The value of `bf16` that takes it where the machine has it."""
_NOT_NEGATIVE = (
    "axis_theta_learning_rate",
    "projector_learning_rate",
    "muon_learning_rate",
    "motion_attention_loss",
    "motion_heads_loss",
)
_OLD_CHECKPOINTING, _NEW_CHECKPOINTING = "gradient_checkpointing", "activation_checkpointing"


@dataclass
class DynImgTrainingArguments(TrainingArguments):
    """Describe a run: all of transformers' training arguments, with these added or with another default.

    One process uses one GPU, however many the machine has; `torchrun` starts a process for each.

    Args:
        axis_theta_learning_rate: of theta_h, theta_w and theta_t; None is `learning_rate`. Never any weight decay.
        projector_learning_rate: of the projector; None is `learning_rate`.
        optim: one of transformers', or "muon": Muon for the matrices of the layers, AdamW for the rest.
        muon_learning_rate: of those matrices, with `optim: muon`.
        frozen: patterns (`*` and `?`) over the names of parameters that do not learn; each has to match something.
        lora: settings of `LoraSettings`; None or false trains the weights themselves.
        num_processes: how many processes (one per GPU) the run is meant for; another number is refused, since it would
            change the size of a batch. None takes any.
        resume: go on from the last complete checkpoint in `output_dir`; false refuses a folder that has one, "force"
            goes on although the recipe, or the number of samples in a step, is another one than that of the checkpoint.
        bf16: as in transformers; in a recipe also "auto", which is true where the device multiplies in bfloat16.
        num_threads: of torch in this process; None leaves it to torch.
        motion_attention_loss: factor, in all stages, on the loss that teaches two heads to follow content from prompt
            frame to prompt frame; with `data.world` only, like the next.
        motion_heads_loss: the same for the losses of the linear heads that read motion off single patches.
    """

    axis_theta_learning_rate: float | None = None
    projector_learning_rate: float | None = None
    muon_learning_rate: float | None = None
    frozen: list[str] = field(default_factory=list)
    lora: dict[str, Any] | None = None
    num_processes: int | None = None
    resume: bool | str = True
    num_threads: int | None = None
    motion_attention_loss: float = 1.0
    motion_heads_loss: float = 1.0
    logging_nan_inf_filter: bool = False  # a loss that is no number ends the run instead
    remove_unused_columns: bool = False  # the collator gets samples whole

    def __post_init__(self) -> None:
        if self.load_best_model_at_end:
            raise InputError("load_best_model_at_end is not offered; compare checkpoints after the run")
        if self.label_smoothing_factor:
            # transformers shifts labels for the classes that it knows; here it would teach to repeat the present token.
            raise InputError("label_smoothing_factor is not offered; leave it out")
        self.frozen = [self.frozen] if isinstance(self.frozen, str) else list(self.frozen or ())
        self.lora = None if self.lora is False else self.lora
        if self.lora is not None and not isinstance(self.lora, Mapping):
            raise InputError(f"lora must be a section of settings, or false for none; got {self.lora!r}")
        self._force_non_reentrant()
        self._name_fsdp_units()
        if self.ddp_find_unused_parameters is None:
            # What no step reads is frozen by the model, and text alone still runs the vision tower.
            self.ddp_find_unused_parameters = False
        for name in _NOT_NEGATIVE:
            if (rate := getattr(self, name)) is not None and rate < 0:
                raise InputError(f"{name} must not be negative, got {rate:g}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must be at least 0 and below 2^32, got {self.seed}")
        if self.num_threads is not None and self.num_threads < 1:
            raise InputError(f"num_threads must be at least 1, got {self.num_threads}")
        if not isinstance(self.resume, bool) and self.resume != FORCE:
            raise InputError(f"resume must be true, false or {FORCE}, got {self.resume!r}")
        has_muon = self._check_muon()
        super().__post_init__()
        if has_muon:
            self.optim = MUON

    @cached_property
    def _setup_devices(self) -> torch.device:
        device = super()._setup_devices
        # Where there are more, transformers would split every tensor of a batch along its first dimension
        # (DataParallel): what is one list for the whole batch, or no tensor, does not survive that.
        self._n_gpu = min(self._n_gpu, 1)
        return device

    def _check_muon(self) -> bool:
        has_muon = self.optim == MUON
        if has_muon != (self.muon_learning_rate is not None):
            raise InputError("optim: muon and muon_learning_rate go together; give both or neither")
        if has_muon and (self.fsdp or self.deepspeed):
            raise InputError("optim: muon needs whole matrices; it does not go with fsdp or deepspeed")
        if has_muon:
            self.optim = "adamw_torch"  # theirs does not know the name, and would refuse it
        return has_muon

    def _force_non_reentrant(self) -> None:
        # All layers share cos and sin, which carry the gradient to theta: the reentrant kind fails on them.
        known = {each.name for each in dataclasses.fields(self)}
        name = f"{_NEW_CHECKPOINTING if _NEW_CHECKPOINTING in known else _OLD_CHECKPOINTING}_kwargs"
        options: Any = getattr(self, name) or getattr(self, f"{_OLD_CHECKPOINTING}_kwargs", None) or {}
        if isinstance(options, Mapping):
            if options.get("use_reentrant"):
                raise InputError("use_reentrant: true cannot train axis_theta; leave it out")
            setattr(self, name, {**options, "use_reentrant": False})

    def _name_fsdp_units(self) -> None:
        if not self.fsdp:
            return
        config: Any = self.fsdp_config if self.fsdp_config is not None else {}
        if isinstance(config, dict):
            config.setdefault("transformer_layer_cls_to_wrap", list(FSDP_UNITS))
            self.fsdp_config = config


def build_arguments(values: Mapping[str, Any]) -> DynImgTrainingArguments:
    """Make training arguments from the `training` section of a recipe.

    Numbers may be written as YAML takes for text ("2e-5"); `gradient_checkpointing` and `activation_checkpointing` are
    the same thing, whichever of the two the installed transformers knows.

    Raises:
        InputError: where accelerate is missing, a key is unknown, a value of the wrong kind, or settings contradict
            each other.
    """
    if importlib.util.find_spec("accelerate") is None:
        # transformers would name an extra of its own, which brings neither peft nor tensorboard.
        raise InputError("training needs accelerate: pip install 'dynimg-vl[train]'")
    known = {each.name for each in dataclasses.fields(DynImgTrainingArguments) if each.init}
    values = {_current_name(key, known): value for key, value in values.items()}
    check_keys(values, known, "training")
    if values.get("bf16") == AUTO:
        values["bf16"] = _has_bfloat16(use_cpu=bool(values.get("use_cpu")))
    kinds = typing.get_type_hints(DynImgTrainingArguments)
    converted = {key: _converted(key, value, kinds[key]) for key, value in values.items()}
    try:
        return DynImgTrainingArguments(**converted)
    except (ValueError, TypeError, ImportError, RuntimeError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"training: {' '.join(str(error).split())}") from error


def _has_bfloat16(*, use_cpu: bool) -> bool:
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = multiplies_bfloat16()
    if not found:
        logger.info(
            "bf16: auto takes float32: it is %s", "slow here in bfloat16" if found is False else "safe anywhere"
        )
    return bool(found)


def check_keys(values: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Refuse unknown keys of one section, and name what may have been meant.

    Raises:
        InputError: naming the first unknown key.
    """
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), sorted(known), n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known)[:12])}"
            raise InputError(f"{where}: unknown key {key!r}{hint}")


def _current_name(key: str, known: Collection[str]) -> str:
    for old, new in ((_OLD_CHECKPOINTING, _NEW_CHECKPOINTING), (_NEW_CHECKPOINTING, _OLD_CHECKPOINTING)):
        other = f"{new}{str(key).removeprefix(old)}"
        prefers_other = new == _NEW_CHECKPOINTING or key not in known
        if str(key).startswith(old) and other in known and prefers_other:
            return other
    return key


def _converted(key: str, value: Any, kind: Any) -> Any:
    if value is False and key.endswith("_strategy"):
        return "no"  # which YAML takes for false
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = set(typing.get_args(kind)) if is_union else {kind}
    # fsdp is declared as text, for the sake of old recipes, and is a truth value.
    if value is None or key == "fsdp" or not kinds & {int, float, bool} or str in kinds:
        return value
    wanted = "true or false" if bool in kinds else "a number" if float in kinds else "a whole number"
    if isinstance(value, bool) == (bool in kinds):
        if bool in kinds:
            return value
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # the last: infinity, or 400 digits
            number = float(value)
            if float in kinds:
                return number
            if number == int(number):
                return int(number)
    raise InputError(f"training: {key} must be {wanted}, got {value!r}")
