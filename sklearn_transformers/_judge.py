"""How an epoch is judged: validation logits and their loss -> score."""

import inspect
import warnings
from numbers import Real
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer

from sklearn_transformers._validation import listed

__all__ = ["Judge"]


class Judge:
    """Scores the validation rows as a scorer would score the finished estimator.

    Parameters
    ----------
    estimator : TransformerTextClassifier
        Its `scoring` decides.
    classes : ndarray of shape (n_classes,)
    texts : list of str
        The validation texts.
    labels : ndarray of shape (n_valid,)
        Their labels, as the user gave them.
    sample_weight : ndarray of shape (n_valid,) or None
        Passed to scorers that take it.

    Raises
    ------
    ValueError
        When a scorer of scikit-learn cannot score these labels at all. Found out before
        anything is loaded, rather than after an epoch of training.
    """

    def __init__(
        self,
        estimator: Any,
        classes: np.ndarray,
        texts: list[str],
        labels: np.ndarray,
        sample_weight: np.ndarray | None,
    ) -> None:
        self.scoring = estimator.scoring
        self.texts, self.labels = texts, labels
        # A fitted estimator around the model in training, for scorers to ask. It has
        # nothing of an earlier fit.
        self.view = object.__new__(type(estimator))
        self.meet({name: v for name, v in vars(estimator).items() if not name.endswith("_")})
        if self.scoring == "loss":
            return
        self.scorer = get_scorer(self.scoring)
        # scikit-learn's scorers take weights themselves and leave it to their metric to refuse.
        metric = getattr(self.scorer, "_score_func", None)
        weighted = sample_weight is not None and _takes_weights(metric or self.scorer)
        self.extra = {"sample_weight": sample_weight} if weighted else {}
        if metric is not None:
            self._rehearse(classes)

    def meet(self, fitted: dict[str, Any]) -> None:
        """Take on the fitted attributes that the scorer is to see."""
        self.view.__dict__.update(fitted)

    def score(self, logits: np.ndarray, loss: float, temperature: float) -> float:
        """Score an epoch by the logits of the validation texts, their loss and temperature."""
        if self.scoring == "loss":
            return -loss
        self.meet({"temperature_": temperature})
        # The answers are known: asked for these texts, the view does not compute them again.
        self.view._known_logits = (self.texts, logits)
        score = self.scorer(self.view, self.texts, self.labels, **self.extra)
        if not isinstance(score, Real):
            raise TypeError(
                f"scoring={self.scoring!r} must give a number. Got {type(score).__name__} instead."
            )
        if score != score:
            raise ValueError(
                f"scoring={self.scoring!r} gave nan for the {len(self.texts)} validation rows: "
                "it cannot tell which epoch is best. Hold out more rows, or score otherwise."
            )
        return float(score)

    def _rehearse(self, classes: np.ndarray) -> None:
        """Score made-up answers."""
        self.meet({"classes_": classes, "model_": None})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.score(np.zeros((len(self.texts), len(classes)), np.float32), 0.0, 1.0)
        except (TypeError, ValueError) as error:
            absent = np.setdiff1d(classes, self.labels).tolist()
            remedy = (
                f" No validation row has the labels [{listed(absent)}]: give them more rows, pass "
                "X_val and y_val with rows of every class, or take scoring='loss'."
            )
            raise ValueError(
                f"scoring={self.scoring!r} cannot score the {len(self.texts)} validation rows, "
                f"whose labels are {np.unique(self.labels).tolist()}: {error}"
                f"{remedy if absent else ''}"
            ) from error


def _takes_weights(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.name == "sample_weight" or p.kind == p.VAR_KEYWORD for p in parameters)
