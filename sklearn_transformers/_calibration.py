"""How sure the model may be: temperature scaling on rows it was not trained on."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from sklearn_transformers._targets import ClassCodec

__all__ = [
    "calibration_error",
    "closest_temperature",
    "cross_entropies",
    "fit_temperature",
    "mean_and_error",
    "shares_of_say",
]

N_BINS = 15
LOG_TEMPERATURES = -3.0, 3.0
MANY_ROWS = 1000  # from here on, chance hardly moves the likeliest temperature, if there is one


def cross_entropies(logits: np.ndarray, codes: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Loss of each row, shape (n_rows,), float64."""
    log_probabilities = ClassCodec.log_probabilities(logits, temperature)
    return -log_probabilities[np.arange(len(codes)), codes]


def fit_temperature(logits: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """The number by which to divide logits so that probabilities are calibrated.

    Temperature scaling of Guo et al. (2017), "On Calibration of Modern Neural Networks", ICML.
    The likeliest temperature of a few rows may be anything, by luck. So each temperature has a
    say, as much as it makes the labels likely, and the one is returned whose probabilities are
    closest to what all of them say together; Hoeting et al. (1999), "Bayesian Model Averaging: A
    Tutorial", Statistical Science 14. Before a label is seen, all from 1/20 to 20 are as likely,
    on a logarithmic scale. With many rows it is the likeliest, unless they are all answered right:
    then the lower, the likelier, and certainty would be promised.

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
    labels = np.zeros(logits.shape)
    labels[np.arange(len(codes)), codes] = 1
    likeliest = closest_temperature(logits, labels, weights)
    wrong = weights[logits.argmax(axis=1) != codes]
    if _effective_rows(weights) >= MANY_ROWS and wrong.any():
        return likeliest
    # Steps away from it: with many rows no other has a say, and it must be among them.
    low, high = LOG_TEMPERATURES
    steps = np.log(likeliest) + np.arange(low - high, high - low, 0.1)
    temperatures = np.exp(steps[(steps >= low) & (steps <= high)])
    shares = shares_of_say([cross_entropies(logits, codes, t) for t in temperatures], weights)
    together = np.zeros(logits.shape)
    for share, temperature in zip(shares, temperatures, strict=True):
        if share > 1e-6:
            together += share * ClassCodec.probabilities(logits, temperature)
    return closest_temperature(logits, together, weights)


def shares_of_say(losses: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """How much each of some answers counts, by how likely it makes the labels; they sum to 1.

    Parameters
    ----------
    losses : sequence of ndarray of shape (n_rows,)
        For each of the answers, the cross-entropy of every row.
    weights : ndarray of shape (n_rows,)
    """
    sums = np.array([loss @ weights for loss in losses])
    likelihoods = np.exp((sums.min() - sums) * _effective_rows(weights) / weights.sum())
    shares: np.ndarray = likelihoods / likelihoods.sum()
    return shares


def _effective_rows(weights: np.ndarray) -> float:
    """Where weights differ, rows are worth fewer that weigh the same (Kish 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def closest_temperature(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """The temperature at which the cross-entropy to the target probabilities is least."""

    def loss(log_temperature: float) -> float:
        answers = ClassCodec.log_probabilities(logits, float(np.exp(log_temperature)))
        return -float(np.average((targets * answers).sum(axis=1), weights=weights))

    return float(np.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x))


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
    """Weighted mean and its standard error: infinite for a single row, which tells of none."""
    shares = weights / weights.sum()
    mean = float(shares @ values)
    n_rows = 1 / float(shares @ shares)  # that would tell as much if they weighed the same
    if n_rows < 1.5:
        return mean, float("inf")
    return mean, float(np.sqrt((shares**2) @ (values - mean) ** 2 * n_rows / (n_rows - 1)))
