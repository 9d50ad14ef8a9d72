"""The head's first weights: logistic regression on the vectors of the frozen backbone."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from sklearn_transformers._calibration import cross_entropies
from sklearn_transformers._split import hold_out

__all__ = ["HeadStart", "RegressionPath", "all_classes", "fit_head"]

# Strengths of the L2 penalty to choose from, beside the mean loss: independent of the number of
# rows. From strong to weak, each fit starting from the one before.
PENALTIES = (1.0, 0.1, 0.03, 0.01, 3e-3, 1e-3)

# How unsure the shrunk regression is of its training rows, as a share of log(n_classes).
DOUBT = 0.85

# The penalty is judged on hold-outs of a fifth: as many as bring this number of answers.
HELD_OUT = 0.2
ENOUGH_ANSWERS = 300
MOST_SPLITS = 5


@dataclass(frozen=True, eq=False)
class HeadStart:
    """A logistic regression, and what to make of it.

    Parameters
    ----------
    weight : ndarray of shape (n_classes, width), float32
    bias : ndarray of shape (n_classes,), float32
    shrink : float
        The factor by which both leave the training rows in doubt; see `_shrinkage`.
    penalty : float
        The L2 penalty that was chosen, beside the mean loss.
    """

    weight: np.ndarray
    bias: np.ndarray
    shrink: float
    penalty: float


def fit_head(
    vectors: np.ndarray,
    codes: np.ndarray,
    weights: np.ndarray,
    n_classes: int,
    rng: np.random.Generator,
    penalty: float | None = None,
) -> HeadStart:
    """Multinomial logistic regression on the vectors, its L2 penalty chosen by hold-outs.

    Parameters
    ----------
    vectors : ndarray of shape (n_rows, width)
        No row and code should occur twice: add up the weights instead.
    codes : ndarray of shape (n_rows,), int64
    weights : ndarray of shape (n_rows,)
        Positive.
    n_classes : int
        A class without a row gets no weights and the lowest bias.
    rng : numpy.random.Generator
        Decides the hold-outs.
    penalty : float, default=None
        The penalty, where it has been chosen already.
    """
    present = np.unique(codes)
    if len(present) == 1:
        weight = np.zeros((n_classes, vectors.shape[1]), np.float32)
        bias = (np.arange(n_classes) == present).astype(np.float32)
        return HeadStart(weight, bias, 1.0, PENALTIES[0])
    mean = np.average(vectors, axis=0, weights=weights)
    # One scale for all: single entries that hardly vary stay as unimportant as they are.
    scale = np.sqrt(np.average(((vectors - mean) ** 2).mean(axis=1), weights=weights)) or 1.0
    scaled = (vectors - mean) / scale
    with threadpool_limits(1, "blas"):  # for `logits`; see RegressionPath.fit
        if penalty is None:
            penalty = _choose_penalty(scaled, codes, weights, rng)
        _, coef, intercept = RegressionPath(scaled, codes, weights).fit(penalty)
        logits = scaled @ coef.T + intercept
    shrink = _shrinkage(logits, np.searchsorted(present, codes), weights)
    weight, bias = all_classes(present, coef / scale, intercept - coef @ mean / scale, n_classes)
    return HeadStart(weight.astype(np.float32), bias.astype(np.float32), shrink, penalty)


def all_classes(
    present: np.ndarray, coef: np.ndarray, intercept: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and intercepts of all classes: those without a row have none, and the lowest."""
    weight, bias = np.zeros((n_classes, coef.shape[1])), np.full(n_classes, intercept.min())
    weight[present], bias[present] = coef, intercept
    return weight, bias


class RegressionPath:
    """Logistic regressions on the same rows, dense or sparse, with weaker and weaker penalties."""

    def __init__(self, vectors: Any, codes: np.ndarray, weights: np.ndarray) -> None:
        self.vectors, self.codes, self.shares = vectors, codes, weights / weights.sum()
        self.model = LogisticRegression(max_iter=300, tol=1e-4, warm_start=True)

    def fit(self, penalty: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes that occur, their coefficients and intercepts; penalty beside the mean loss."""
        self.model.set_params(C=1 / penalty)
        # BLAS adds up in as many parts as it has threads: one thread always gives the same bits.
        with threadpool_limits(1, "blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # scikit-learn takes many classes of few rows for numbers.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            self.model.fit(self.vectors, self.codes, sample_weight=self.shares)
        coef, intercept = self.model.coef_, self.model.intercept_
        if len(self.model.classes_) == 2:  # scikit-learn keeps the difference of the two only
            coef, intercept = np.vstack([-coef, coef]) / 2, np.append(-intercept, intercept) / 2
        return self.model.classes_, coef, intercept


def _shrinkage(logits: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """The factor at which the logits' loss is `DOUBT` of the way to the loss of guessing.

    A regression that fits its rows leaves nothing to learn: what is left of the gradient is
    noise, and Adam makes steps of full size out of it. The shrunk one says the same labels, and
    fine-tuning has the whole way to certainty to improve the vectors.
    """

    def excess(shrink: float) -> float:
        losses = cross_entropies(logits, codes, 1 / shrink)
        return float(np.average(losses, weights=weights)) - DOUBT * np.log(logits.shape[1])

    return float(brentq(excess, 1e-6, 1.0)) if excess(1.0) < 0 else 1.0


def _choose_penalty(
    vectors: np.ndarray, codes: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> float:
    """The penalty with the least loss on the hold-outs."""
    n_splits = int(np.clip(ENOUGH_ANSWERS / (HELD_OUT * len(codes)), 1, MOST_SPLITS))
    splits = [hold_out(codes, HELD_OUT, rng) for _ in range(n_splits)]
    splits = [(train, held) for train, held in splits if len(held)]
    if not splits:  # one row a class
        return PENALTIES[0]
    paths = [RegressionPath(vectors[rows], codes[rows], weights[rows]) for rows, _ in splits]
    best, least = PENALTIES[0], np.inf
    for penalty in PENALTIES:
        losses, shares = [], []
        for path, (_, held) in zip(paths, splits, strict=True):
            present, coef, intercept = path.fit(penalty)
            logits = vectors[held] @ coef.T + intercept
            losses.append(cross_entropies(logits, np.searchsorted(present, codes[held])))
            shares.append(weights[held])
        loss = np.average(np.concatenate(losses), weights=np.concatenate(shares))
        if loss > least:  # it has one minimum: weaker penalties only fit the rows better
            break
        best, least = penalty, loss
    return best
