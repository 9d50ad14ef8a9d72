"""How the learning rate goes from step to step."""

import math
from collections.abc import Callable
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback

__all__ = ["Schedule"]

# Share of the way after warm-up, from 0 on and below 1 -> share of the peak rate.
SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda way: 1 - way,
    "cosine": lambda way: (1 + math.cos(math.pi * way)) / 2,
    "constant": lambda way: 1.0,
    "plateau": lambda way: 1.0,
}

# What the rate becomes after each epoch that brought no better validation score.
ON_PLATEAU = 0.5


class Schedule(Callback):
    """Learning rates that rise linearly from 0 during warm-up, and what comes after.

    Neither end is reached: the first and the last step both learn something.

    Parameters
    ----------
    shape : {"linear", "cosine", "constant", "plateau"}
    warmup : float
        Share of the optimiser steps that warm up.
    """

    def __init__(self, shape: str, warmup: float) -> None:
        self.shape = shape
        self.warmup = warmup

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.n_steps_, self.height_ = net.n_steps_, 1.0
        self.peaks_ = [group["lr"] for group in net.optimizer_.param_groups]

    def on_grad_computed(self, net: NeuralNet, named_parameters: Any, **kwargs: Any) -> None:
        factor = self.factor(net.step_)
        for group, peak in zip(net.optimizer_.param_groups, self.peaks_, strict=True):
            group["lr"] = peak * factor

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        row = net.history[-1]
        if self.shape == "plateau" and not row.get("valid_score_best", True):
            self.height_ *= ON_PLATEAU

    def state_dict(self) -> dict[str, float]:
        return {"height": self.height_}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.height_ = state["height"]

    def factor(self, step: int) -> float:
        """Share of the peak learning rate at optimiser step `step`, counted from 0."""
        n_warm = int(self.warmup * self.n_steps_)
        if step < n_warm:
            return self.height_ * (step + 1) / (n_warm + 1)
        return self.height_ * SHAPES[self.shape]((step - n_warm) / (self.n_steps_ - n_warm))
