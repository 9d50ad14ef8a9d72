"""Batches of similar length under a token budget, and their padding."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sklearn_transformers._encoded import TRUNCATION_SIDES, EncodedTexts

__all__ = ["Budget", "Padding", "pad", "sorted_batches", "training_steps"]

# Most tokens, padding included, that go through the model at once: bounds the memory for
# activations whatever `batch_size` and the length of the texts. On the CPU, activations that stay
# in the cache are up to two and a half times as quick (docs/benchmarks.md). The number of threads
# must not matter: they would decide how gradients are added up.
TOKEN_BUDGET, TOKEN_BUDGET_ON_CPU = 16_384, 1024

# Optimiser steps that are sorted by length together, but never more than half of an epoch: in one
# window for all, the same rows would meet in each epoch. Longer ones save more padding (a sixth
# from 8 to 16 on short texts) and make the composition of the batches less random.
WINDOW = 16

# Lengths are rounded up to multiples, by the least length: GPUs prefer those of 8, and there a
# shape that comes again and again can be recorded. On the CPU, where a new shape costs a
# compilation, what short texts save is worth more.
MULTIPLES, MULTIPLES_ON_CPU = {0: 8}, {65: 8, 33: 4, 0: 2}


@dataclass(frozen=True)
class Padding:
    """How texts are brought to one length: longer ones cut, the others of a batch padded.

    Parameters
    ----------
    pad_id : int
        Token id to pad with, on the right.
    longest : int
        No batch is wider: the backbone has no position for it.
    masked : bool, default=True
        Whether the backbone ignores padding. If not, only texts of one length share a batch.
    cut : str, default="right"
        Which part of a longer text is left out, one of `TRUNCATION_SIDES`. Models that were saved
        before there was a choice know no other than "right".
    """

    pad_id: int
    longest: int
    masked: bool = True
    cut: str = "right"

    def __post_init__(self) -> None:
        if self.cut not in TRUNCATION_SIDES:
            raise ValueError(f"cut={self.cut!r}")


@dataclass
class Budget:
    """Most tokens, padding included, that go through the model at once; less when memory runs out.

    Parameters
    ----------
    tokens : int
    multiples : dict, default={0: 8}
        What widths are multiples of, by the least length of the longest text, descending.
    """

    tokens: int
    multiples: dict[int, int] = field(default_factory=lambda: MULTIPLES)
    _warned: bool = False

    @classmethod
    def on(cls, device: str) -> "Budget":
        """What suits the device, as long as memory suffices."""
        if device.startswith("cpu"):
            return cls(TOKEN_BUDGET_ON_CPU, MULTIPLES_ON_CPU)
        return cls(TOKEN_BUDGET)

    def width(self, length: int, padding: Padding) -> int:
        """Width of a batch whose longest text has `length` tokens."""
        if padding.masked:
            multiple = next(n for least, n in self.multiples.items() if length >= least)
            length = -(-length // multiple) * multiple
        return min(length, padding.longest)

    def halve(self, n_rows: int, width: int) -> None:
        """Memory did not suffice for `n_rows` rows of `width` tokens: from now on, half of that."""
        self.tokens = min(self.tokens, n_rows * width // 2)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"Memory ran out with {n_rows} texts of {width} tokens at once: fewer go through "
                "the model together from here on. A smaller max_length, a smaller model or, for "
                "training, gradient_checkpointing=True needs less memory.",
                stacklevel=2,
            )


def training_steps(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """One epoch: every row once, in steps of `batch_size` rows of similar length.

    Parameters
    ----------
    lengths : ndarray of shape (n_rows,)
        Tokens in each row.
    batch_size : int
        Most rows in an optimiser step.
    rng : numpy.random.Generator

    Returns
    -------
    steps : list of ndarray
        Positions in `lengths`, sorted by length within a step, steps in random order. They are as
        equal in size as can be: a rest would often be the longest text alone.
    """
    n_steps = -(-len(lengths) // batch_size)
    parts = np.array_split(rng.permutation(len(lengths)), n_steps)
    size = min(WINDOW, max(1, n_steps // 2))
    steps = []
    for start in range(0, n_steps, size):
        window = np.concatenate(parts[start : start + size])
        window = window[np.argsort(lengths[window], kind="stable")]
        steps += np.array_split(window, min(size, n_steps - start))
    return [steps[i] for i in rng.permutation(n_steps)]


def sorted_batches(
    lengths: np.ndarray, rows: np.ndarray, padding: Padding, budget: Budget
) -> Iterator[np.ndarray]:
    """Cut `rows` into batches of similar length under the token budget, longest first.

    Longest first, so that memory runs out at once or never. The budget may change on the way.
    """
    rows = rows[np.argsort(-lengths[rows], kind="stable")]
    while len(rows):
        length = int(lengths[rows[0]])
        count = max(1, budget.tokens // budget.width(length, padding))
        if not padding.masked:
            count = min(count, int((lengths[rows] == length).sum()))
        yield rows[:count]
        rows = rows[count:]


def pad(
    texts: EncodedTexts, rows: np.ndarray, padding: Padding, budget: Budget
) -> tuple[np.ndarray, np.ndarray]:
    """Pad the texts `rows` on the right to a common length.

    Returns
    -------
    input_ids, attention_mask : ndarray of shape (b, s), int64
    """
    lengths = texts.lengths[rows]
    mask = np.arange(budget.width(int(lengths.max()), padding)) < lengths[:, None]
    input_ids = np.full(mask.shape, padding.pad_id, np.int64)
    input_ids[mask] = texts.tokens(rows)
    return input_ids, mask.astype(np.int64)
