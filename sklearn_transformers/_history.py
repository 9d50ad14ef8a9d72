"""What is remembered of a training: a plain dict per epoch, and what stands out among them."""

import time
from collections.abc import Iterable
from typing import Any

from sklearn_transformers._stopping import KeepBest, TrainOrNot

__all__ = ["Clock", "plain", "records"]

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
    "head_seconds",
    "examples_per_second",
    "tokens_per_second",
)


def plain(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Skorch's history without what only its callbacks read."""
    return [{key: row[key] for key in HISTORY_KEYS if key in row} for row in rows]


def records(
    estimator: Any,
    history: list[dict[str, Any]],
    start: dict[str, Any],
    epochs: list[dict[str, Any]],
    stopper: KeepBest | TrainOrNot | None,
) -> dict[str, Any]:
    """The fitted attributes that tell of the epochs; those before this call count along."""
    proceeds = bool(history)
    history = history if proceeds else [start]
    n_before = len(history) - 1
    history = history + [row | {"epoch": n_before + row["epoch"]} for row in epochs]
    best = history[-1]
    if stopper is not None:
        best = history[n_before + stopper.best_epoch_]
        if stopper.best_epoch_ == 0:  # the model stays what it was, and so does its epoch
            best = start | {"epoch": estimator.best_epoch_ if proceeds else 0}
    known = estimator.temperature_ if proceeds and estimator.calibrate else 1.0
    return {
        "history_": history,
        "n_iter_": len(history) - 1,
        "best_epoch_": best["epoch"],
        "best_score_": best.get("valid_score"),
        "temperature_": best.get("temperature", known),
    }


class Clock:
    """Seconds since the last lap, and in all."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()

    def lap(self) -> float:
        now, before = time.perf_counter(), self._last
        self._last = now
        return now - before

    def total(self) -> float:
        return time.perf_counter() - self._start
