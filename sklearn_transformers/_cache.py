"""What the process remembers so that it need not be read or computed again, bounded in bytes."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from numbers import Integral
from typing import Any
from weakref import WeakKeyDictionary

from sklearn_transformers._fork import in_every_fork

__all__ = [
    "CHECKPOINTS",
    "TOKENS",
    "VECTORS",
    "ByteCache",
    "clear_cache",
    "fingerprint",
    "set_cache_size",
    "share_fingerprint",
]

# What Python needs for a short bytes object, its key and its place in the dict.
BYTES_PER_ENTRY = 200


class ByteCache:
    """The least recently used values, up to a number of bytes; safe to use from threads.

    Parameters
    ----------
    max_bytes : int
        Values that would exceed it push out those that were not used for longest. 0 keeps
        nothing.
    size : callable
        Value -> bytes that it takes.
    """

    def __init__(self, max_bytes: int, size: Callable[[Any], int]) -> None:
        self.max_bytes = max_bytes
        self.size = size
        self.n_bytes = 0
        self._values: dict[Hashable, Any] = {}
        self._renew_lock()
        in_every_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get_many(self, keys: Iterable[Hashable]) -> list[Any]:
        """Value of each key, None where there is none."""
        with self._lock:
            return [self._touch(key) for key in keys]

    def put_many(self, values: Mapping[Any, Any]) -> None:
        """Remember values, in place of earlier ones, that are never changed afterwards."""
        with self._lock:
            for key, value in values.items():
                self._forget(key)
                if self.size(value) <= self.max_bytes:
                    self._values[key] = value
                    self.n_bytes += self.size(value)
            self._shrink()

    def resize(self, max_bytes: int) -> None:
        """Change the bound; what no longer fits is forgotten."""
        with self._lock:
            self.max_bytes = max_bytes
            self._shrink()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.n_bytes = 0

    def _touch(self, key: Hashable) -> Any:
        """Move to the end of the dict, which is in the order of use."""
        value = self._values.pop(key, None)
        if value is not None:
            self._values[key] = value
        return value

    def _shrink(self) -> None:
        while self.n_bytes > self.max_bytes:
            self._forget(next(iter(self._values)))

    def _forget(self, key: Hashable) -> None:
        if key in self._values:
            self.n_bytes -= self.size(self._values.pop(key))


CHECKPOINTS = ByteCache(2 * 2**30, lambda checkpoint: int(checkpoint.n_bytes))
TOKENS = ByteCache(256 * 2**20, lambda ids: len(ids) + BYTES_PER_ENTRY)
VECTORS = ByteCache(256 * 2**20, lambda vectors: vectors.nbytes + BYTES_PER_ENTRY)


# Reading a tokenizer takes some 20 ms, too long for every `predict` of a single text. What is
# changed inside a tokenizer later goes unnoticed, but for words that are added to it.
_FINGERPRINTS: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()


def fingerprint(tokenizer: Any) -> bytes:
    """Digest of what decides which ids a tokenizer of transformers gives a text."""
    if tokenizer not in _FINGERPRINTS:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:  # a tokenizer in Python cannot be read: it only equals its copies
            _FINGERPRINTS[tokenizer] = os.urandom(64)
        else:
            state = json.loads(backend.to_str())
            state |= {"truncation": None, "padding": None}  # left over from the last call
            _FINGERPRINTS[tokenizer] = hashlib.blake2b(json.dumps(state).encode()).digest()
    return _FINGERPRINTS[tokenizer]


def share_fingerprint(tokenizer: Any, copied: Any) -> None:
    """Let a copy of a tokenizer find the tokens of the original."""
    _FINGERPRINTS[copied] = fingerprint(tokenizer)


def clear_cache() -> None:
    """Forget the pretrained weights, the tokens and the vectors that this process has kept.

    Frees their memory and makes the next `fit` read the model anew. Changed files in a folder are
    noticed without it; a name on the Hub means the same model until it leaves the cache.

    See Also
    --------
    set_cache_size : Bound the memory, or keep nothing at all.

    Examples
    --------
    >>> from sklearn_transformers import clear_cache
    >>> clear_cache()
    """
    CHECKPOINTS.clear()
    TOKENS.clear()
    VECTORS.clear()


def set_cache_size(
    *, weights: int | None = None, tokens: int | None = None, vectors: int | None = None
) -> None:
    """Bound the memory in which this process keeps pretrained weights, tokens and vectors.

    In a search or a cross-validation, the pretrained model is read once, each text is tokenised
    once, and texts that the untrained model has read together are not read again, however many
    candidates and folds there are. (Weights of the untrained model that are changed through
    ``.data`` go unnoticed; `clear_cache` helps.) Results are the same, bit by bit, with any size.
    Nothing of this is ever pickled.

    Parameters
    ----------
    weights : int, default=None
        Bytes for pretrained models; 2 GiB at the start. A model that does not fit is read each
        time, 0 keeps none, None leaves the bound as it is.
    tokens : int, default=None
        Bytes for tokenised texts, those of `predict` included; 256 MiB at the start, enough for
        a million texts of 15 tokens or 200,000 of 256. The texts are kept as token ids only,
        from which most of a text can be read back. 0 keeps none, None leaves the bound as it is.
    vectors : int, default=None
        Bytes for what pretrained models made of texts before any training: heads start from these
        vectors, and ``tuning="head"`` needs nothing else, in `predict` too. 256 MiB at the start,
        enough for 170,000 texts and the default model. 0 keeps none, None leaves the bound as it
        is.

    Raises
    ------
    ValueError
        When a size is negative or not an int.

    See Also
    --------
    clear_cache : Forget what is kept now.

    Examples
    --------
    >>> from sklearn_transformers import set_cache_size
    >>> set_cache_size(weights=500_000_000)
    """
    sizes = {"weights": weights, "tokens": tokens, "vectors": vectors}
    caches = {"weights": CHECKPOINTS, "tokens": TOKENS, "vectors": VECTORS}
    for name, size in sizes.items():
        if size is None:
            continue
        if not isinstance(size, Integral) or size < 0:
            raise ValueError(f"{name} must be a number of bytes, 0 or more. Got {size!r} instead.")
        caches[name].resize(int(size))
