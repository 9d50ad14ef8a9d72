"""How sure the model may be: temperature scaling on rows it was not trained on."""

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_transformers._targets import ClassCodec

__all__ = ["calibration_error", "cross_entropies", "fit_temperature", "mean_and_error"]

N_BINS = 15


def cross_entropies(logits: np.ndarray, codes: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Loss of each row, shape (n_rows,), float64."""
    log_probabilities = ClassCodec.log_probabilities(logits, temperature)
    return -log_probabilities[np.arange(len(codes)), codes]


def fit_temperature(logits: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """The number by which to divide logits so that probabilities are calibrated.

    Temperature scaling of Guo et al. (2017), "On Calibration of Modern Neural Networks", ICML.
    Two more rows, which belong to each class as much as to any other, keep a few rows that happen
    to be answered correctly from asking for certainty; Platt (1999) does the like for the same
    reason.

    Parameters
    ----------
    logits : ndarray of shape (n_rows, n_classes)
        Of rows that the model was not trained on.
    codes : ndarray of shape (n_rows,), int64
    weights : ndarray of shape (n_rows,)

    Returns
    -------
    temperature : float
        Above 1 where the model is too sure of itself.
    """
    n_rows, n_classes = logits.shape
    doubt = 2 / (n_rows + 2)
    targets = np.full((n_rows, n_classes), doubt / n_classes)
    targets[np.arange(n_rows), codes] += 1 - doubt

    def loss(log_temperature: float) -> float:
        answers = ClassCodec.log_probabilities(logits, float(np.exp(log_temperature)))
        return -float(np.average((targets * answers).sum(axis=1), weights=weights))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def calibration_error(probabilities: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """By how much the probability of the answers differs from how often they are right.

    The expected calibration error of Guo et al. (2017), over 15 bins of equal width.

    Parameters
    ----------
    probabilities : ndarray of shape (n_rows, n_classes)
    codes : ndarray of shape (n_rows,), int64
    weights : ndarray of shape (n_rows,)
    """
    sure = probabilities.max(axis=1)
    excess = weights * (sure - (probabilities.argmax(axis=1) == codes))
    bins = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    return float(np.abs(np.bincount(bins, excess)).sum() / weights.sum())


def mean_and_error(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Weighted mean and its standard error."""
    shares = weights / weights.sum()
    mean = float(shares @ values)
    return mean, float(np.sqrt((shares**2) @ (values - mean) ** 2))
