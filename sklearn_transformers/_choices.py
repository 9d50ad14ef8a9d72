"""Which way to train, and choices that do not go together."""

import os
from typing import Any

import numpy as np
import torch

from sklearn_transformers._losses import Loss, loss_of
from sklearn_transformers._optimizers import build_optimizer
from sklearn_transformers._recipe import suit_pairs

__all__ = ["check_choices", "resolve_tuning"]

# Parameters of a head that is trained by gradients, and the values at which they ask for nothing.
ONLY_FOR_A_TRAINED_HEAD: dict[str, tuple[Any, ...]] = {
    "head": ("linear",),
    "head_init": ("auto", "logistic"),
    "head_learning_rate": ("auto",),
    "loss": ("cross_entropy",),
    "label_smoothing": ("auto", 0.0),
}

# In smaller steps most texts would meet no other of their class.
SMALLEST_STEP_OF_PAIRS = 8


def resolve_tuning(
    estimator: Any, codes: np.ndarray, n_classes: int, proceed: bool, one_epoch: bool
) -> str:
    """Which way to train; "auto" never meets a parameter that its choice has no use for.

    `codes` are the classes of the distinct rows.
    """
    tuning, batch_size = str(estimator.tuning), estimator.batch_size
    in_the_way = [
        (name, value)
        for name, neutral in ONLY_FOR_A_TRAINED_HEAD.items()
        if (value := getattr(estimator, name)) not in neutral
    ]
    if tuning == "auto":
        few_pairs = batch_size != "auto" and batch_size < SMALLEST_STEP_OF_PAIRS
        looks_on = estimator.callbacks or estimator.schedule == "plateau"
        reasons = proceed or one_epoch or in_the_way or few_pairs or looks_on
        return "contrastive" if suit_pairs(codes, n_classes) and not reasons else "full"
    if tuning != "contrastive":
        return tuning
    if one_epoch:
        raise ValueError(
            "tuning='contrastive' is not supported by partial_fit, because its head is fitted to "
            "all rows together. Use fit, or tuning='full'."
        )
    if in_the_way:
        name, value = in_the_way[0]
        neutral = ONLY_FOR_A_TRAINED_HEAD[name][0]
        raise ValueError(
            f"With tuning='contrastive' the head is a logistic regression, for which "
            f"{name}={value!r} has no meaning. Set it to {neutral!r}, or use tuning='full'."
        )
    if batch_size == 1:
        raise ValueError(
            "With tuning='contrastive' the texts of a step make pairs, but batch_size=1. Set it "
            "to 'auto' or to 8 and more, or use tuning='full'."
        )
    return tuning


def check_choices(estimator: Any, n_classes: int, has_valid: bool, one_epoch: bool) -> Loss:
    """Refuse by name what cannot go together, before anything is loaded; return the loss.

    Parameters
    ----------
    estimator : TransformerTextClassifier
    n_classes : int
    has_valid : bool
        Whether the user gave rows to validate on.
    one_epoch : bool
        Whether it is a call of `partial_fit`.

    Raises
    ------
    ValueError
        With both parameters and what to do.
    """
    if estimator.head == "attention" and estimator.pooling != "auto":
        raise ValueError(
            "head='attention' learns how to pool the tokens' hidden states, but pooling="
            f"{estimator.pooling!r}. Set pooling='auto', or use head='linear'."
        )
    if callable(estimator.head) and estimator.head_init == "logistic":
        raise ValueError(
            "head_init='logistic' writes a logistic regression into the head, which a head of "
            f"your own ({estimator.head!r}) has no known place for. Set head_init='auto'."
        )
    if not one_epoch:
        _check_plateau(estimator, has_valid)
        _check_resumable(estimator)
    probes = [
        {"params": [torch.zeros(2, 2, requires_grad=True)], "lr": 1e-3, "weight_decay": decay}
        for decay in (0.0, 0.1)
    ]
    build_optimizer(estimator.optimizer, estimator.optimizer_params, probes, 1e-3)
    return loss_of(estimator.loss, n_classes, estimator.label_smoothing)


def _check_plateau(estimator: Any, has_valid: bool) -> None:
    if estimator.schedule != "plateau" or has_valid:
        return
    for name, value in (("early_stopping", False), ("validation_fraction", 0)):
        if getattr(estimator, name) == value:
            raise ValueError(
                "schedule='plateau' lowers the learning rate when the validation score stalls, "
                f"but {name}={value} leaves no rows to validate on. Change it, pass X_val and "
                "y_val, or take another schedule."
            )


def _check_resumable(estimator: Any) -> None:
    if estimator.checkpoint_dir is not None and estimator.callbacks:
        raise ValueError(
            f"checkpoint_dir={os.fspath(estimator.checkpoint_dir)!r} lets a killed training go on, "
            f"but what callbacks={estimator.callbacks!r} remember of it would be lost. Set one of "
            "the two to None."
        )
