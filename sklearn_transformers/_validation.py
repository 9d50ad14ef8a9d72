"""Texts and weights as the user may give them -> `list[str]` and arrays."""

import re
from collections.abc import Sequence, Sized
from numbers import Real
from typing import Any

import numpy as np

from sklearn_transformers._compat import check_sample_weight
from sklearn_transformers.exceptions import InvalidTextError

__all__ = [
    "check_same_length",
    "check_texts",
    "check_weights",
    "is_missing",
    "listed",
    "renamed",
    "shown",
]

_ACCEPTED = (
    "a list or tuple of str, a 1-D array, a Series, or a DataFrame or 2-D array with one column"
)


def check_texts(X: Any, *, name: str = "X") -> list[str]:
    """Read one text per sample.

    Parameters
    ----------
    X : sequence of str, array-like of shape (n_samples,) or (n_samples, 1)
        List, tuple, NumPy array, pandas or polars Series or one-column DataFrame; any dtype
        and any index, as long as every element is a str.
    name : str, default="X"
        What the error messages call it.

    Returns
    -------
    texts : list of str, length n_samples

    Raises
    ------
    InvalidTextError
        When `X` is no such container, is empty, or holds anything but valid str. The message
        names the first offending row.
    """
    texts = _to_list(X, name)
    if not texts:
        raise InvalidTextError(
            f"Found array with 0 sample(s): {name} is empty while a minimum of 1 text is required."
        )
    for row, text in enumerate(texts):
        if type(text) is not str:
            if not isinstance(text, str):
                raise InvalidTextError(_not_a_text(text, f"{name}[{row}]"))
            texts[row] = str.__str__(text)  # str() of an Enum member would be its name
        if not text.isascii():
            _check_encodable(text, f"{name}[{row}]")
    return texts


def _to_list(X: Any, name: str) -> list[Any]:
    """Any accepted container -> a new list; pandas and polars both go through `__array__`."""
    if isinstance(X, str | bytes):
        raise InvalidTextError(
            f"{name} is one {type(X).__name__}, not a collection of texts. "
            f"For a single text pass a list: [{name}]."
        )
    if hasattr(X, "__array__"):
        if np.ma.is_masked(X):
            raise InvalidTextError(f"{name} is masked in part. Drop or fill missing texts first.")
        array = np.asarray(X, dtype=object)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array.ravel()
        if array.ndim == 2 and array.shape[1] == 0:
            raise InvalidTextError(
                f"Found array with 0 feature(s) (shape={array.shape}) while a minimum of 1 is "
                f"required: {name} needs one column that holds the text."
            )
        if array.ndim != 1:
            columns = getattr(X, "columns", None)
            which = "" if columns is None else f" (columns: {', '.join(map(str, columns))})"
            raise InvalidTextError(
                f"{name} must hold one text per sample, in 1-D or in one column. "
                f"Got a {type(X).__name__} of shape {array.shape}{which}. "
                "Expected a 1D array: select the column that holds the text."
            )
        items: list[Any] = array.tolist()
        return items
    if isinstance(X, Sequence):
        return list(X)
    kind = "sparse " if hasattr(X, "tocsr") else ""
    raise InvalidTextError(f"{name} must be {_ACCEPTED}. Got {kind}{type(X).__name__} instead.")


def _not_a_text(value: Any, where: str) -> str:
    """Name the culprit and the remedy for an element that is no str."""
    if is_missing(value):
        return (
            f"{where} is {value!r}; every text must be a str. Input contains NaN or None: "
            "drop or fill missing texts first."
        )
    if isinstance(value, bytes):
        return f"{where} is bytes; every text must be a str. Decode it first: text.decode('utf-8')."
    if isinstance(value, complex):
        return f"{where} is {value!r}; every text must be a str. Complex data not supported."
    remedy = ""
    if isinstance(value, Real):
        remedy = " Look whether this is the column with the texts, or convert it first: str(value)."
    elif isinstance(value, list | tuple) and value and all(isinstance(item, str) for item in value):
        name = where.partition("[")[0]
        remedy = f" For words: [' '.join(row) for row in {name}]."
        if len(value) == 1:
            remedy = f" For its text: [row[0] for row in {name}]."
    return f"{where} is {shown(value)}; every text must be a str.{remedy}"


def shown(value: Any) -> str:
    """A value and its type, for a message that stays short."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"


def listed(items: list[Any], most: int = 5) -> str:
    """Some values, for a message that stays short."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(repr, items[:most])) + more


def is_missing(value: Any) -> bool:
    """Whether a value stands for "nothing here": None, NaN, pandas' NA or NaT."""
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ in {"NAType", "NaTType"}


def _check_encodable(text: str, where: str) -> None:
    """Refuse lone surrogates here: tokenizers fail on them without naming the row."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidTextError(
            f"{where} holds a lone surrogate ({text[error.start]!a}) at position {error.start}, "
            "which is no valid Unicode text. Clean it first: "
            "text.encode('utf-8', 'replace').decode('utf-8')."
        ) from None


def renamed(error: Exception, pattern: str, name: str) -> Exception:
    """scikit-learn's or NumPy's error about an array, with the user's name for the array.

    scikit-learn knows but one name, which `pattern` finds; NumPy knows none.
    """
    reason = re.sub(pattern, name, str(error))
    kind = TypeError if isinstance(error, TypeError) else ValueError
    is_named = re.search(rf"\b{re.escape(name)}\b", reason)
    return kind(reason if is_named else f"{name}: {reason}")


def check_same_length(X: Sized, y: Sized, names: str) -> None:
    """Refuse texts and labels of unequal number."""
    if len(X) != len(y):
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{len(X)}, {len(y)}] "
            f"({names})."
        )


def check_weights(
    sample_weight: Any, texts: list[str], *, name: str = "sample_weight"
) -> np.ndarray:
    """Read `sample_weight` into float64 of shape (n_samples,), finite and not negative.

    Raises
    ------
    ValueError
        For a wrong length, negative or non-finite weights, or weights that are all zero.
    TypeError
        For what cannot be a number, and for sparse weights.
    """
    try:
        weights = check_sample_weight(
            sample_weight, texts, dtype=np.float64, ensure_non_negative=True
        )
    except (TypeError, ValueError) as error:
        raise renamed(error, "^Sample weights|sample_weight", name) from error
    finite = np.isfinite(weights)
    if not finite.all():  # scikit-learn has been told not to look
        row = int(finite.argmin())
        raise ValueError(f"{name}[{row}] is {weights[row]}; weights must be finite.")
    if not weights.any():
        raise ValueError(f"{name} is zero for every sample: nothing is left to learn from.")
    return np.asarray(weights)
