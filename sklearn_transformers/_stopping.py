"""When training ends, and which weights stay."""

from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback

__all__ = ["KeepBest", "StopAfter", "stopper_for"]


class KeepBest(Callback):
    """Stop when the validation score stalls and go back to the weights that scored best.

    The weights before the first epoch are a candidate like any other, but the first epochs need
    not beat them at once.

    Parameters
    ----------
    n_iter_no_change : int
        Epochs in a row without an improvement of more than `tol` before training stops.
    tol : float
    start_score : float
        Score of the weights before the first epoch.
    start_logits : ndarray of shape (n_valid, n_classes)
        What they answer.
    """

    def __init__(
        self, n_iter_no_change: int, tol: float, start_score: float, start_logits: np.ndarray
    ) -> None:
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.start_score = start_score
        self.start_logits = start_logits

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.reference_, self.n_stalled_ = -np.inf, 0
        self._keep(net, self.start_score, self.start_logits)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        score = net.history[-1, "valid_score"]
        if score > self.best_score_:
            self._keep(net, score, net.valid_logits_)
        if score > self.reference_ + self.tol:
            self.reference_, self.n_stalled_ = score, 0
        else:
            self.n_stalled_ += 1
        if self.n_stalled_ >= self.n_iter_no_change:
            net.stop_training = True

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        if self.best_epoch_ == len(net.history):
            return
        with torch.no_grad():
            for name, weight in net.module_.named_parameters():
                weight.copy_(self.weights_[name])

    def _keep(self, net: NeuralNet, score: float, logits: np.ndarray) -> None:
        self.best_epoch_, self.best_score_ = len(net.history), score  # 0 before the first epoch
        self.logits_ = logits
        # All of them, because a callback may freeze and unfreeze any.
        self.weights_ = {
            name: weight.detach().to("cpu", copy=True)
            for name, weight in net.module_.named_parameters()
        }


class StopAfter(Callback):
    """Stop after the epoch that is known to be the best; 0 trains nothing.

    Parameters
    ----------
    best_epoch : int
    answers : ndarray of shape (n_epochs + 1, n_valid, n_classes)
        What the models that found it out answered before and after each epoch.
    temperatures : list of float
        What these are divided by.
    """

    def __init__(self, best_epoch: int, answers: np.ndarray, temperatures: list[float]) -> None:
        self.best_epoch_ = best_epoch
        self.answers = answers
        self.temperatures = temperatures

    @property
    def logits_(self) -> np.ndarray:
        """The answers at the best epoch."""
        return self.answers[self.best_epoch_]

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        net.stop_training = self.best_epoch_ == 0

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        net.temperature_ = self.temperatures[len(net.history)]
        if len(net.history) >= self.best_epoch_:
            net.stop_training = True

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.best_epoch_ = len(net.history)  # somebody else may have stopped it earlier


def stopper_for(
    estimator: Any, answers: np.ndarray, checks: list[dict[str, float]]
) -> KeepBest | StopAfter:
    """What ends training: the best epoch to come, or the one that is known already.

    Parameters
    ----------
    estimator : TransformerTextClassifier
    answers : ndarray of shape (n_known, n_valid, n_classes)
        What the held-out rows are answered before the first epoch and, where that is known,
        after each.
    checks : list of dict
        What is thought of these.
    """
    scores = [check["valid_score"] for check in checks]
    if len(checks) == 1:
        return KeepBest(estimator.n_iter_no_change, estimator.tol, scores[0], answers[0])
    temperatures = [check["temperature"] for check in checks]
    return StopAfter(int(np.argmax(scores)), answers, temperatures)
