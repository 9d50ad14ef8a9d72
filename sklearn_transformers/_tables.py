"""Tables of numbers -> texts, for scikit-learn's checks."""

from numbers import Complex, Real
from typing import Any

import numpy as np

__all__ = ["rows_to_texts", "translate"]

N_BINS = 64
BIN_WIDTH = 0.25

# From here on: what scikit-learn wants to read when an estimator refuses a table.
MISSING = "Input X contains NaN or infinity"
NO_NUMBER = "argument must be a string or a real number"
ONE_ROW = "Expected 2D array, got 1D array instead. Reshape your data"
NO_COLUMNS = "Found array with 0 feature(s) (shape=({}, 0)) while a minimum of 1 is required"
COMPLEX = "Complex data not supported"
SPARSE = "Sparse data was passed, but dense data is required"


def rows_to_texts(X: Any) -> list[Any]:
    """Turn each row of a table of numbers into a text.

    Every column contributes one word, which names the column and the bin of width 0.25 that
    the number is in. Bins are counted modulo 64, so a column has 64 words: enough for a linear
    model on a bag of words to learn from, few enough for a tiny tokenizer to know them all.
    A row with NaN becomes NaN, one with infinity None, and one with something that is no real
    number becomes that thing.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Numbers; any array or nested list.

    Returns
    -------
    texts : list of str, length n_samples
        Or whatever stands for a text in rows that are not numbers throughout.

    Examples
    --------
    >>> from sklearn_transformers.testing import rows_to_texts
    >>> rows_to_texts([[0.0, 1.3], [100.0, -0.2]])
    ['c0b00 c1b05', 'c0b16 c1b63']
    """
    return [_text(row) for row in np.asarray(X, dtype=object)]


def _text(row: np.ndarray) -> Any:
    for value in row:
        if not isinstance(value, Real):
            return value
    numbers = np.asarray(row, dtype=np.float64)
    if not np.isfinite(numbers).all():
        return np.nan if np.isnan(numbers).any() else None
    bins = np.floor(numbers / BIN_WIDTH) % N_BINS
    return " ".join(f"c{column}b{int(number):02d}" for column, number in enumerate(bins))


def translate(X: Any) -> tuple[Any, int | None, str | None]:
    """Turn what a check passes as `X` into what an estimator of texts gets.

    Parameters
    ----------
    X : object
        A table of numbers, a malformed one, or texts.

    Returns
    -------
    texts : object
        Texts, malformed texts, or `X` itself.
    n_columns : int or None
        Of the table, if it is one of numbers.
    complaint : str or None
        What a check wants to read when the estimator refuses the malformed `X`.
    """
    if isinstance(X, str):
        return X, None, None
    if hasattr(X, "tocsr"):  # sparse, of whatever kind
        return X, None, SPARSE
    cells = np.asarray(X, dtype=object)
    kinds = [type(cell) for cell in cells.flat]
    n_real = sum(issubclass(kind, Real) for kind in kinds)
    if cells.ndim == 1 and n_real == len(kinds) > 0:
        return _text(cells), None, ONE_ROW
    if cells.ndim != 2:
        return X, None, None
    n_rows, n_columns = cells.shape
    if n_columns == 0:
        return X, None, NO_COLUMNS.format(n_rows)
    if n_rows > 0 and not n_real:
        return X, None, COMPLEX if any(issubclass(kind, Complex) for kind in kinds) else None
    texts = rows_to_texts(cells)
    complaint = MISSING if n_real == len(kinds) else NO_NUMBER
    well_formed = all(isinstance(text, str) for text in texts)
    return _like(X, texts), n_columns, None if well_formed else complaint


def _like(X: Any, texts: list[Any]) -> Any:
    """Texts in the container that corresponds to that of the table `X`."""
    if isinstance(X, list | tuple):
        return texts
    if hasattr(X, "iloc"):
        return type(X.iloc[:, 0])(texts, index=X.index)
    array = np.empty(len(texts), dtype=object)
    array[:] = texts
    array.flags.writeable = not isinstance(X, np.ndarray) or X.flags.writeable
    return array
