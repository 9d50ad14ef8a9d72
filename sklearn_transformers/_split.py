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
        A row of which more than half of its class are copies stays in training.

    Returns
    -------
    train, valid : ndarray of int64
        Row indices in random order, copies behind each other; `valid` is empty when every class
        has one row.
    """
    if copies is not None:
        free, own = _free(copies, codes)
        train, valid = (free[part] for part in hold_out(own, fraction, rng))
        train = np.concatenate([train, np.setdiff1d(copies, free)])
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
        free, own = _free(copies, codes)
        return [_rows_of(free[fold], copies) for fold in stratified_folds(own, n_folds, rng)]
    order = rng.permutation(len(codes))
    order = order[np.bincount(codes)[codes[order]] > 1]
    by_class = order[np.argsort(codes[order], kind="stable")]
    # Dealt out like cards, class after class, no class fills one fold alone.
    folds = [np.sort(by_class[first::n_folds]) for first in range(n_folds)]
    return [fold for fold in folds if len(fold)]


def _free(copies: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What may be held out, by the number of its copies, and the code of each.

    A row that makes up more than half of its class by its copies stays in training: held out, it
    would decide alone what is thought of the class, and take most of it from training.
    """
    numbers, firsts, n_copies = np.unique(copies, return_index=True, return_counts=True)
    own = codes[firsts]
    free = (n_copies == 1) | (2 * n_copies <= np.bincount(codes)[own])
    return numbers[free], own[free]


def _rows_of(chosen: np.ndarray, copies: np.ndarray) -> np.ndarray:
    """The rows that are copies of what was chosen, in its order, copies behind each other."""
    place = np.full(copies.max() + 1, len(chosen))
    place[chosen] = np.arange(len(chosen))
    by_place = np.argsort(place[copies], kind="stable")
    return by_place[: np.isin(copies, chosen).sum()]
