"""The recipe of a training, and what "auto" becomes for the size of the model and of the data."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sklearn_transformers._batching import Budget, Padding
from sklearn_transformers._losses import Loss

__all__ = [
    "FEW_ROWS",
    "FOLDS",
    "Recipe",
    "are_few",
    "auto_batch_size",
    "auto_contrast",
    "auto_epochs",
    "auto_head_learning_rate",
    "auto_learning_rate",
    "suit_pairs",
]

# docs/recipe.md says why, docs/accuracy.md what benchmarks/bench_accuracy.py has measured so far.
RATE_AT_WIDTH_384, HIGHEST_RATE = 7.5e-5, 5e-4
# Few weights, or additions that start at zero, have a longer way to go.
TIMES_THE_RATE = {"lora": 20.0, "bias": 50.0, "prompt": 100.0}
HEAD_RATIO = 40.0
BATCH_FROM_ROWS = {2000: 32, 200: 16, 0: 8}
TEXTS_TO_SEE, FEWEST_EPOCHS, MOST_EPOCHS = 3000, 3, 10
STEPS_TO_MAKE, MOST_EPOCHS_OF_FEW = 120, 20
PAIRED_TEXTS = {200: 32, 0: 16}
PAIRED_TOKENS_TO_SEE = 500_000
FEW_ROWS, FEW_ROWS_IN_A_CLASS, FEW_ROWS_AT_MOST = 300, 20, 3000
FOLDS = 2
ROWS_IN_A_CLASS_FOR_PAIRS, MOST_CLASSES_FOR_PAIRS = 8, 10


@dataclass(frozen=True)
class Recipe:
    """Everything the loop needs to know beside the model and the data, with no "auto" left."""

    tuning: str
    freeze_layers: int
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    optimizer: Any
    optimizer_params: dict[str, Any] | None
    schedule: str
    loss: Loss
    learning_rate: float
    head_learning_rate: float
    layer_decay: float
    weight_decay: float
    warmup: float
    max_grad_norm: float | None
    batch_size: int
    gradient_checkpointing: bool
    compile: bool
    recorded: bool
    max_epochs: int
    calibrate: bool
    device: str
    precision: str
    predict_precision: str
    padding: Padding
    # Shared by all trainings of a fit: what was too much once is too much again.
    budget: Budget

    def n_steps(self, n_rows: int) -> int:
        """Optimiser steps of a whole training."""
        return self.max_epochs * -(-n_rows // self.batch_size)


def auto_learning_rate(width: int, tuning: str = "full") -> float:
    """The backbone's peak learning rate: 7.5e-5 at a width of 384, falling with its square.

    2e-5 for BERT-base (768), 1e-5 for BERT-large (1024), never above 5e-4; more where few weights
    are trained.
    """
    rate = min(HIGHEST_RATE, RATE_AT_WIDTH_384 * (384 / width) ** 2)
    return float(rate * TIMES_THE_RATE.get(tuning, 1.0))


def auto_head_learning_rate(learning_rate: float, tuning: str = "full") -> float:
    """The head's peak learning rate: forty times the backbone's where all of that is trained.

    It has few weights and no layer to disturb. The idea of separate rates is Howard & Ruder
    (2018), ULMFiT.
    """
    return HEAD_RATIO * learning_rate / TIMES_THE_RATE.get(tuning, 1.0)


def auto_batch_size(n_rows: int) -> int:
    """Small sets need many steps, which only small batches give; large ones need speed."""
    return _at(BATCH_FROM_ROWS, n_rows)


def auto_epochs(n_rows: int, batch_size: int) -> int:
    """As many as show the model 3,000 texts, from 3 to 10; for few rows as many as 120 steps."""
    to_see = min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(TEXTS_TO_SEE / n_rows)))
    to_make = round(STEPS_TO_MAKE / -(-n_rows // batch_size))
    return max(to_see, min(MOST_EPOCHS_OF_FEW, to_make))


def auto_contrast(n_rows: int, n_classes: int, n_tokens: int) -> tuple[int, int]:
    """Batch size and epochs of contrastive tuning.

    As many epochs as there are texts of other classes for each text, by two: with few rows, pairs
    are soon known by heart. At most 20, and no more than show the model 3,000 texts, or 500,000
    tokens in more than three epochs.
    """
    others = n_rows * (1 - 1 / n_classes)
    most = max(FEWEST_EPOCHS, PAIRED_TOKENS_TO_SEE / n_tokens)
    epochs = round(min(MOST_EPOCHS_OF_FEW, TEXTS_TO_SEE / n_rows, others / 2, most))
    return _at(PAIRED_TEXTS, n_rows), max(1, epochs)


def are_few(codes: np.ndarray, n_classes: int) -> bool:
    """Whether a tenth of the rows is too little to judge by, or too much to train without."""
    wanted = max(FEW_ROWS, FEW_ROWS_IN_A_CLASS * n_classes)
    return len(codes) < FEW_ROWS_AT_MOST and _even_rows(codes, n_classes) < wanted


def suit_pairs(codes: np.ndarray, n_classes: int) -> bool:
    """Whether pairs of texts teach more than labels.

    A step of 16 texts must hold pairs of either kind: with many classes, or few rows of each,
    nearly all would be of different classes.
    """
    enough = _even_rows(codes, n_classes) >= ROWS_IN_A_CLASS_FOR_PAIRS * n_classes
    return enough and len(codes) < FEW_ROWS and n_classes <= MOST_CLASSES_FOR_PAIRS


def _even_rows(codes: np.ndarray, n_classes: int) -> float:
    """Rows of a set of equal classes that has as many rows beside its largest one.

    What 19 rows of spam among 400 messages have to tell takes 38 rows, half of them spam.
    """
    beside = len(codes) - np.bincount(codes).max()
    return float(beside * n_classes / (n_classes - 1))


def _at(steps: dict[int, int], n_rows: int) -> int:
    """The value of the first step that is not above `n_rows`."""
    return next(value for least, value in steps.items() if n_rows >= least)
