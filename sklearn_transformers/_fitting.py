"""The path of the data through `fit` and `partial_fit`: parameters in, fitted attributes out."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Padding
from sklearn_transformers._callbacks import (
    EpochTasks,
    KeepBest,
    LinearSchedule,
    Progress,
    ValidationScore,
    check_callbacks,
    has_schedule,
    is_watched,
    release,
    shows_epochs,
)
from sklearn_transformers._compat import FitTask
from sklearn_transformers._data import (
    LabelledTexts,
    read_rows,
    read_validation,
    split_rows,
    tokenise_rows,
)
from sklearn_transformers._device import autocast, draw_seed, resolve_device, resolve_precision
from sklearn_transformers._judge import Judge
from sklearn_transformers._model import TextClassifier, default_learning_rate, head_dropout
from sklearn_transformers._net import FineTuningNet, Recipe
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._process import seeded
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._tokenization import resolve_max_length
from sklearn_transformers._validation import check_texts

__all__ = ["fine_tune"]

HISTORY_KEYS = (
    "epoch",
    "train_loss",
    "valid_loss",
    "valid_score",
    "learning_rate",
    "seconds",
    "examples_per_second",
    "tokens_per_second",
)


def fine_tune(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    X_val: Any = None,
    y_val: Any = None,
    sample_weight_val: Any = None,
    codec: ClassCodec | None = None,
    proceed: bool = False,
    one_epoch: bool = False,
    task: FitTask | None = None,
) -> dict[str, Any]:
    """Fine-tune and return the fitted attributes; `estimator` is read, never written.

    Parameters
    ----------
    estimator : TransformerTextClassifier
        Carries the parameters and, with `proceed`, the model to go on from.
    X, y, sample_weight, X_val, y_val, sample_weight_val
        As the user passed them to `fit`.
    codec : ClassCodec, default=None
        The classes; None reads them off `y`.
    proceed : bool, default=False
        Go on from the estimator's fitted model instead of the pretrained one.
    one_epoch : bool, default=False
        Train one epoch without validation, as `partial_fit` does.
    task : FitTask, default=None
        Tells scikit-learn's own callbacks of the epochs.

    Returns
    -------
    attributes : dict
        Name -> value of every fitted attribute.
    """
    # 1. Read the data and the parameters; what is wrong with them is said before any loading.
    texts = check_texts(X)
    labels = ClassCodec.read(y)
    codec = ClassCodec.learn(labels) if codec is None else codec
    rows = read_rows(codec, texts, labels, sample_weight)
    valid = read_validation(codec, X_val, y_val, sample_weight_val)
    callbacks = check_callbacks(estimator.callbacks)
    _check_start(estimator, proceed)

    # 2. Resolve "auto" where it depends on the machine alone.
    device = resolve_device(estimator.device)
    precision = resolve_precision(estimator.precision, device)
    seed = draw_seed(estimator.random_state)
    history = list(estimator.history_) if proceed else []
    rng = np.random.default_rng([seed, len(history)])

    # 3. Hold out rows to validate on.
    train, early_stopping = rows, estimator.early_stopping and not one_epoch
    weigh_scores = (sample_weight if valid is None else sample_weight_val) is not None
    if early_stopping and valid is None:
        train, valid = split_rows(rows, estimator.validation_fraction, rng)
    class_weights = codec.class_weights(estimator.class_weight, train.codes, train.weights)
    judge = None
    if valid is not None:
        y_valid, weights = codec.classes[valid.codes], valid.weights if weigh_scores else None
        judge = Judge(estimator, codec.classes, valid.texts, y_valid, weights)

    with seeded(int(rng.integers(2**63)), device), _own_grad_mode(device):
        # 4. The model to start from.
        model, tokenizer, padding = _starting_model(estimator, len(codec.classes), proceed)
        n_epochs = 1 if one_epoch else int(estimator.max_epochs)
        recipe = _recipe(estimator, model, padding, device, precision, n_epochs)
        fitted = {
            "classes_": codec.classes,
            "model_": model.to(device),
            "tokenizer_": tokenizer,
            "device_": device,
            "precision_": precision,
            "learning_rate_": recipe.learning_rate,
            "max_length_": padding.longest,
            "pooling_": model.pooling,
            "seed_": seed,
            "_padding": asdict(padding),
            "_started_with": _start_parameters(estimator),
            "_n_features_out": model.width,
        }

        # 5. Tokens and weights, then training.
        train_data = tokenise_rows(train, class_weights, tokenizer, padding.longest)
        valid_data = None
        if judge is not None and valid is not None:
            judge.meet(fitted)
            valid_data = tokenise_rows(valid, class_weights, tokenizer, padding.longest)
        keep_best = None
        if early_stopping and judge is not None:
            keep_best = KeepBest(estimator.n_iter_no_change, estimator.tol)
        if task is not None and task.context is not None:
            callbacks.append(EpochTasks(task, fitted))
        epochs = _train(
            estimator, model, recipe, rng, train_data, valid_data, judge, keep_best, callbacks
        )

    # 6. Plain records of what happened; net, optimiser and batches end here.
    model.eval().requires_grad_(True)
    history += [row | {"epoch": len(history) + row["epoch"]} for row in epochs]
    n_later = 0 if keep_best is None else len(epochs) - 1 - keep_best.best_index_
    best = history[-1 - n_later]
    return fitted | {
        "history_": history,
        "n_iter_": len(history),
        "best_epoch_": best["epoch"],
        "best_score_": best.get("valid_score"),
    }


@contextmanager
def _own_grad_mode(device: str) -> Iterator[None]:
    """Step out of the no_grad, inference_mode or autocast block that the caller may stand in."""
    with torch.inference_mode(False), torch.enable_grad(), autocast(device, "float32"):
        yield


def _train(
    estimator: Any,
    model: TextClassifier,
    recipe: Recipe,
    rng: np.random.Generator,
    train: LabelledTexts,
    valid: LabelledTexts | None,
    judge: Judge | None,
    keep_best: KeepBest | None,
    callbacks: list[Any],
) -> list[dict[str, Any]]:
    """Train in place and return a plain dict per epoch."""
    ours: list[Any] = []
    if not has_schedule(callbacks):
        n_steps = recipe.max_epochs * -(-len(train) // recipe.batch_size)
        ours.append(LinearSchedule(n_steps, float(estimator.warmup)))
    if judge is not None:
        ours.append(ValidationScore(judge.score))
    if keep_best is not None:
        ours.append(keep_best)
    progress = Progress(len(train)) if shows_epochs(estimator.verbose) else None
    if progress is not None:
        ours.append(progress)
    net = FineTuningNet(model, recipe, rng, ours + callbacks, int(estimator.verbose))
    try:
        net.train(train, valid)
    finally:
        release(callbacks)
        if progress is not None:
            progress.close()
    return [{key: row[key] for key in HISTORY_KEYS if key in row} for row in net.history]


def _start_parameters(estimator: Any) -> dict[str, Any]:
    """The parameters that only a fresh start can change."""
    return {
        "model": os.path.normpath(os.fspath(estimator.model)),
        "pooling": estimator.pooling,
        "dropout": estimator.dropout,
    }


def _check_start(estimator: Any, proceed: bool) -> None:
    if not proceed:
        return
    for name, now in _start_parameters(estimator).items():
        before = estimator._started_with[name]
        if now != before and (name, now) != ("pooling", estimator.pooling_):
            raise ValueError(
                f"Training goes on from a model that began with {name}={before!r}, but the "
                f"parameter is now {name}={now!r}. Set it back, or fit a new estimator."
            )


def _starting_model(
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


def _recipe(
    estimator: Any,
    model: TextClassifier,
    padding: Padding,
    device: str,
    precision: str,
    max_epochs: int,
) -> Recipe:
    rate, norm = estimator.learning_rate, estimator.max_grad_norm
    return Recipe(
        learning_rate=default_learning_rate(model.width) if rate == "auto" else float(rate),
        weight_decay=float(estimator.weight_decay),
        max_grad_norm=None if norm is None else float(norm),
        batch_size=int(estimator.batch_size),
        max_epochs=max_epochs,
        device=device,
        precision=precision,
        padding=padding,
    )
