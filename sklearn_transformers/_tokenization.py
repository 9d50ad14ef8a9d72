"""Texts -> token ids, and how long an input may be."""

import hashlib
import threading
import warnings
from array import array
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._cache import TOKENS, fingerprint
from sklearn_transformers._checkpoint import neutral_id
from sklearn_transformers._encoded import EncodedTexts, shortened
from sklearn_transformers._fork import in_every_fork
from sklearn_transformers._probes import PROBES

__all__ = ["encode", "encode_and_count", "golden_ids", "longest_input", "resolve_max_length"]

# Texts, and characters in them, handed to the tokenizer at once: enough to keep all cores busy, few
# enough that what it makes of them, some 100 bytes a character, stays small.
CHUNK, CHUNK_CHARACTERS = 1024, 2**21

# The `max_length` of "auto", in tokens: all that BERT and its kin can read.
AUTO = 512

# What is asked of a tokenizer is written into it before it reads, and threads share tokenizers.
# They use all cores by themselves.
_TOKENIZERS = threading.Lock()


def _renew_lock() -> None:
    global _TOKENIZERS
    _TOKENIZERS = threading.Lock()


in_every_fork(_renew_lock)


def encode(tokenizer: Tokenizer, texts: list[str], max_length: int, side: str) -> EncodedTexts:
    """Tokenise with special tokens; of longer texts, leave out the end, the start or the middle.

    Tokens that the process still knows, from whatever estimator, are not computed again.
    A text without a single token, such as "" for GPT-2, becomes one neutral token: a model
    cannot read nothing.
    """
    return encode_and_count(tokenizer, texts, max_length, side)[0]


def encode_and_count(
    tokenizer: Tokenizer, texts: list[str], max_length: int, side: str
) -> tuple[EncodedTexts, np.ndarray]:
    """Tokenise as `encode` does, and tell how long the texts are.

    Returns
    -------
    encoded : EncodedTexts
    full_lengths : ndarray of shape (n_texts,), int32
        Tokens in each text before it was cut, special tokens included.
    """
    # What transformers passes to the tokenizer's core with each call, and words added to it.
    settings = (
        len(tokenizer),
        getattr(tokenizer, "split_special_tokens", False),
        neutral_id(tokenizer),
        max_length,
        side,
    )
    salt = hashlib.blake2b(fingerprint(tokenizer) + repr(settings).encode(), digest_size=16)
    full_lengths = []

    def chunks() -> Iterator[list[bytes]]:
        for chunk in _portions(texts):
            keys = [_key(salt, text) for text in chunk]
            known = dict(zip(keys, TOKENS.get_many(keys), strict=True))
            new = {key: text for key, text in zip(keys, chunk, strict=True) if known[key] is None}
            if new:
                with _TOKENIZERS:
                    computed = _tokenise(tokenizer, list(new.values()), max_length, side)
                fresh = dict(zip(new, computed, strict=True))
                TOKENS.put_many(fresh)
                known |= fresh
            full_lengths.append(b"".join(known[key][-4:] for key in keys))
            yield [known[key][:-4] for key in keys]

    encoded = EncodedTexts.from_chunks(chunks())
    return encoded, np.frombuffer(b"".join(full_lengths), np.int32)


def _portions(texts: list[str]) -> Iterator[list[str]]:
    """Cut into runs of at most so many texts and characters; a longer text comes alone."""
    start, n_characters = 0, 0
    for row, text in enumerate(texts):
        n_characters += len(text)
        if row > start and (row - start == CHUNK or n_characters > CHUNK_CHARACTERS):
            yield texts[start:row]
            start, n_characters = row, len(text)
    yield texts[start:]


def golden_ids(tokenizer: Tokenizer, texts: Collection[str] = PROBES) -> dict[str, list[int]]:
    """What becomes of a few fixed texts: by them a tokenizer that changed is found out."""
    with _TOKENIZERS:
        return {
            text: tokenizer(text, truncation=False, verbose=False)["input_ids"] for text in texts
        }


def _tokenise(tokenizer: Tokenizer, texts: list[str], max_length: int, side: str) -> list[bytes]:
    """Each text's ids and, as the last number, how many there would have been; in int32."""
    batch = tokenizer(
        texts,
        truncation=False,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,  # it would speak of lengths that the model cannot read
    )
    neutral = [neutral_id(tokenizer)]
    computed = []
    for row, ids in enumerate(batch["input_ids"]):
        kept = ids or neutral
        if len(ids) > max_length:
            is_special = _is_special(tokenizer, texts[row], batch, row)
            kept = shortened(ids, max_length, side, is_special)
        computed.append(array("i", [*kept, max(len(ids), 1)]).tobytes())
    return computed


def _is_special(tokenizer: Tokenizer, text: str, batch: Any, row: int) -> list[int]:
    """Which tokens of a text the tokenizer has added; asked for long texts only, for its time."""
    if batch.encodings:
        return list(batch.encodings[row].special_tokens_mask)
    # A tokenizer in Python, which may not be able to say.
    ids = batch["input_ids"][row]
    bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    n_added = len(ids) - len(bare)
    n_before = next(n for n in range(n_added + 1) if ids[n : n + len(bare)] == bare)
    return [1] * n_before + [0] * len(bare) + [1] * (n_added - n_before)


def _key(salt: Any, text: str) -> bytes:
    """Name a text by a digest: the cache neither keeps the user's texts nor grows with them."""
    digest = salt.copy()
    digest.update(text.encode("utf-8", "surrogatepass"))
    return bytes(digest.digest())


def resolve_max_length(
    max_length: int | str, tokenizer: Tokenizer, backbone: PreTrainedModel, n_prompt: int = 0
) -> int:
    """Return `max_length`, or the longest input that backbone and tokenizer can take.

    "auto" stands for `AUTO`, and less needs no warning then. Positions that a prompt of `n_prompt`
    vectors takes are not to be had.

    Raises
    ------
    ValueError
        When the special tokens leave no room for text.
    """
    n_special = tokenizer.num_special_tokens_to_add()
    asked = AUTO if isinstance(max_length, str) else max_length
    if asked <= n_special:
        raise ValueError(
            f"max_length={max_length} leaves no room for text beside the {n_special} special "
            f"tokens of this model. Use at least {n_special + 1}."
        )
    longest = min(asked, longest_input(tokenizer, backbone, n_prompt))
    if longest <= n_special:
        raise ValueError(
            f"n_prompt_tokens={n_prompt} leaves no room for text: this model can read "
            f"{longest + n_prompt} tokens. Lower it."
        )
    if longest < asked and max_length != "auto":
        warnings.warn(
            f"max_length={max_length} is more than this model can read; using {longest}.",
            stacklevel=2,
        )
    return int(longest)  # not a number of NumPy's, which JSON would not hold


def longest_input(tokenizer: Tokenizer, backbone: PreTrainedModel, n_prompt: int = 0) -> int:
    """How many tokens backbone and tokenizer can take beside a prompt."""
    limits = [limit - n_prompt for limit in _position_limits(backbone)]
    return int(min([tokenizer.model_max_length, *limits]))


def _position_limits(backbone: PreTrainedModel) -> list[int]:
    """How many positions the backbone has, as its position embeddings or its config say."""
    tables = [
        module
        for name, module in backbone.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    if tables:
        # RoBERTa and its kin count positions from padding_idx + 1 on.
        return [
            table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
            for table in tables
        ]
    stated = getattr(backbone.config, "max_position_embeddings", None)
    return [stated] if isinstance(stated, int) and stated > 0 else []
