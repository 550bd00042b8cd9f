"""Muon for the matrices of the layers and AdamW for the rest, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..model.cpu_bfloat16 import multiplies_bfloat16

MUON_MOMENTUM = 0.95


class MuonWithAdamW(torch.optim.Optimizer):
    """Step groups whose `algorithm` is "muon" with torch's Muon, all others with its AdamW.

    To schedulers, checkpoints and accelerate it is one optimizer: state and groups are its own, and the two get to see
    their share of them for the length of a step.

    Args:
        params: groups of parameters, see `parameter_groups`; those of Muon hold matrices only.
        lr: of groups without one.
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        InputError: where this torch has no Muon, or one of the two would have nothing to do.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise InputError("optim muon needs torch.optim.Muon: install torch 2.9 or later")
        groups = list(params)
        if {is_muon(group) for group in groups} != {True, False}:
            raise InputError("optim muon needs matrices of layers and other parameters to learn; take adamw_torch")
        # "original": the rate is that of a square matrix, larger by sqrt(rows / columns) for tall ones.
        kind = torch.optim.Muon if _has_bfloat16(groups) else _Float32Muon
        muon = kind(
            [group for group in groups if is_muon(group)], lr=lr, momentum=MUON_MOMENTUM, adjust_lr_fn="original"
        )
        adamw = torch.optim.AdamW([group for group in groups if not is_muon(group)], lr=lr, betas=betas, eps=eps)
        # The same dicts in the same order: each of the two has filled in the defaults of its own.
        super().__init__(groups, {"lr": lr})
        self._parts: dict[bool, torch.optim.Optimizer] = {True: muon, False: adamw}

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Change the parameters by their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for has_muon, part in self._parts.items():
            # Anew each time: loading a state replaces both.
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if is_muon(group) == has_muon]
            part.step()
        return loss


class _Float32Muon(torch.optim.Muon if hasattr(torch.optim, "Muon") else object):  # type: ignore[misc]
    """Torch's Muon with its matrix products in float32: it has bfloat16 built in, whatever the machine."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change the matrices by their gradients."""
        for group in self.param_groups:
            momentum = group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                buffer = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                buffer.lerp_(matrix.grad, 1 - momentum)
                update = matrix.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
                update = _orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5)


def _orthogonal(matrix: Tensor, factors: tuple[float, float, float], steps: int, least: float) -> Tensor:
    # Newton-Schulz, as Keller Jordan's post on Muon has it: all singular values come near to one.
    first, second, third = factors
    flat = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    flat = flat / flat.norm().clamp_min(least)
    for _ in range(steps):
        gram = flat @ flat.T
        flat = torch.addmm(flat, torch.addmm(gram, gram, gram, beta=second, alpha=third), flat, beta=first)
    return flat if matrix.shape[0] <= matrix.shape[1] else flat.T


def _has_bfloat16(groups: Iterable[dict[str, Any]]) -> bool:
    devices = {each.device.type for group in groups for each in group["params"]}
    return devices != {"cpu"} or multiplies_bfloat16() is not False


def is_muon(group: dict[str, Any]) -> bool:
    """Tell whether a group of parameters is Muon's."""
    return group.get("algorithm") == "muon"
