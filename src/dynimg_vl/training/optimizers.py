"""Muon for the matrices of the layers and AdamW for the rest, as one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

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
        muon = torch.optim.Muon(
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


def is_muon(group: dict[str, Any]) -> bool:
    """Tell whether a group of parameters is Muon's."""
    return group.get("algorithm") == "muon"
