"""Texts -> `EncodedTexts` by a tokenizer's core alone, without transformers."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from sklearn_transformers._compat import import_optional
from sklearn_transformers._encoded import EncodedTexts, shortened

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["CoreTokenizer", "id_lists"]

# Texts that are handed to the tokenizer at once.
CHUNK = 1024


class CoreTokenizer:
    """A fast tokenizer's core, which answers as the whole tokenizer does.

    Parameters
    ----------
    content : str
        The core as tokenizers itself writes it, ``tokenizer.json``.
    cut : str
        Which part of a longer text is left out, one of `TRUNCATION_SIDES`.
    max_length : int
        Longest input in tokens.
    splits_specials : bool
        Whether a special token that stands in a text is ordinary text.
    neutral_id : int
        The only token of texts that have none.
    """

    def __init__(
        self, content: str, cut: str, max_length: int, splits_specials: bool, neutral_id: int
    ) -> None:
        tokenizers = import_optional("tokenizers", "OnnxTextClassifier", "onnx")
        self._core: Tokenizer = tokenizers.Tokenizer.from_str(content)
        # Set once and for all: changing a core while another thread uses it is not safe.
        self._core.no_padding()
        self._core.no_truncation()
        self._core.encode_special_tokens = splits_specials
        self._max_length, self._cut, self._neutral = max_length, cut, [neutral_id]

    def encode(self, texts: list[str]) -> EncodedTexts:
        """Tokenise with special tokens."""

        def chunks() -> Iterator[list[bytes]]:
            for start in range(0, len(texts), CHUNK):
                batch = self._core.encode_batch_fast(texts[start : start + CHUNK])
                yield [np.array(self._kept(text), np.int32).tobytes() for text in batch]

        return EncodedTexts.from_chunks(chunks())

    def _kept(self, text: "Encoding") -> list[int]:
        ids: list[int] = text.ids  # made anew each time it is asked for
        if len(ids) <= self._max_length:
            return ids or self._neutral
        return shortened(ids, self._max_length, self._cut, text.special_tokens_mask)


def id_lists(encoded: EncodedTexts) -> list[list[int]]:
    """The token ids of a few texts, as JSON knows them."""
    return [ids.tolist() for ids in np.split(encoded.ids, encoded.offsets[1:-1])]
