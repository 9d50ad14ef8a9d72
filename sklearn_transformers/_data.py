"""The user's rows: checked, split, and turned into what the loop trains on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Padding
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._split import hold_out
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._tokenization import encode_and_count
from sklearn_transformers._validation import check_same_length, check_texts, check_weights

__all__ = ["LabelledTexts", "Rows", "read_rows", "read_validation", "split_rows", "tokenise_rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Texts with their class codes and the user's sample weights, checked."""

    texts: list[str]
    codes: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> "Rows":
        """These rows only, in this order."""
        return Rows([self.texts[i] for i in rows], self.codes[rows], self.weights[rows])

    @cached_property
    def copies(self) -> np.ndarray:
        """Which pair of text and code each row is, numbered as they first appear, (n_rows,).

        Case and spaces make no difference: who knows the one text hardly errs on the other.
        """
        # By digests: the texts themselves would stand in memory once more.
        number_of: dict[tuple[bytes, int], int] = {}
        texts = (" ".join(text.split()).casefold().encode() for text in self.texts)
        digests = (hashlib.blake2b(text, digest_size=16).digest() for text in texts)
        pairs = zip(digests, self.codes.tolist(), strict=True)
        return np.array([number_of.setdefault(pair, len(number_of)) for pair in pairs])

    @cached_property
    def digest(self) -> str:
        """By which the same texts and codes are known again, in whatever order.

        One for all, which a saved model may hold: a digest of each would tell what it has seen.
        """
        pairs = zip(self.codes.tolist(), self.texts, strict=True)
        rows = (f"{code} {text}".encode() for code, text in pairs)
        digests = sorted(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
        return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()

    def distinct(self) -> "Rows":
        """The first of each row's copies: a row given twice is no more than a row of weight 2."""
        return self.take(np.unique(self.copies, return_index=True)[1])


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Token ids, class codes and weights; the weights are the loss's, with a mean of 1."""

    texts: EncodedTexts
    codes: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray) -> "LabelledTexts":
        """These rows only, in this order."""
        return LabelledTexts(self.texts.take(rows), self.codes[rows], self.weights[rows])

    @cached_property
    def copies(self) -> np.ndarray:
        """Which pair of tokens and code each row is, numbered in an order of their own, (n_rows,).

        Unlike those of `Rows`, copies are the same to the model.
        """
        pairs = list(zip(self.texts.contents(), self.codes.tolist(), strict=True))
        number_of = {pair: number for number, pair in enumerate(sorted(set(pairs)))}
        return np.array([number_of[pair] for pair in pairs])

    def distinct(self) -> "LabelledTexts":
        """Each pair of text and code once, in an order of their own, with all that it weighs.

        So a row given twice is the same as a row of weight 2, and neither the order of the rows
        nor copies decide what is drawn from them. What weighs nothing is left out.
        """
        _, rows = np.unique(self.copies, return_index=True)
        weights = np.bincount(self.copies, self.weights)
        rows, weights = rows[weights > 0], weights[weights > 0]  # a class may weigh nothing
        return LabelledTexts(self.texts.take(rows), self.codes[rows], weights)


def read_rows(
    codec: ClassCodec, texts: list[str], y: Any, sample_weight: Any, *, suffix: str = ""
) -> Rows:
    """Check what goes with the texts. Rows of weight 0 leave here: they are as good as absent.

    `suffix` is what the user's names for these arrays end with: "_val" or nothing.
    """
    codes = codec.encode(y, name=f"y{suffix}")
    check_same_length(texts, codes, f"X{suffix}, y{suffix}")
    weights = check_weights(sample_weight, texts, name=f"sample_weight{suffix}")
    rows = Rows(texts, codes, weights)
    return rows if rows.weights.all() else rows.take(np.flatnonzero(rows.weights))


def read_validation(
    codec: ClassCodec, X_val: Any, y_val: Any, sample_weight_val: Any = None
) -> Rows | None:
    """Check `X_val`, `y_val` and their weights; None when nothing was given."""
    if X_val is None and y_val is None:
        if sample_weight_val is not None:
            raise ValueError("sample_weight_val is provided, but X_val and y_val were not.")
        return None
    if X_val is None or y_val is None:
        given, lacking = ("X_val", "y_val") if y_val is None else ("y_val", "X_val")
        raise ValueError(f"{given} is provided, but {lacking} was not provided.")
    texts = check_texts(X_val, name="X_val")
    return read_rows(codec, texts, y_val, sample_weight_val, suffix="_val")


def split_rows(rows: Rows, fraction: float, rng: np.random.Generator) -> tuple[Rows, Rows | None]:
    """Hold out rows to validate on; none when no class has a second row.

    Copies of a row stay together: what training has seen judges nothing.
    """
    if fraction == 0:
        raise ValueError(
            "early_stopping=True needs held-out data, but validation_fraction=0. Raise it, pass "
            "X_val and y_val, or set early_stopping=False."
        )
    train, valid = hold_out(rows.codes, fraction, rng, copies=rows.copies)
    if len(valid) == 0:
        return rows, None
    return rows.take(train), rows.take(valid)


def tokenise_rows(
    rows: Rows, class_weights: np.ndarray, tokenizer: Tokenizer, padding: Padding
) -> tuple[LabelledTexts, np.ndarray]:
    """Token ids, codes, and class weight x sample weight; and each text's length before cutting."""
    # Each is brought below 1 first: sums and products of huge or tiny weights would not be finite.
    by_row = rows.weights / rows.weights.max()
    by_class = class_weights / max(class_weights.max(), np.finfo(float).tiny)
    weights = by_row * by_class[rows.codes]
    total = weights.sum()
    if total == 0:
        raise ValueError(
            "class_weight is zero for every class that occurs among the training or the "
            "validation rows: nothing is left to learn from or to judge by."
        )
    encoded, full_lengths = encode_and_count(tokenizer, rows.texts, padding.longest, padding.cut)
    return LabelledTexts(encoded, rows.codes, weights * (len(rows) / total)), full_lengths
