"""Which parameters learn, and at what rate: theta and the projector apart from the rest (Section 4.1)."""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ..errors import InputError
from ..model.rotary import AXES, DynImgRotaryEmbedding

PROJECTOR = re.compile(r"(^|\.)multi_modal_projector\.")
THETA = re.compile(r"(^|\.)axis_theta$")
NOT_MUON = re.compile(r"embed|(^|\.)(lm_head|heads)\.")
"""Tables, the map to the vocabulary and training-only heads: Muon is for matrices between hidden states."""
_CHOSEN = ("initial_lr", "weight_decay", "betas", "eps")
"""What the arguments decide about a group for a whole run; `lr` follows the schedule."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> int:
    """Stop the parameters whose names match a pattern (`*`, `?`) from learning; give how many numbers are left that do.

    Raises:
        InputError: where a pattern matches nothing, or nothing is left.
    """
    names = dict(model.named_parameters(remove_duplicate=False))
    for pattern in patterns:
        matching = [parameter for name, parameter in names.items() if fnmatchcase(name, pattern)]
        if not matching:
            raise InputError(f"frozen: no parameter is called {pattern!r}; one of them is {next(iter(names))}")
        for parameter in matching:
            parameter.requires_grad_(False)
    # DeepSpeed's ZeRO-3 leaves parameters empty and notes how many numbers there were.
    sizes = (getattr(each, "ds_numel", each.numel()) for each in model.parameters() if each.requires_grad)
    left = sum(sizes)
    if not left:
        raise InputError("every parameter is frozen; nothing would learn")
    return left


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    decayed: Iterable[str],
    *,
    weight_decay: float,
    learning_rate: float,
    axis_theta_learning_rate: float | None = None,
    projector_learning_rate: float | None = None,
    muon_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Split the parameters that learn into groups for an optimizer; empty ones are left out.

    Args:
        named_parameters: of the model.
        decayed: names of those with weight decay; `axis_theta` never has any: 0 is no rotation, and decay pulls there.
        weight_decay: of those.
        learning_rate: of all but theta and the projector, and of these where theirs is None.
        axis_theta_learning_rate: of theta_h, theta_w and theta_t.
        projector_learning_rate: of the projector.
        muon_learning_rate: of the matrices of the layers, the projector's among them, which then form a group for Muon.

    Returns:
        Dicts with `params`, `weight_decay`, `lr`, `part` ("rest", "projector", "matrices" or "theta") and `algorithm`
        ("adamw" or "muon").
    """
    # The rate of the first group is the one that is logged.
    rates = {
        "rest": None,
        "projector": projector_learning_rate,
        "matrices": muon_learning_rate,
        "theta": axis_theta_learning_rate,
    }
    decayed = set(decayed)
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for part, rate in rates.items():
        for decays in (True, False):
            groups[part, decays] = {
                "params": [],
                "lr": learning_rate if rate is None else rate,
                "weight_decay": weight_decay if decays else 0.0,
                "part": part,
                "algorithm": "muon" if part == "matrices" else "adamw",
            }
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            part = _part(name, parameter, muon_learning_rate is not None)
            groups[part, part != "theta" and name in decayed]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def _part(name: str, parameter: nn.Parameter, has_muon: bool) -> str:
    if THETA.search(name):
        return "theta"
    if has_muon and parameter.ndim == 2 and not NOT_MUON.search(name):
        return "matrices"
    return "projector" if PROJECTOR.search(name) else "rest"


def chosen_values(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """Note what the arguments decided about each group of a new optimizer, before a checkpoint is loaded into it.

    Each group gets its rate as `initial_lr`, as schedulers name it, those too that do not write it down.
    """
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return [{name: group[name] for name in _CHOSEN if name in group} for group in optimizer.param_groups]


def choose_again(optimizer: torch.optim.Optimizer, scheduler: Any, chosen: Sequence[dict[str, Any]]) -> None:
    """Put what the arguments decided in place of what a checkpoint brought, each rate where the schedule has come to.

    A scheduler that finds its rates by itself keeps what it found, as a share of the rate it began with.

    Args:
        optimizer: with the state of the checkpoint.
        scheduler: of these groups, with the state of the checkpoint; it may be wrapped by accelerate.
        chosen: by `chosen_values`, a dict for each group.
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)
    groups = optimizer.param_groups
    begun = [group.get("initial_lr") for group in groups]
    for group, values in zip(groups, chosen, strict=True):
        group.update(values)
    if isinstance(scheduler, LambdaLR):
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        # The product that the scheduler makes: where nothing changed, the rate is the same to the bit.
        for group, factor in zip(groups, scheduler.lr_lambdas, strict=True):
            group["lr"] = group["initial_lr"] * factor(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in groups]
        return
    for group, before in zip(groups, begun, strict=True):
        if before and before != group["initial_lr"]:
            group["lr"] *= group["initial_lr"] / before


def master_weights(model: nn.Module) -> None:
    """Turn the parameters that learn into float32: an update of 2e-5 vanishes in a bfloat16 weight.

    So are vectors that do not learn: on a CPU, a layer norm does not take float32 from the layer before otherwise.
    """
    for parameter in model.parameters():
        is_large_and_fixed = not parameter.requires_grad and parameter.ndim > 1
        if not is_large_and_fixed and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def theta_sizes(model: nn.Module) -> dict[str, float]:
    """Measure |theta| per axis: its mean and its maximum, under `theta_h_mean`, `theta_h_max` and so on.

    Every process has to call this where the model is sharded. Empty where no theta is there.
    """
    for module in model.modules():
        if isinstance(module, DynImgRotaryEmbedding) and _is_used(module):
            theta: Any = module.axis_theta
            whole: Tensor = theta.full_tensor() if hasattr(theta, "full_tensor") else theta
            if whole.numel() == 0:  # DeepSpeed has put it away
                return {}
            sizes = whole.detach().abs().float()
            axes = [axis for axis in AXES if axis in module.rope_axes][:-1]
            means, maxima = sizes.mean(-1).tolist(), sizes.amax(-1).tolist()
            return {f"theta_{axis}_mean": mean for axis, mean in zip(axes, means, strict=True)} | {
                f"theta_{axis}_max": maximum for axis, maximum in zip(axes, maxima, strict=True)
            }
    return {}


def _is_used(module: DynImgRotaryEmbedding) -> bool:
    # Under LoRA there are two: the frozen original and the copy that learns.
    theta = module.axis_theta
    return theta is not None and (theta.requires_grad or not isinstance(theta, nn.Parameter))
