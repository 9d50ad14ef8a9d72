"""What happens around the epochs: validation score, progress, the user's callbacks."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, LRScheduler
from tqdm import tqdm

from sklearn_transformers._compat import FitTask
from sklearn_transformers._process import is_one_of_many, is_worker

__all__ = [
    "Progress",
    "Settle",
    "ValidationScore",
    "check_callbacks",
    "epoch_tasks",
    "has_schedule",
    "is_watched",
    "release",
    "shows_epochs",
]


class ValidationScore(Callback):
    """Score the validation logits of each epoch; greater is better.

    Parameters
    ----------
    score : callable
        Logits of shape (n_valid, n_classes), their loss and temperature -> float.
    """

    def __init__(self, score: Callable[[np.ndarray, float, float], float]) -> None:
        self.score = score

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        row = net.history[-1]
        score = self.score(net.valid_logits_, row["valid_loss"], row["temperature"])
        net.record("valid_score", score, lower_is_better=False)


class Settle(Callback):
    """Lets those who look at the model after an epoch see one that answers."""

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        net.settle()


class EpochTasks(Callback):
    """Tells scikit-learn's own callbacks (``sklearn.callback``) of each epoch.

    Parameters
    ----------
    task : FitTask
        The task that the epochs are part of.
    fitted : dict
        The attributes with which the estimator could answer after this epoch.
    """

    def __init__(self, task: FitTask, fitted: dict[str, Any]) -> None:
        self.task = task
        self.fitted = fitted

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        self.epoch_ = self.task.epoch()

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        wants_stop = self.epoch_.end(self.fitted | {"temperature_": net.temperature_})
        net.stop_training = net.stop_training or wants_stop


def epoch_tasks(task: FitTask | None, fitted: dict[str, Any]) -> list[EpochTasks]:
    """The callback that tells scikit-learn's of each epoch, where any of those is set."""
    return [] if task is None or task.context is None else [EpochTasks(task, fitted)]


class Progress(Callback):
    """One bar per epoch on standard error, with the loss and the validation score."""

    # The loss on the bar is read from the device, which then has to be waited for.
    SECONDS_BETWEEN_LOSSES = 0.5

    def on_epoch_begin(self, net: NeuralNet, dataset_train: Any = None, **kwargs: Any) -> None:
        # Asked for at each epoch, because windows get resized; 80 x 24 where there is no answer.
        window = shutil.get_terminal_size()
        self.bar_ = tqdm(
            total=len(dataset_train),
            desc=f"epoch {len(net.history)}/{net.max_epochs}",
            bar_format="{desc} |{bar:8}| {elapsed}<{remaining}{postfix}",
            ncols=window.columns,
            nrows=window.lines,
        )
        self.shown_at_ = time.monotonic()

    def on_batch_end(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        if not training:
            return
        self.bar_.update(net.n_seen_ - self.bar_.n)
        if time.monotonic() - self.shown_at_ > self.SECONDS_BETWEEN_LOSSES:
            self.bar_.set_postfix_str(f"loss {float(net.loss_sum_) / net.n_seen_:.3f}")
            self.shown_at_ = time.monotonic()

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        row = net.history[-1]
        parts = [f"loss {row['train_loss']:.3f}"]
        if "valid_loss" in row:
            parts.append(f"valid {row['valid_loss']:.3f}")
            if row["valid_score"] != -row["valid_loss"]:
                parts.append(f"score {row['valid_score']:.3f}")
        if row.get("valid_score_best"):
            parts.append("best")
        self.bar_.set_postfix_str(", ".join(parts))
        self.bar_.close()

    def close(self) -> None:
        """Leave the terminal in order, also when training was cut short."""
        if hasattr(self, "bar_"):
            self.bar_.close()


def is_watched(verbose: int) -> bool:
    """Whether somebody sees a bar: a terminal or a notebook, and not a worker's."""
    if not verbose or is_worker():
        return False
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)
    # Without a console there is no stderr; what others put in its place may not be a file.
    isatty = getattr(sys.stderr, "isatty", lambda: False)
    return bool(isatty()) or hasattr(get_ipython(), "kernel")


def shows_epochs(verbose: int) -> bool:
    """Whether a fit shows its epochs: not where it is one of many, which tell of themselves."""
    return is_watched(verbose) and not is_one_of_many()


def check_callbacks(callbacks: Any) -> list[Any]:
    """The user's callbacks as a list of our own."""
    callbacks = [] if callbacks is None else list(callbacks)
    for position, item in enumerate(callbacks):
        if not hasattr(_unwrap(item), "on_train_begin"):
            raise TypeError(
                f"callbacks[{position}] is {item!r}; every callback must be a "
                "skorch.callbacks.Callback, a class of one, or a (name, callback) tuple."
            )
    return callbacks


def _unwrap(item: Any) -> Any:
    """The callback itself, of what may be a (name, callback) tuple."""
    return item[1] if isinstance(item, tuple) and len(item) == 2 else item


def has_schedule(callbacks: list[Any]) -> bool:
    """Whether one of the callbacks, or classes of such, sets the learning rate."""
    unwrapped = map(_unwrap, callbacks)
    kinds = [item if isinstance(item, type) else type(item) for item in unwrapped]
    return any(issubclass(kind, LRScheduler) for kind in kinds)


def release(callbacks: list[Any]) -> None:
    """Take from the user's callbacks what would keep the training alive, and leave the rest."""
    training = torch.nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler
    for item in callbacks:
        callback = _unwrap(item)
        for name, value in list(vars(callback).items()):
            tensors = isinstance(value, dict) and any(map(torch.is_tensor, value.values()))
            if name.endswith("_") and (tensors or isinstance(value, training | NeuralNet)):
                setattr(callback, name, None)
