"""What training starts from: the model, its recipe, and the head's first weights."""

import copy
import os
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Budget, Padding
from sklearn_transformers._calibration import cross_entropies
from sklearn_transformers._callbacks import is_watched
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._device import resolve_precision
from sklearn_transformers._head_start import HeadStart, fit_head
from sklearn_transformers._inference import run
from sklearn_transformers._model import TextClassifier, head_dropout
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._recipe import (
    Recipe,
    auto_batch_size,
    auto_contrast,
    auto_epochs,
    auto_head_learning_rate,
    auto_learning_rate,
    suit_pairs,
)
from sklearn_transformers._split import hold_out
from sklearn_transformers._tokenization import resolve_max_length
from sklearn_transformers.exceptions import TrainingDivergedError

__all__ = [
    "check_start",
    "resolve_recipe",
    "resolve_tuning",
    "set_head",
    "start_head",
    "start_parameters",
    "starting_model",
]

# Parameters of a head that is trained by gradients, and the values at which they ask for nothing.
ONLY_FOR_A_TRAINED_HEAD: dict[str, tuple[Any, ...]] = {
    "head_init": ("auto", "logistic"),
    "head_learning_rate": ("auto",),
    "label_smoothing": (0.0,),
}

# In smaller steps most texts would meet no other of their class.
SMALLEST_STEP_OF_PAIRS = 8

# More rows make a linear head no better, and fine-tuning sees them all anyway.
MOST_ROWS = 10_000


def start_parameters(estimator: Any) -> dict[str, Any]:
    """The parameters that only a fresh start can change."""
    return {
        "model": os.path.normpath(os.fspath(estimator.model)),
        "pooling": estimator.pooling,
        "dropout": estimator.dropout,
    }


def check_start(estimator: Any, proceed: bool) -> None:
    if not proceed:
        return
    for name, now in start_parameters(estimator).items():
        before = estimator._started_with[name]
        if now != before and (name, now) != ("pooling", estimator.pooling_):
            raise ValueError(
                f"Training goes on from a model that began with {name}={before!r}, but the "
                f"parameter is now {name}={now!r}. Set it back, or fit a new estimator."
            )


def resolve_tuning(
    estimator: Any, n_rows: int, n_classes: int, proceed: bool, one_epoch: bool
) -> str:
    """Which way to train; "auto" never meets a parameter that its choice has no use for."""
    tuning, batch_size = str(estimator.tuning), estimator.batch_size
    in_the_way = [
        (name, value)
        for name, neutral in ONLY_FOR_A_TRAINED_HEAD.items()
        if (value := getattr(estimator, name)) not in neutral
    ]
    if tuning == "auto":
        few_pairs = batch_size != "auto" and batch_size < SMALLEST_STEP_OF_PAIRS
        reasons = proceed or one_epoch or in_the_way or few_pairs or estimator.callbacks
        return "contrastive" if suit_pairs(n_rows, n_classes) and not reasons else "full"
    if tuning == "full":
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


def starting_model(
    estimator: Any, n_classes: int, proceed: bool
) -> tuple[TextClassifier, Tokenizer, Padding]:
    """The model that training starts from; never the very object that the estimator holds."""
    if proceed:
        # Training works on a copy: should it fail, the estimator still has what it had.
        model, tokenizer = copy.deepcopy(estimator.model_), estimator.tokenizer_
        known = estimator._padding
    else:
        pretrained = load_pretrained(
            estimator.model, dropout=estimator.dropout, show_downloads=is_watched(estimator.verbose)
        )
        tokenizer, backbone = pretrained.tokenizer, pretrained.backbone
        pooling = pretrained.pooling if estimator.pooling == "auto" else estimator.pooling
        dropout = head_dropout(backbone.config, estimator.dropout)
        model = TextClassifier(backbone, pretrained.width, pooling, n_classes, dropout).draw_head()
        known = {"pad_id": pretrained.pad_id, "masked": pretrained.masks_padding}
    longest = resolve_max_length(estimator.max_length, tokenizer, model.backbone)
    return model, tokenizer, Padding(**(known | {"longest": longest}))


