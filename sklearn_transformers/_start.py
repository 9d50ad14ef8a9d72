"""What training starts from: the model, its recipe, and the head's first weights."""

import copy
import inspect
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Budget, Padding
from sklearn_transformers._callbacks import is_watched
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._device import resolve_precision
from sklearn_transformers._head_start import HeadStart, fit_head
from sklearn_transformers._heads import DenseHead, output_layer
from sklearn_transformers._losses import Loss
from sklearn_transformers._model import TextClassifier, head_dropout
from sklearn_transformers._optimizers import rate_beside_adamw
from sklearn_transformers._pretrained import hub_name, load_pretrained
from sklearn_transformers._recipe import (
    Recipe,
    auto_batch_size,
    auto_contrast,
    auto_epochs,
    auto_head_learning_rate,
    auto_learning_rate,
)
from sklearn_transformers._recorded import is_recordable
from sklearn_transformers._split import hold_out
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._tokenization import resolve_max_length
from sklearn_transformers._vectors import frozen_vectors
from sklearn_transformers.exceptions import TrainingDivergedError

__all__ = [
    "check_start",
    "draw_prompt",
    "origins",
    "prompt_length",
    "resolve_recipe",
    "set_head",
    "start_head",
    "start_parameters",
    "starting_model",
    "widened",
]

# More rows make a linear head no better, and fine-tuning sees them all anyway.
MOST_ROWS = 10_000


def start_parameters(estimator: Any) -> dict[str, Any]:
    """The parameters that only a fresh start can change."""
    return {
        "model": os.path.normpath(os.fspath(estimator.model)),
        "pooling": estimator.pooling,
        "dropout": None if estimator.dropout is None else float(estimator.dropout),
        "head": estimator.head,
    }


def origins(estimator: Any, proceed: bool, seed: int) -> dict[str, Any]:
    """What the model has behind it before this call, for its card and for whoever goes on."""
    if not proceed:
        base = hub_name(estimator.model)
        return {"base_model": base, "n_before": 0, "split_seed": seed, "known": []}
    report = estimator._report
    n_before = report["n_train"] + report.get("n_before", 0)
    older = {"base_model": None, "split_seed": estimator.seed_, "known": []}
    return {name: report.get(name, value) for name, value in older.items()} | {"n_before": n_before}


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


def starting_model(
    estimator: Any, n_classes: int, proceed: bool, tuning: str, device: str
) -> tuple[TextClassifier, Tokenizer, Padding]:
    """The model that training starts from; never the very object that the estimator holds."""
    if proceed:
        # Training works on a copy: should it fail, the estimator still has what it had.
        model, tokenizer = copy.deepcopy(estimator.model_), estimator.tokenizer_
        known = estimator._padding
        if tuning == "contrastive" and isinstance(model.head, DenseHead):
            raise ValueError(
                "tuning='contrastive' fits a linear head, but this model keeps the head that it "
                "was published with. Use another tuning."
            )
    else:
        pretrained = load_pretrained(
            estimator.model, dropout=estimator.dropout, show_downloads=is_watched(estimator.verbose)
        )
        tokenizer, backbone = pretrained.tokenizer, pretrained.backbone
        pooling = pretrained.pooling if estimator.pooling == "auto" else estimator.pooling
        if estimator.head == "attention":
            pooling = "attention"
        dropout = head_dropout(backbone.config, estimator.dropout)
        head, width = estimator.head, pretrained.width
        model = TextClassifier(backbone, width, pooling, n_classes, dropout, head).draw_head()
        model = model.to(device)
        model.mark_origin(pretrained.key)
        known = {"pad_id": pretrained.pad_id, "masked": pretrained.masks_padding}
    _check_checkpointing(estimator, model)
    n_prompt = prompt_length(estimator, model, tuning)
    longest = resolve_max_length(estimator.max_length, tokenizer, model.backbone, n_prompt)
    known = known | {"longest": longest, "cut": estimator.truncation_side}
    return model.to(device).eval(), tokenizer, Padding(**known)


def widened(estimator: Any, classes: Any) -> dict[str, Any]:
    """The fitted attributes of an estimator with more classes; see `add_classes`."""
    codec = ClassCodec(estimator.classes_).extended(classes)
    columns = codec.encode(estimator.classes_)
    model = copy.deepcopy(estimator.model_)
    output = output_layer(model.head)
    if output is None:
        raise ValueError(
            f"A head of your own ({estimator.head!r}) cannot be widened: only you know how. Fit a "
            "new estimator."
        )
    for name, old in list(output.named_parameters()):
        # The mean of the others is below the greatest of them.
        new = old.detach().mean(dim=0).repeat(len(codec.classes), *[1] * (old.ndim - 1))
        new[torch.from_numpy(columns).to(old.device)] = old.detach()
        setattr(output, name, nn.Parameter(new))
    if model.words is not None:
        model.words = model.words.widened(len(codec.classes), torch.from_numpy(columns))
    output.out_features = model.n_classes = len(codec.classes)
    return {"classes_": codec.classes, "model_": model}


