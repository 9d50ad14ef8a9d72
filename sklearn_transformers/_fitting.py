"""The path of the data through `fit` and `partial_fit`: parameters in, fitted attributes out."""

import copy
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import get_scorer
from skorch import NeuralNet
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._callbacks import (
    KeepBest,
    LinearSchedule,
    Progress,
    ValidationScore,
    is_watched,
)
from sklearn_transformers._device import draw_seed, resolve_device, resolve_precision, seeded
from sklearn_transformers._model import TextClassifier, default_learning_rate, head_dropout
from sklearn_transformers._net import FineTuningNet, LabelledTexts, Recipe
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._split import hold_out
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._tokenization import encode, padding_id, resolve_max_length
from sklearn_transformers._validation import check_same_length, check_texts, check_weights

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


@dataclass(frozen=True, eq=False)
class _Rows:
    """Texts with their labels and weights, checked; `weights` holds the user's alone."""

    texts: list[str]
    codes: np.ndarray
    weights: np.ndarray

    def take(self, rows: np.ndarray) -> "_Rows":
        return _Rows([self.texts[i] for i in rows], self.codes[rows], self.weights[rows])


def fine_tune(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    X_val: Any = None,
    y_val: Any = None,
    codec: ClassCodec | None = None,
    proceed: bool = False,
    one_epoch: bool = False,
) -> dict[str, Any]:
    """Fine-tune and return the fitted attributes; `estimator` is read, never written.

    Parameters
    ----------
    estimator : TransformerTextClassifier
        Carries the parameters and, with `proceed`, the model to go on from.
    X, y, sample_weight, X_val, y_val
        As the user passed them to `fit`.
    codec : ClassCodec, default=None
        The classes; None reads them off `y`.
    proceed : bool, default=False
        Go on from the estimator's fitted model instead of the pretrained one.
    one_epoch : bool, default=False
        Train one epoch without validation, as `partial_fit` does.

    Returns
    -------
    attributes : dict
        Name -> value of every fitted attribute.
    """
    # 1. Read the data; whatever is wrong with it is said before anything is loaded.
    texts = check_texts(X)
    codec = ClassCodec.learn(y) if codec is None else codec
    rows = _Rows(texts, codec.encode(y), check_weights(sample_weight, texts))
    check_same_length(rows.texts, rows.codes, "X, y")
    rows = rows.take(np.flatnonzero(rows.weights))  # weight 0 means: the row is not there
    given = _read_validation(codec, X_val, y_val)
    early_stopping = estimator.early_stopping and not one_epoch
    callbacks = _check_callbacks(estimator.callbacks)

    # 2. Resolve every "auto".
    device = estimator.device_ if proceed else resolve_device(estimator.device)
    precision = resolve_precision(estimator.precision, device)
    seed = draw_seed(estimator.random_state)
    history = list(estimator.history_) if proceed else []
    rng = np.random.default_rng([seed, len(history)])

    # 3. Hold out rows to validate on.
    train, valid = rows, given
    if early_stopping and given is None:
        train, valid = _split(rows, estimator.validation_fraction, rng)
        early_stopping = valid is not None

    with seeded(int(rng.integers(2**63)), device):
        # 4. The model to start from.
        model, tokenizer = _start(estimator, len(codec.classes), proceed)
        backbone = model.backbone
        max_length = resolve_max_length(estimator.max_length, tokenizer, backbone)
        rate = estimator.learning_rate
        recipe = Recipe(
            learning_rate=default_learning_rate(backbone.config) if rate == "auto" else float(rate),
            weight_decay=estimator.weight_decay,
            max_grad_norm=estimator.max_grad_norm,
            batch_size=estimator.batch_size,
            max_epochs=1 if one_epoch else estimator.max_epochs,
            device=device,
            precision=precision,
            pad_id=padding_id(tokenizer, backbone),
            max_length=max_length,
        )
        fitted = {
            "classes_": codec.classes,
            "model_": model,
            "tokenizer_": tokenizer,
            "device_": device,
            "precision_": precision,
            "learning_rate_": recipe.learning_rate,
            "max_length_": max_length,
            "pooling_": model.pooling,
            "seed_": seed,
            "_pretrained_from": os.fspath(estimator.model),
            "_n_features_out": backbone.config.hidden_size,
        }

        # 5. Tokens and weights, then training.
        class_weights = codec.class_weights(estimator.class_weight, train.codes, train.weights)
        n_steps = recipe.max_epochs * -(-len(train.codes) // recipe.batch_size)
        ours: list[Any] = [LinearSchedule(n_steps, estimator.warmup)]
        if valid is not None:
            weighted = sample_weight is not None and given is None
            view = _view(estimator, fitted)
            ours.append(ValidationScore(_scoring(view, codec, valid, weighted)))
        if early_stopping:
            ours.append(KeepBest(estimator.n_iter_no_change, estimator.tol))
        if is_watched(estimator.verbose):
            ours.append(Progress(len(train.codes)))
        net = FineTuningNet(model.to(device), recipe, rng, ours + callbacks, int(estimator.verbose))
        try:
            net.train(
                _encode(train, class_weights, tokenizer, max_length),
                None if valid is None else _encode(valid, class_weights, tokenizer, max_length),
            )
        finally:
            _release(callbacks)

    # 6. Plain records of what happened; net, optimiser and batches end here.
    model.eval()
    for row in net.history:
        history.append({key: row[key] for key in HISTORY_KEYS if key in row})
        history[-1]["epoch"] = len(history)
    kept = len(history) - 1
    for callback in ours:
        if isinstance(callback, KeepBest) and callback.best_index_ >= 0:
            kept += callback.best_index_ + 1 - len(net.history)
    return fitted | {
        "history_": history,
        "n_iter_": len(history),
        "best_epoch_": kept + 1,
        "best_score_": history[kept].get("valid_score"),
    }


def _read_validation(codec: ClassCodec, X_val: Any, y_val: Any) -> _Rows | None:
    if X_val is None and y_val is None:
        return None
    if X_val is None or y_val is None:
        given, lacking = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
        raise ValueError(f"{given} is provided, but {lacking} was not provided.")
    texts = check_texts(X_val, name="X_val")
    codes = codec.encode(y_val, name="y_val")
    check_same_length(texts, codes, "X_val, y_val")
    return _Rows(texts, codes, np.ones(len(codes)))


def _check_callbacks(callbacks: Any) -> list[Any]:
    callbacks = [] if callbacks is None else list(callbacks)
    for position, item in enumerate(callbacks):
        callback = item[1] if isinstance(item, tuple) and len(item) == 2 else item
        if not hasattr(callback, "on_train_begin"):
            raise TypeError(
                f"callbacks[{position}] is {item!r}; every callback must be a "
                "skorch.callbacks.Callback, a class of one, or a (name, callback) tuple."
            )
    return callbacks


def _split(rows: _Rows, fraction: float, rng: np.random.Generator) -> tuple[_Rows, _Rows | None]:
    if fraction == 0:
        raise ValueError(
            "early_stopping=True needs held-out data, but validation_fraction=0. Raise it, pass "
            "X_val and y_val, or set early_stopping=False."
        )
    train, valid = hold_out(rows.codes, fraction, rng)
    if len(valid) == 0:
        warnings.warn(
            f"None of the {len(rows.codes)} rows can be held out, because no class has a second "
            "row: training runs for max_epochs without early stopping.",
            stacklevel=4,
        )
        return rows, None
    return rows.take(train), rows.take(valid)


def _start(estimator: Any, n_classes: int, proceed: bool) -> tuple[TextClassifier, Tokenizer]:
    """The model that training starts from; never the very object that the estimator holds."""
    if proceed:
        if os.fspath(estimator.model) != estimator._pretrained_from:
            raise ValueError(
                f"Training goes on from model={estimator._pretrained_from!r}, but the parameter is "
                f"now model={os.fspath(estimator.model)!r}. Set it back, or fit a new estimator."
            )
        # Training works on a copy: should it fail, the estimator still has what it had.
        return copy.deepcopy(estimator.model_), estimator.tokenizer_
    pretrained = load_pretrained(
        estimator.model, dropout=estimator.dropout, show_downloads=is_watched(estimator.verbose)
    )
    pooling = pretrained.pooling if estimator.pooling == "auto" else estimator.pooling
    dropout = head_dropout(pretrained.backbone.config, estimator.dropout)
    model = TextClassifier(pretrained.backbone, pooling, n_classes, dropout)
    return model, pretrained.tokenizer


def _encode(
    rows: _Rows, class_weights: np.ndarray, tokenizer: Tokenizer, max_length: int
) -> LabelledTexts:
    """Token ids, codes, and class weight x sample weight with a mean of 1."""
    weights = rows.weights * class_weights[rows.codes]
    total = weights.sum()
    if total == 0:
        raise ValueError(
            "class_weight is zero for every class that occurs: nothing is left to train on."
        )
    encoded = encode(tokenizer, rows.texts, max_length)
    return LabelledTexts(encoded, rows.codes, weights * (len(weights) / total))


def _view(estimator: Any, fitted: dict[str, Any]) -> Any:
    """A fitted estimator around the model in training, for scorers to ask."""
    # Not copy.copy, which would send the weights of an earlier fit through a pickle.
    view = object.__new__(type(estimator))
    view.__dict__.update(vars(estimator) | fitted)
    return view


def _scoring(
    view: Any, codec: ClassCodec, valid: _Rows, weighted: bool
) -> Callable[[np.ndarray, float], float]:
    """How an epoch is judged: logits of the validation rows and their loss -> score."""
    if view.scoring == "loss":
        return lambda logits, loss: -loss
    scorer = get_scorer(view.scoring)
    labels = codec.classes[valid.codes]
    extra = {"sample_weight": valid.weights} if weighted else {}

    def score(logits: np.ndarray, loss: float) -> float:
        # The answers are known: asked for these texts, the view does not compute them again.
        view._known_logits = (valid.texts, logits)
        return float(scorer(view, valid.texts, labels, **extra))

    return score


def _release(callbacks: list[Any]) -> None:
    """Take from the user's callbacks what would keep the training alive, and leave the rest."""
    training = torch.nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler
    for item in callbacks:
        callback = item[1] if isinstance(item, tuple) else item
        for name, value in list(getattr(callback, "__dict__", {}).items()):
            tensors = isinstance(value, dict) and any(map(torch.is_tensor, value.values()))
            if name.endswith("_") and (tensors or isinstance(value, training | NeuralNet)):
                setattr(callback, name, None)
