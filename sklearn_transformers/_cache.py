"""What the process remembers so that it need not be read or computed again, bounded in bytes."""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

__all__ = ["CHECKPOINTS", "TOKENS", "ByteCache", "clear_cache", "set_cache_size"]

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
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get_many(self, keys: Iterable[Hashable]) -> list[Any]:
        """Value of each key, None where there is none."""
        with self._lock:
            return [self._touch(key) for key in keys]

    def put_many(self, values: Mapping[Any, Any]) -> None:
        """Remember values that are never changed afterwards."""
        with self._lock:
            for key, value in values.items():
                if self._touch(key) is None and self.size(value) <= self.max_bytes:
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
            oldest = next(iter(self._values))
            self.n_bytes -= self.size(self._values.pop(oldest))


CHECKPOINTS = ByteCache(2 * 2**30, lambda checkpoint: int(checkpoint.n_bytes))
TOKENS = ByteCache(256 * 2**20, lambda ids: len(ids) + BYTES_PER_ENTRY)


def clear_cache() -> None:
    """Forget the pretrained weights and the tokens that this process has kept.

    Frees the memory, and makes the next `fit` read the model anew: needed only after a model
    on the Hub has changed, because changed files in a folder are noticed.

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


def set_cache_size(*, weights: int | None = None, tokens: int | None = None) -> None:
    """Bound the memory in which this process keeps pretrained weights and tokens.

    In a search or a cross-validation, the pretrained model is read once and each text is
    tokenised once, however many candidates and folds there are. Results are the same, bit by
    bit, with any size. Nothing of this is ever pickled.

    Parameters
    ----------
    weights : int, default=None
        Bytes for pretrained models; 2 GiB at the start. A model that does not fit is read each
        time, 0 keeps none, None leaves the bound as it is.
    tokens : int, default=None
        Bytes for tokenised texts; 256 MiB at the start, enough for about a million short texts.
        The texts themselves are not kept. 0 keeps none, None leaves the bound as it is.

    Raises
    ------
    ValueError
        When a size is negative.

    See Also
    --------
    clear_cache : Forget what is kept now.

    Examples
    --------
    >>> from sklearn_transformers import set_cache_size
    >>> set_cache_size(weights=500_000_000)
    """
    for name, size, cache in (("weights", weights, CHECKPOINTS), ("tokens", tokens, TOKENS)):
        if size is None:
            continue
        if size < 0:
            raise ValueError(f"{name} must be a number of bytes, 0 or more. Got {size!r} instead.")
        cache.resize(int(size))