def resolve_recipe(
    estimator: Any,
    model: TextClassifier,
    padding: Padding,
    device: str,
    precision: str,
    tuning: str,
    n_rows: int,
    one_epoch: bool,
) -> Recipe:
    """Resolve every "auto" that depends on the model or on the number of rows."""

    def chosen(name: str, auto: Any) -> Any:
        value = getattr(estimator, name)
        return auto if value == "auto" else value

    norm = estimator.max_grad_norm
    rate = float(chosen("learning_rate", auto_learning_rate(model.width)))
    if tuning == "contrastive":
        auto_size, epochs = auto_contrast(n_rows, model.head.out_features)
        batch_size = int(chosen("batch_size", auto_size))
    else:
        batch_size = int(chosen("batch_size", auto_batch_size(n_rows)))
        epochs = auto_epochs(n_rows, batch_size)
    return Recipe(
        tuning=tuning,
        learning_rate=rate,
        head_learning_rate=float(chosen("head_learning_rate", auto_head_learning_rate(rate))),
        layer_decay=float(estimator.layer_decay),
        weight_decay=float(estimator.weight_decay),
        warmup=float(estimator.warmup),
        label_smoothing=float(estimator.label_smoothing),
        max_grad_norm=None if norm is None else float(norm),
        batch_size=batch_size,
        compile=bool(estimator.compile),
        gradient_checkpointing=_checked_checkpointing(estimator, model),
        max_epochs=1 if one_epoch else int(chosen("max_epochs", epochs)),
        calibrate=bool(estimator.calibrate),
        device=device,
        precision=precision,
        predict_precision=resolve_precision(estimator.predict_precision, device),
        padding=padding,
        budget=Budget.on(device),
    )


def _checked_checkpointing(estimator: Any, model: TextClassifier) -> bool:
    if estimator.gradient_checkpointing and not model.backbone.supports_gradient_checkpointing:
        raise ValueError(
            f"gradient_checkpointing=True, but {type(model.backbone).__name__} does not support "
            "it. Set it to False; a smaller max_length saves memory too."
        )
    return bool(estimator.gradient_checkpointing)


def start_head(
    model: TextClassifier,
    data: LabelledTexts,
    recipe: Recipe,
    rng: np.random.Generator,
) -> tuple[HeadStart, float]:
    """Set the head to a shrunk logistic regression on the frozen backbone's vectors.

    Kumar et al. (2022), "Fine-Tuning can Distort Pretrained Features and Underperform
    Out-of-Distribution", ICLR.

    Parameters
    ----------
    model : TextClassifier
        In evaluation mode; its head is overwritten.
    data : LabelledTexts
        The training rows.
    recipe : Recipe
    rng : numpy.random.Generator

    Returns
    -------
    start : HeadStart
    loss : float
        Mean cross-entropy of the regression, not shrunk, on the rows that it was fitted to.
    """
    data = data.distinct()
    if len(data) > MOST_ROWS:
        kept, _ = hold_out(data.codes, 1 - MOST_ROWS / len(data), rng)
        data = data.take(kept)
    precision = recipe.precision
    vectors = run(
        model.embed,
        data.texts,
        recipe.padding,
        recipe.device,
        precision=precision,
        budget=recipe.budget,
    )
    if not np.isfinite(vectors).all():
        raise TrainingDivergedError(
            f"The pretrained model turns texts into vectors that are not finite (precision="
            f"{precision!r}). Try precision='float32', or another model."
        )
    start = fit_head(vectors, data.codes, data.weights, model.head.out_features, rng)
    set_head(model, start, start.shrink)
    losses = cross_entropies(vectors @ start.weight.T + start.bias, data.codes)
    return start, float(np.average(losses, weights=data.weights))


def set_head(model: TextClassifier, start: HeadStart, factor: float) -> None:
    """Write the regression, times a factor, into the head."""
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(start.weight * np.float32(factor)))
        model.head.bias.copy_(torch.from_numpy(start.bias * np.float32(factor)))
