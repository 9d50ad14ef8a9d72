"""When training ends, and which weights stay."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback

__all__ = ["KeepBest", "TrainOrNot"]


class KeepBest(Callback):
    """Stop when the validation score stalls and go back to the weights that scored best.

    The weights before the first epoch are a candidate like any other, but the first epochs need
    not beat them at once. A training that ran to the end of its schedule, where the learning
    rate is lowest, is given up for an earlier epoch only if that is clearly better.

    Parameters
    ----------
    n_iter_no_change : int
        Epochs in a row without an improvement of more than `tol` before training stops.
    tol : float
    start_score : float
        Score of the weights before the first epoch.
    start_logits : ndarray of shape (n_valid, n_classes)
        What they answer.
    clearly_better : callable
        Logits of two epochs -> whether the first are better beyond doubt.
    """

    def __init__(
        self,
        n_iter_no_change: int,
        tol: float,
        start_score: float,
        start_logits: np.ndarray,
        clearly_better: Callable[[np.ndarray, np.ndarray], bool],
    ) -> None:
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.start_score = start_score
        self.start_logits = start_logits
        self.clearly_better = clearly_better
        self.best_epoch_, self.logits_ = 0, start_logits
        self.weights_: dict[str, torch.Tensor] = {}

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
        last = len(net.history)
        if self.best_epoch_ == last:
            return
        if last == net.max_epochs and not self.clearly_better(self.logits_, net.valid_logits_):
            self.best_epoch_, self.logits_ = last, net.valid_logits_
            return
        with torch.no_grad():
            for name, weight in _state(net.module_):
                weight.copy_(self.weights_[name])

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": (self.best_epoch_, self.best_score_),
            "logits": torch.from_numpy(self.logits_),
            "weights": self.weights_,
            "stalled": (self.reference_, self.n_stalled_),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_epoch_, self.best_score_ = state["best"]
        self.logits_, self.weights_ = state["logits"].numpy(), state["weights"]
        self.reference_, self.n_stalled_ = state["stalled"]

    def _keep(self, net: NeuralNet, score: float, logits: np.ndarray) -> None:
        self.best_epoch_, self.best_score_ = len(net.history), score  # 0 before the first epoch
        self.logits_ = logits
        # All of them, because a callback may freeze and unfreeze any.
        self.weights_ = {
            name: weight.detach().to("cpu", copy=True) for name, weight in _state(net.module_)
        }


def _state(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """All that training may change. A head of the user's may have statistics of its own."""
    yield from module.named_parameters()
    yield from module.named_buffers()


class TrainOrNot(Callback):
    """Train to the end, or not at all where others like it got worse.

    Parameters
    ----------
    worthwhile : bool
    answers : ndarray of shape (2, n_valid, n_classes)
        What the models that found it out answered before and after training.
    temperature : float
        What the answers after training are divided by.
    """

    def __init__(self, worthwhile: bool, answers: np.ndarray, temperature: float) -> None:
        self.worthwhile = worthwhile
        self.answers = answers
        self.temperature = temperature
        self.best_epoch_ = 0

    @property
    def logits_(self) -> np.ndarray:
        """The answers of models like the one that stays."""
        return self.answers[int(self.worthwhile)]

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        net.stop_training = not self.worthwhile
        net.temperature_ = self.temperature

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.best_epoch_ = len(net.history)
