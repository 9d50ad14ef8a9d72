"""Token ids of many texts in two flat arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

__all__ = ["TRUNCATION_SIDES", "EncodedTexts", "kept_tokens", "shortened"]

# By `truncation_side`, what share of the tokens that are kept of a longer text is from its start.
# A quarter is about what Sun et al. (2019) keep; docs/recipe.md has it beside a half.
TRUNCATION_SIDES = {"middle": 0.25, "right": 1.0, "left": 0.0}


def kept_tokens(max_length: int, side: str, is_special: Sequence[int]) -> tuple[int, int]:
    """How many tokens of a longer text are kept at its start, and how many at its end.

    Parameters
    ----------
    max_length : int
        How many are kept in all.
    side : str
        One of `TRUNCATION_SIDES`.
    is_special : sequence of int
        For each token of such a text, 1 if the tokenizer added it and 0 if it is text. All that
        it added, at either end, is kept.
    """
    n_before = is_special.index(0)
    n_after = is_special[::-1].index(0)
    n_first = n_before + int(TRUNCATION_SIDES[side] * (max_length - n_before - n_after))
    return n_first, max_length - n_first


def shortened(ids: list[int], max_length: int, side: str, is_special: Sequence[int]) -> list[int]:
    """The tokens that are kept of a longer text; see `kept_tokens`."""
    n_first, n_last = kept_tokens(max_length, side, is_special)
    return ids[:n_first] + ids[len(ids) - n_last :]


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """Token ids of n texts, without padding: 4 bytes a token.

    Parameters
    ----------
    ids : ndarray of shape (n_tokens,), int32
        The token ids of all texts, one text after the other.
    offsets : ndarray of shape (n_texts + 1,), int32 (int64 from 2**31 tokens on)
        Text i is ``ids[offsets[i] : offsets[i + 1]]``.
    """

    ids: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_chunks(cls, chunks: Iterable[list[bytes]]) -> "EncodedTexts":
        """Gather chunks of texts, each text the bytes of its int32 ids."""
        ids = [np.empty(0, np.int32)]
        lengths = [np.zeros(1, np.int32)]
        for chunk in chunks:
            ids.append(np.frombuffer(b"".join(chunk), np.int32))
            lengths.append(np.fromiter(map(len, chunk), np.int32, count=len(chunk)) // 4)
        offsets = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        if offsets[-1] < 2**31:
            offsets = offsets.astype(np.int32)
        return cls(np.concatenate(ids), offsets)

    @classmethod
    def concatenate(cls, parts: Sequence["EncodedTexts"]) -> "EncodedTexts":
        """All texts of all parts, in their order."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in parts)])
        return cls(np.concatenate([part.ids for part in parts]), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens in each text, shape (n_texts,)."""
        return np.diff(self.offsets)

    def head(self, n_texts: int) -> "EncodedTexts":
        """The first texts, without a copy."""
        offsets = self.offsets[: n_texts + 1]
        return EncodedTexts(self.ids[: offsets[-1]], offsets)

    def take(self, rows: np.ndarray) -> "EncodedTexts":
        """These texts only, in this order."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(self.offsets.dtype)
        return EncodedTexts(self.tokens(rows), offsets)

    def tokens(self, rows: np.ndarray) -> np.ndarray:
        """Token ids of the texts `rows`, one text after the other, shape (n_tokens,)."""
        return np.concatenate([self.ids[self.offsets[i] : self.offsets[i + 1]] for i in rows])

    def contents(self) -> list[bytes]:
        """Each text's tokens as bytes: equal where the texts are equal to a model."""
        content, ends = self.ids.tobytes(), (4 * self.offsets.astype(np.int64)).tolist()
        return [content[start:end] for start, end in pairwise(ends)]

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The first of each group of equal texts, and for each text which of those it equals.

        Returns
        -------
        rows : ndarray of shape (n_distinct,)
        twins : ndarray of shape (n_texts,)
            Text i equals text ``rows[twins[i]]``.
        """
        numbers: dict[bytes, int] = {}
        twins = [numbers.setdefault(content, len(numbers)) for content in self.contents()]
        _, rows = np.unique(twins, return_index=True)
        return rows, np.array(twins, np.int64)
