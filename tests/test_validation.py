import enum

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn import config_context

from sklearn_transformers import InvalidTextError
from sklearn_transformers._validation import check_same_length, check_texts, check_weights

TEXTS = ["one", "twö", ""]

ACCEPTED = {
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "str array": np.array(TEXTS),
    "object array": np.array(TEXTS, dtype=object),
    "numpy string dtype": np.array(TEXTS, dtype=np.dtypes.StringDType()),
    "column array": np.array(TEXTS)[:, None],
    "list of np.str_": list(np.array(TEXTS)),
    "series object": pd.Series(TEXTS, dtype=object),
    "series str": pd.Series(TEXTS, dtype="str"),
    "series string": pd.Series(TEXTS, dtype="string"),
    "series pyarrow": pd.Series(TEXTS, dtype="string[pyarrow]"),
    "series arrow dtype": pd.Series(TEXTS).astype("large_string[pyarrow]"),
    "series category": pd.Series(TEXTS, dtype="category"),
    "series odd index": pd.Series(TEXTS, index=[7, 7, -1]),
    "series date index": pd.Series(TEXTS, index=pd.date_range("2020", periods=3)),
    "frame": pd.DataFrame({"text": TEXTS}, index=["x", "y", "z"]),
    "frame string": pd.DataFrame({"text": TEXTS}, dtype="string"),
    "polars series": pl.Series(TEXTS),
    "polars categorical": pl.Series(TEXTS, dtype=pl.Categorical),
    "polars frame": pl.DataFrame({"text": TEXTS}),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_check_texts__accepted_container__gives_plain_strings(kind):
    texts = check_texts(ACCEPTED[kind])
    assert texts == TEXTS
    assert all(type(text) is str for text in texts)


def test_check_texts__list__is_not_the_callers_list():
    given = [np.str_("a"), "b"]
    check_texts(given).append("c")
    assert type(given[0]) is np.str_
    assert len(given) == 2


@pytest.mark.parametrize("container", [list, tuple, lambda X: np.array(X, dtype=object)])
def test_check_texts__strings_of_python__are_not_copied(container):
    X = ["".join(["a text ", str(i)]) for i in range(3)]
    assert all(text is given for text, given in zip(check_texts(container(X)), X, strict=True))


REFUSED = {
    "bare str": ("one text", "X is one str"),
    "bare bytes": (b"one text", "X is one bytes"),
    "dict": ({"a": "b"}, "Got dict instead"),
    "set": ({"a", "b"}, "Got set instead"),
    "generator": ((t for t in TEXTS), "Got generator instead"),
    "number": (3, "Got int instead"),
    "none": (None, "Got NoneType instead"),
    "sparse": (sparse.csr_matrix((2, 2)), "Got sparse csr_matrix instead"),
    "empty list": ([], "0 sample"),
    "empty array": (np.array([], dtype=object), "0 sample"),
    "empty series": (pd.Series([], dtype=object), "0 sample"),
    "2-D": (np.array([["a", "b"]]), r"shape \(1, 2\)"),
    "two columns": (pd.DataFrame({"title": ["a"], "body": ["b"]}), "columns: title, body"),
    "3-D": (np.array([[["a"]]]), r"shape \(1, 1, 1\)"),
    "0-D": (np.array("a"), r"shape \(\)"),
    "None inside": (["a", None], r"X\[1\] is None; every text must be a str.*drop or fill"),
    "nan inside": (["a", float("nan")], r"X\[1\] is nan"),
    "pandas NA": (pd.Series(["a", pd.NA], dtype="string"), r"X\[1\] is <NA>.*drop or fill"),
    "pandas missing str": (pd.Series(["a", None], dtype="str"), r"X\[1\] is (nan|None)"),
    "polars null": (pl.Series(["a", None]), r"X\[1\] is None"),
    "int inside": (["a", 3], r"X\[1\] is 3 of type int.*str\(value\)"),
    "list inside": ([["a"], ["b"]], r"X\[0\] is \['a'\] of type list.*row\[0\] for row in X"),
    "numbers inside": (
        [[0.1, 0.2]],
        r"X\[0\] is \[0\.1, 0\.2\] of type list; every text must be a str\.$",
    ),
    "words inside": ([("a", "b")], r"X\[0\] is \('a', 'b'\) of type tuple.*' '\.join\(row\)"),
    "bytes inside": (["a", b"b"], r"X\[1\] is bytes.*decode"),
    "numbers": (np.array([1.5, 2.5]), r"X\[0\] is 1.5 of type float"),
    "lone surrogate": (["a", "b\ud800c"], r"X\[1\] holds a lone surrogate.*position 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_check_texts__refused__names_culprit(kind):
    X, message = REFUSED[kind]
    with pytest.raises(InvalidTextError, match=message):
        check_texts(X)


def test_check_texts__members_of_a_str_enum__are_their_values():
    class Color(str, enum.Enum):  # noqa: UP042
        RED = "red"

    assert check_texts([Color.RED]) == ["red"]


def test_check_texts__masked_array__is_refused():
    with pytest.raises(InvalidTextError, match="masked"):
        check_texts(np.ma.masked_array(["a", "b"], mask=[False, True]))


def test_invalid_text_error__is_value_and_type_error():
    assert issubclass(InvalidTextError, ValueError)
    assert issubclass(InvalidTextError, TypeError)


def test_check_texts__name__is_used_in_message():
    with pytest.raises(InvalidTextError, match=r"X_val\[0\] is None"):
        check_texts([None], name="X_val")


def test_check_texts__long_culprit__is_shortened():
    with pytest.raises(InvalidTextError) as caught:
        check_texts([list(range(1000))])
    assert len(str(caught.value)) < 150


def test_check_weights__none__is_ones():
    np.testing.assert_array_equal(check_weights(None, TEXTS), np.ones(3))


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1, 2], "sample_weight"), ([1, -1, 1], "[Nn]egative"), ([1, np.nan, 1], "NaN")],
)
def test_check_weights__unusable__says_so(weights, message):
    with pytest.raises(ValueError, match=message):
        check_weights(weights, TEXTS)


def test_check_weights__scikit_learn_told_not_to_look__are_finite_all_the_same():
    with config_context(assume_finite=True):
        with pytest.raises(ValueError, match=r"w\[1\] is nan; weights must be finite"):
            check_weights([1.0, np.nan, 1.0], TEXTS, name="w")
        with pytest.raises(ValueError, match=r"w\[2\] is inf"):
            check_weights([1.0, 1.0, np.inf], TEXTS, name="w")


def test_check_weights__all_zero__says_so():
    with pytest.raises(ValueError, match="zero"):
        check_weights([0, 0, 0], TEXTS)


def test_check_same_length__different__gives_both():
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[3, 2\]"):
        check_same_length(TEXTS, [1, 2], "X, y")
