"""Optimisers by name or class, and how much faster than AdamW each must learn."""

from typing import Any

import torch

__all__ = ["build_optimizer", "rate_beside_adamw", "step_unless"]

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adafactor": (torch.optim.Adafactor, {}),
}

# Steps of SGD are as long as the gradient, those of Adafactor as the weights.
RATES_BESIDE_ADAMW = {"sgd": 100.0, "adafactor": 20.0}


def rate_beside_adamw(optimizer: Any) -> float:
    """How many times AdamW's learning rate suits; of an optimiser of the user's, the same."""
    return RATES_BESIDE_ADAMW.get(optimizer, 1.0) if isinstance(optimizer, str) else 1.0


def build_optimizer(
    optimizer: Any, params: dict[str, Any] | None, groups: list[dict[str, Any]], rate: float
) -> torch.optim.Optimizer:
    """Make the optimiser.

    Parameters
    ----------
    optimizer : str or callable
        A name, or what is called as ``optimizer(groups, lr=rate, **params)``: a class of
        torch.optim, for example.
    params : dict or None
        Keyword arguments, which go over the defaults of a name.
    groups : list of dict
        Parameters with their `lr` and `weight_decay`.
    rate : float

    Raises
    ------
    ValueError
        When it cannot be made, with the reason.
    """
    for name, own in {"lr": "learning_rate", "weight_decay": "weight_decay"}.items():
        if name in (params or {}):
            raise ValueError(
                f"optimizer_params={params!r} holds {name!r}, which differs between parts of the "
                f"model. Use the parameter {own} instead."
            )
    known = isinstance(optimizer, str)  # a callable of the user's may not even be hashable
    make, defaults = OPTIMIZERS[optimizer] if known else (optimizer, {})
    try:
        made = make(groups, **{"lr": rate, **defaults, **(params or {})})
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"optimizer={optimizer!r} with optimizer_params={params!r} could not be made: {error}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(
            f"optimizer={optimizer!r} made {made!r}, which is no torch.optim.Optimizer."
        )
    return made


def step_unless(lost: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Let the optimiser make its step, unless `lost` (a bool on the device) is true.

    Adam's fused kernels look for themselves, on the device. For others the host has to wait: also
    for fused SGD, which leaves the momentum undefined where it skips the first step, and on MPS,
    whose kernels do not look.
    """
    is_adam = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
    looks = is_adam and lost.device.type != "mps"
    if looks and getattr(optimizer, "_step_supports_amp_scaling", False):
        fused: Any = optimizer
        fused.found_inf, fused.grad_scale = lost.float(), None
        fused.step()
    elif not lost:
        optimizer.step()
