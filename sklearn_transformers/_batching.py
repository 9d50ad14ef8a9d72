"""Batches of similar length under a token budget, and their padding."""

from collections.abc import Iterator

import numpy as np

from sklearn_transformers._encoded import EncodedTexts

__all__ = ["pad", "sorted_batches", "training_steps"]

# Most tokens, padding included, that go through the model at once: bounds the memory for
# activations whatever `batch_size` and the length of the texts.
TOKEN_BUDGET = 16_384

# Optimiser steps that are sorted by length together. Longer windows save little more padding
# and make the composition of the batches less random.
WINDOW = 8

# Lengths are rounded up: GPUs prefer multiples of 8, and on the CPU every new shape costs a
# compilation.
MULTIPLE = 8


def training_steps(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """One epoch: every row once, in steps of `batch_size` rows of similar length.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,)
        Tokens in each row.
    batch_size : int
        Rows per optimiser step; the last step may have fewer.
    rng : numpy.random.Generator

    Returns
    -------
    steps : list of ndarray
        Positions in `lengths`, sorted by length within a step, steps in random order.
    """
    order = rng.permutation(len(lengths))
    size = batch_size * WINDOW
    steps = []
    for start in range(0, len(order), size):
        window = order[start : start + size]
        window = window[np.argsort(lengths[window], kind="stable")]
        steps += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [steps[i] for i in rng.permutation(len(steps))]


def sorted_batches(
    lengths: np.ndarray, rows: np.ndarray, budget: int | None = None
) -> Iterator[np.ndarray]:
    """Cut `rows` into batches of similar length and at most `budget` tokens, longest first.

    Longest first, so that memory runs out at once or never.
    """
    budget = TOKEN_BUDGET if budget is None else budget
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    while len(rows):
        width = _round_up(int(lengths[rows[0]]))
        count = max(1, budget // width)
        yield rows[:count]
        rows = rows[count:]


def pad(
    texts: EncodedTexts, rows: np.ndarray, pad_id: int, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pad the texts `rows` on the right to a common length.

    Parameters
    ----------
    texts : EncodedTexts
    rows : ndarray of shape (b,)
    pad_id : int
    longest : int
        Never pad beyond this length, because the backbone has no position for it.

    Returns
    -------
    input_ids, attention_mask : ndarray of shape (b, s), int64
        `s` is the longest row rounded up to a multiple of 8.
    """
    lengths = texts.lengths[rows]
    width = min(_round_up(int(lengths.max())), longest)
    mask = np.arange(width) < lengths[:, None]
    input_ids = np.full(mask.shape, pad_id, np.int64)
    input_ids[mask] = texts.tokens(rows)
    return input_ids, mask.astype(np.int64)


def _round_up(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE
