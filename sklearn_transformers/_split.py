"""Rows to train on and rows to validate on."""

import numpy as np

__all__ = ["hold_out", "stratified_folds"]


def hold_out(
    codes: np.ndarray,
    fraction: float,
    rng: np.random.Generator,
    copies: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled, stratified split that never takes a class's last row from training.

    scikit-learn's splitters refuse classes of one row and more classes than validation rows;
    real label sets have both. Here each class gives rows in proportion to its size, the
    remainder goes to the classes that are furthest below their share (ties at random), and
    a class of one row stays in training.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,), int64
        Class of each row, 0 to n_classes - 1.
    fraction : float in (0, 1)
        Share of the rows to validate on; at least one row, if any can be spared.
    rng : numpy.random.Generator
    copies : ndarray of shape (n_samples,), int64, default=None
        Rows with one number are the same and of one class: they stay together and count as one.
        The numbers go from 0, without a gap.

    Returns
    -------
    train, valid : ndarray of int64
        Row indices in random order; `valid` is empty when every class has one row.
    """
    if copies is not None:
        train, valid = hold_out(_code_of_each(copies, codes), fraction, rng)
        return _rows_of(train, copies), _rows_of(valid, copies)
    order = rng.permutation(len(codes))
    sizes = np.bincount(codes)
    spare = np.maximum(sizes - 1, 0)
    wanted = min(max(1, round(fraction * len(codes))), int(spare.sum()))
    share = wanted * sizes / len(codes)
    quota = np.minimum(np.floor(share).astype(np.int64), spare)
    tie_break = rng.random(len(sizes))
    while quota.sum() < wanted:
        open_classes = np.flatnonzero(quota < spare)
        lack = (share - quota)[open_classes]
        quota[open_classes[np.lexsort((tie_break[open_classes], -lack))[0]]] += 1
    shuffled = codes[order]
    # Rank of each shuffled row within its class: the first `quota` of a class validate.
    by_class = np.argsort(shuffled, kind="stable")
    rank = np.empty(len(codes), np.int64)
    rank[by_class] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    validates = rank < quota[shuffled]
    return order[~validates], order[validates]


def stratified_folds(
    codes: np.ndarray, n_folds: int, rng: np.random.Generator, copies: np.ndarray | None = None
) -> list[np.ndarray]:
    """Disjoint parts of similar size and composition; a class of one row is in none of them.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,), int64
    n_folds : int
    rng : numpy.random.Generator
    copies : ndarray of shape (n_samples,), int64, default=None
        As in `hold_out`.

    Returns
    -------
    folds : list of ndarray
        Row indices, in increasing order, copies behind each other. No fold has all rows of a class.
    """
    if copies is not None:
        folds = stratified_folds(_code_of_each(copies, codes), n_folds, rng)
        return [_rows_of(fold, copies) for fold in folds]
    order = rng.permutation(len(codes))
    order = order[np.bincount(codes)[codes[order]] > 1]
    by_class = order[np.argsort(codes[order], kind="stable")]
    # Dealt out like cards, class after class, no class fills one fold alone.
    folds = [np.sort(by_class[first::n_folds]) for first in range(n_folds)]
    return [fold for fold in folds if len(fold)]


def _code_of_each(copies: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The code of what the copies are of."""
    _, firsts = np.unique(copies, return_index=True)
    return codes[firsts]


def _rows_of(chosen: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The rows that are copies of what was chosen, in its order."""
    by_number = np.argsort(copies, kind="stable")
    parts = np.split(by_number, np.cumsum(np.bincount(copies))[:-1])
    return np.concatenate([parts[number] for number in chosen]) if len(chosen) else chosen
