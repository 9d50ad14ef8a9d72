"""Losses: logits and codes of a batch -> one loss for each row."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from sklearn_transformers._process import preserved_rng_state

__all__ = ["Loss", "loss_of", "mean_loss"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# How much less a sure answer counts; the value that Lin et al. found best.
FOCUS = 2.0

# Share of a label that is spread over all classes, Szegedy et al. (2016), "Rethinking the Inception
# Architecture for Computer Vision"; docs/recipe.md has what it brings.
LABEL_SMOOTHING = 0.1


def cross_entropy(
    logits: torch.Tensor, codes: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Minus the log-probability of the right class, its share of the label spread over all."""
    return nn.functional.cross_entropy(
        logits.float(), codes, reduction="none", label_smoothing=label_smoothing
    )


def focal(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy times (1 - p) ** 2, p the probability of the right class.

    Lin et al. (2017), "Focal Loss for Dense Object Detection", ICCV.
    """
    right = nn.functional.log_softmax(logits.float(), dim=1).gather(1, codes[:, None])[:, 0]
    return -((1 - right.exp()) ** FOCUS) * right


def squared_error(logits: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Sum over the classes of the squared distance of probabilities from 0 and 1.

    Brier (1950), "Verification of Forecasts Expressed in Terms of Probability".
    """
    probabilities = logits.float().softmax(dim=1)
    return (probabilities - nn.functional.one_hot(codes, logits.shape[1])).square().sum(dim=1)


def mean_loss(loss: Loss, logits: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """What answers cost by it, on the mean of the rows by their weights."""
    with torch.no_grad():
        losses = loss(torch.from_numpy(logits), torch.from_numpy(codes))
    return float(np.average(losses.numpy(), weights=weights))


LOSSES: dict[str, Loss] = {"focal": focal, "squared_error": squared_error}


def loss_of(loss: Any, n_classes: int, label_smoothing: Any = 0.0) -> Loss:
    """Find the loss of this name; try out one of the user's.

    Parameters
    ----------
    loss : str or callable
    n_classes : int
    label_smoothing : float or "auto"
        "auto" smooths where the loss has a meaning for it.

    Raises
    ------
    ValueError
        When `label_smoothing` goes with another loss than the cross-entropy, or a function of
        the user's does not return one loss for each row.
    """
    if loss == "cross_entropy":
        share = LABEL_SMOOTHING if label_smoothing == "auto" else label_smoothing
        return partial(cross_entropy, label_smoothing=share)
    if label_smoothing not in ("auto", 0):
        raise ValueError(
            f"label_smoothing={label_smoothing} spreads the labels of the cross-entropy, and has "
            f"no meaning with loss={loss!r}. Set it to 'auto', or use loss='cross_entropy'."
        )
    if isinstance(loss, str):
        return LOSSES[loss]
    if isinstance(loss, type):
        raise ValueError(f"loss={loss!r} is a class. Pass an instance, made with reduction='none'.")
    probe = copy.deepcopy(loss).cpu() if isinstance(loss, nn.Module) else loss
    with torch.inference_mode(False), torch.enable_grad(), preserved_rng_state():
        logits = torch.linspace(-1, 1, 2 * n_classes).reshape(2, n_classes).requires_grad_()
        found = probe(logits, torch.tensor([0, n_classes - 1]))
    shape = tuple(found.shape) if torch.is_tensor(found) else repr(found)
    if shape != (2,):
        raise ValueError(
            f"loss={loss!r} must return a tensor with one loss for each row, without mean or sum: "
            f"for two rows of shape (2,). It returned {shape}; try reduction='none'."
        )
    if not found.requires_grad:
        raise ValueError(
            f"loss={loss!r} returned losses without a gradient: it must compute them from the "
            "logits by operations of torch."
        )
    return loss
