"""The path of the data through `fit` and `partial_fit`: parameters in, fitted attributes out."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from sklearn_transformers._calibration import cross_entropies, fit_temperature
from sklearn_transformers._callbacks import (
    KeepBest,
    LinearSchedule,
    Progress,
    ValidationScore,
    check_callbacks,
    epoch_tasks,
    has_schedule,
    release,
    shows_epochs,
)
from sklearn_transformers._compat import FitTask
from sklearn_transformers._data import (
    LabelledTexts,
    Rows,
    read_rows,
    read_validation,
    split_rows,
    tokenise_rows,
)
from sklearn_transformers._device import draw_seed, own_grad_mode, resolve_device, resolve_precision
from sklearn_transformers._diagnosis import (
    report_truncation,
    warn_of_rare_classes,
    warn_of_rows,
    warn_of_tokens,
    warn_of_useless_fit,
)
from sklearn_transformers._judge import Judge
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._net import FineTuningNet, validate
from sklearn_transformers._process import seeded
from sklearn_transformers._recipe import Recipe, holds_out
from sklearn_transformers._start import (
    check_start,
    resolve_recipe,
    start_head,
    start_parameters,
    starting_model,
)
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._validation import check_texts

__all__ = ["fine_tune"]

HISTORY_KEYS = (
    "epoch",
    "train_loss",
    "valid_loss",
    "valid_score",
    "temperature",
    "learning_rate",
    "seconds",
    "train_seconds",
    "valid_seconds",
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
    clock = _Clock()
    texts = check_texts(X)
    labels = ClassCodec.read(y)
    codec = ClassCodec.learn(labels) if codec is None else codec
    rows = read_rows(codec, texts, labels, sample_weight)
    valid = read_validation(codec, X_val, y_val, sample_weight_val)
    callbacks = check_callbacks(estimator.callbacks)
    check_start(estimator, proceed)
    if not one_epoch:
        warn_of_rows(rows, codec.classes)

    # 2. Resolve "auto" where it depends on the machine alone.
    device = resolve_device(estimator.device)
    precision = resolve_precision(estimator.precision, device)
    seed = draw_seed(estimator.random_state)
    history = list(estimator.history_) if proceed else []
    rng = np.random.default_rng([seed, len(history)])

    # 3. Hold out rows to validate on.
    weigh_scores = (sample_weight if valid is None else sample_weight_val) is not None
    train, valid, early_stopping = _hold_out(estimator, rows, valid, codec.classes, rng, one_epoch)
    class_weights = codec.class_weights(estimator.class_weight, train.codes, train.weights)
    judge = None
    if valid is not None:
        y_valid, weights = codec.classes[valid.codes], valid.weights if weigh_scores else None
        judge = Judge(estimator, codec.classes, valid.texts, y_valid, weights)

    with seeded(int(rng.integers(2**63)), device), own_grad_mode(device):
        # 4. The model to start from.
        model, tokenizer, padding = starting_model(estimator, len(codec.classes), proceed)
        recipe = resolve_recipe(estimator, model, padding, device, precision, len(train), one_epoch)
        load_seconds = clock.lap()

        # 5. Texts become tokens.
        train_data, lengths = tokenise_rows(train, class_weights, tokenizer, padding.longest)
        valid_data = None
        if valid is not None:
            valid_data, _ = tokenise_rows(valid, class_weights, tokenizer, padding.longest)
        if not one_epoch:
            warn_of_tokens(tokenizer, train.texts, train_data.texts, lengths, padding.longest)
        fitted = {
            "classes_": codec.classes,
            "model_": model.to(device).eval(),
            "tokenizer_": tokenizer,
            "device_": device,
            "precision_": precision,
            "learning_rate_": recipe.learning_rate,
            "head_learning_rate_": recipe.head_learning_rate,
            "batch_size_": recipe.batch_size,
            "max_epochs_": recipe.max_epochs,
            "early_stopping_": early_stopping,
            "max_length_": padding.longest,
            "truncation_report_": report_truncation(lengths, padding.longest),
            "pooling_": model.pooling,
            "temperature_": 1.0,
            "seed_": seed,
            "_padding": asdict(padding),
            "_started_with": start_parameters(estimator),
            "_n_features_out": model.width,
        }
        if judge is not None:
            judge.meet(fitted)
        start = {"epoch": 0, "load_seconds": load_seconds, "tokenise_seconds": clock.lap()}

        # 6. The head's first weights, and the score before the first epoch.
        if not proceed and not one_epoch and estimator.head_init != "random":
            start["train_loss"] = start_head(model, train.texts, train_data, recipe, rng)
            start["head_seconds"] = clock.lap()
        keep_best = None
        if judge is not None and valid_data is not None:
            logits, loss, temperature = validate(model, valid_data, recipe)
            score = judge.score(logits, loss, temperature)
            start |= {"valid_loss": loss, "valid_score": score, "temperature": temperature}
            start["valid_seconds"] = clock.lap()
            if early_stopping:
                keep_best = KeepBest(estimator.n_iter_no_change, estimator.tol, score, logits)
        start |= {"learning_rate": 0.0, "seconds": clock.total()}

        # 7. Training.
        callbacks += epoch_tasks(task, fitted)
        epochs = _train(
            estimator, model, recipe, rng, train_data, valid_data, judge, keep_best, callbacks
        )

    # 8. Plain records of what happened; net, optimiser and batches end here.
    model.eval().requires_grad_(True)
    if keep_best is not None and valid_data is not None:
        _look_at_result(train_data, valid_data, keep_best)
    return fitted | _records(estimator, history if proceed else [start], start, epochs, keep_best)


def _records(
    estimator: Any,
    history: list[dict[str, Any]],
    start: dict[str, Any],
    epochs: list[dict[str, Any]],
    keep_best: KeepBest | None,
) -> dict[str, Any]:
    """The fitted attributes that tell of the epochs; those before this call count along."""
    n_before = len(history) - 1
    history = history + [row | {"epoch": n_before + row["epoch"]} for row in epochs]
    best = history[-1]
    if keep_best is not None:
        best = history[n_before + keep_best.best_epoch_]
        if keep_best.best_epoch_ == 0:  # the model stays what it was, and so does its epoch
            best = start | {"epoch": estimator.best_epoch_ if n_before else 0}
    return {
        "history_": history,
        "n_iter_": len(history) - 1,
        "best_epoch_": best["epoch"],
        "best_score_": best.get("valid_score"),
        "temperature_": best.get("temperature", estimator.temperature_ if n_before else 1.0),
    }


def _look_at_result(train: LabelledTexts, valid: LabelledTexts, keep_best: KeepBest) -> None:
    """Warn when the model is no better than the share of each class."""
    logits = keep_best.logits_
    temperature = fit_temperature(logits, valid.codes, valid.weights)
    # One row more for each class: one that only validation has is unlikely, not impossible.
    mass = np.bincount(train.codes, train.weights, minlength=logits.shape[1]) + 1
    warn_of_useless_fit(
        cross_entropies(logits, valid.codes, temperature),
        -np.log(mass / mass.sum())[valid.codes],
        valid.weights,
    )


class _Clock:
    """Seconds since the last lap, and in all."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    def lap(self) -> float:
        now, before = time.perf_counter(), self._last
        self._last = now
        return now - before

    def total(self) -> float:
        return time.perf_counter() - self._start


def _hold_out(
    estimator: Any,
    rows: Rows,
    valid: Rows | None,
    classes: np.ndarray,
    rng: np.random.Generator,
    one_epoch: bool,
) -> tuple[Rows, Rows | None, bool]:
    """Rows to train on, rows to validate on, and whether these stop the training."""
    early_stopping = estimator.early_stopping
    if early_stopping == "auto":
        early_stopping = valid is not None or holds_out(len(rows), estimator.validation_fraction)
    if one_epoch or not early_stopping or valid is not None:
        return rows, valid, bool(early_stopping) and not one_epoch
    warn_of_rare_classes(rows.codes, classes)
    train, valid = split_rows(rows, estimator.validation_fraction, rng)
    return train, valid, valid is not None


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