def resolve_recipe(
    estimator: Any,
    model: TextClassifier,
    padding: Padding,
    device: str,
    precision: str,
    tuning: str,
    data: LabelledTexts,
    one_epoch: bool,
    loss: Loss,
) -> Recipe:
    """Resolve every "auto" that depends on the model or on the size of the training set."""
    data = data.distinct() if tuning == "contrastive" else data
    n_rows, n_tokens = len(data), len(data.texts.ids)

    def chosen(name: str, auto: Any) -> Any:
        value = getattr(estimator, name)
        return auto if value == "auto" else value

    norm = estimator.max_grad_norm
    auto_rate = auto_learning_rate(model.width, tuning) * rate_beside_adamw(estimator.optimizer)
    rate = float(chosen("learning_rate", auto_rate))
    head_rate = auto_head_learning_rate(rate, tuning)
    if tuning == "contrastive":
        auto_size, epochs = auto_contrast(n_rows, model.n_classes, n_tokens)
        batch_size = int(chosen("batch_size", auto_size))
    else:
        batch_size = int(chosen("batch_size", auto_batch_size(n_rows)))
        epochs = auto_epochs(n_rows, batch_size)
    return Recipe(
        tuning=tuning,
        freeze_layers=int(estimator.freeze_layers),
        lora_rank=int(estimator.lora_rank),
        lora_alpha=float(estimator.lora_alpha),
        lora_dropout=float(estimator.lora_dropout),
        optimizer=estimator.optimizer,
        optimizer_params=estimator.optimizer_params,
        schedule=str(estimator.schedule),
        loss=copy.deepcopy(loss).to(device) if isinstance(loss, nn.Module) else loss,
        learning_rate=rate,
        head_learning_rate=float(chosen("head_learning_rate", head_rate)),
        layer_decay=float(estimator.layer_decay),
        weight_decay=float(estimator.weight_decay),
        warmup=float(estimator.warmup),
        max_grad_norm=None if norm is None else float(norm),
        batch_size=batch_size,
        compile=bool(estimator.compile),
        recorded=is_recordable(estimator, model.backbone.config, tuning, device, precision),
        gradient_checkpointing=bool(estimator.gradient_checkpointing),
        max_epochs=1 if one_epoch else int(chosen("max_epochs", epochs)),
        calibrate=bool(estimator.calibrate),
        device=device,
        precision=precision,
        predict_precision=resolve_precision(estimator.predict_precision, device),
        padding=padding,
        budget=Budget.on(device),
    )


def _check_checkpointing(estimator: Any, model: TextClassifier) -> None:
    if estimator.gradient_checkpointing and not model.backbone.supports_gradient_checkpointing:
        raise ValueError(
            f"gradient_checkpointing=True, but {type(model.backbone).__name__} does not support "
            "it. Set it to False; a smaller max_length saves memory too."
        )


def prompt_length(estimator: Any, model: TextClassifier, tuning: str) -> int:
    """How many vectors will stand in front of each text; 0 without a prompt."""
    if model.prompt is not None:
        if tuning == "prompt" and len(model.prompt) != estimator.n_prompt_tokens:
            raise ValueError(
                f"Training goes on from a model with a prompt of {len(model.prompt)} vectors, but "
                f"n_prompt_tokens={estimator.n_prompt_tokens}. Set it back, or fit a new estimator."
            )
        return len(model.prompt)
    if tuning != "prompt":
        return 0
    accepted = inspect.signature(type(model.backbone).forward).parameters
    if "inputs_embeds" not in accepted:
        raise ValueError(
            f"tuning='prompt' puts vectors in front of the tokens' own, but "
            f"{type(model.backbone).__name__} takes only token ids. Use another tuning, or "
            "another model."
        )
    return int(estimator.n_prompt_tokens)


def draw_prompt(
    model: TextClassifier, n_tokens: int, token_ids: np.ndarray, rng: np.random.Generator
) -> None:
    """Let the prompt start as embeddings of tokens that the training texts have.

    Lester et al. (2021), section 3.2: better than random vectors.
    """
    table = model.backbone.get_input_embeddings()
    chosen = torch.from_numpy(rng.choice(token_ids, n_tokens).astype(np.int64))
    with torch.no_grad():
        model.set_prompt(table(chosen.to(table.weight.device)))


def start_head(
    model: TextClassifier,
    data: LabelledTexts,
    recipe: Recipe,
    rng: np.random.Generator,
    penalty: float | None = None,
) -> tuple[HeadStart, tuple[np.ndarray, np.ndarray, np.ndarray]]:
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
    penalty : float, default=None
        None has it chosen; see `fit_head`.

    Returns
    -------
    start : HeadStart
    answers : tuple of ndarray
        Logits of the regression, not shrunk, for the rows that it was fitted to, of shape
        (n_rows, n_classes), and these rows' codes and weights.
    """
    data = data.distinct()
    if len(data) > MOST_ROWS:
        kept, _ = hold_out(data.codes, 1 - MOST_ROWS / len(data), rng)
        data = data.take(kept)
    how = recipe.padding, recipe.device, recipe.precision, recipe.budget
    vectors = frozen_vectors(model, data.texts, *how)
    if not np.isfinite(vectors).all():
        raise TrainingDivergedError(
            f"The pretrained model turns texts into vectors that are not finite (precision="
            f"{recipe.precision!r}). Try precision='float32', or another model."
        )
    start = fit_head(vectors, data.codes, data.weights, model.n_classes, rng, penalty)
    if recipe.tuning == "head":  # the vectors stay as they are: there is nothing to leave room for
        start = replace(start, shrink=1.0)
    set_head(model, start, start.shrink)
    return start, (vectors @ start.weight.T + start.bias, data.codes, data.weights)


def set_head(model: TextClassifier, start: HeadStart, factor: float) -> None:
    """Write the regression, times a factor, into the head."""
    output = output_layer(model.head)
    assert output is not None, "a head of the user's starts as it was made"
    with torch.no_grad():
        output.weight.copy_(torch.from_numpy(start.weight * np.float32(factor)))
        output.bias.copy_(torch.from_numpy(start.bias * np.float32(factor)))
