import enum
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from sklearn_transformers._targets import ClassCodec

LABELS = {
    "str": ["b", "a", "b", "c"],
    "object": np.array(["b", "a", "b", "c"], dtype=object),
    "5 and 7": [5, 7, 7, 5],
    "-1 and 1": np.array([-1, 1, 1, -1]),
    "bool": [True, False, True, True],
    "integer floats": [1.0, 0.0, 2.0, 1.0],
    "series category": pd.Series(["b", "a", "b", "a"], dtype="category"),
    "series string": pd.Series(["b", "a", "b", "a"], dtype="string"),
    "series odd index": pd.Series([3, 4, 3, 4], index=[9, 9, 9, 1]),
    "uint8": np.array([1, 2, 1, 2], dtype=np.uint8),
}


def test_learn__numpy_string_dtype__is_read_as_text():
    y = np.array(["b", "a", "b"], dtype=np.dtypes.StringDType())
    codec = ClassCodec.learn(y)
    assert codec.classes.tolist() == ["a", "b"]
    assert codec.encode(y[:2], name="y_val").tolist() == [1, 0]


@pytest.mark.parametrize("kind", LABELS)
def test_learn__labels_logistic_regression_takes__gives_its_classes(kind):
    y = LABELS[kind]
    codec = ClassCodec.learn(y)
    reference = LogisticRegression().fit(np.arange(4)[:, None], y)
    np.testing.assert_array_equal(codec.classes, reference.classes_)
    assert codec.classes.dtype == reference.classes_.dtype
    codes = codec.encode(y)
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codec.classes[codes], np.asarray(y))


class Verdict(str, enum.Enum):  # noqa: UP042  (a StrEnum is what NumPy takes it for)
    GOOD = "a good one"
    BAD = "bad"
    BOTH = "both"


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series])
def test_learn__strings_that_are_members_of_an_enum__are_taken_by_value(kind):
    y = [Verdict.GOOD, Verdict.BAD, Verdict.BOTH, "bad"]
    given = np.array(y, dtype=object) if kind is np.array else kind(y)
    codec = ClassCodec.learn(given)
    assert codec.classes.tolist() == ["a good one", "bad", "both"]
    assert codec.encode(given).tolist() == [0, 1, 2, 1]


class Side(enum.Enum):
    LEFT = 1
    RIGHT = 2


REFUSED = {
    "none": (None, "requires y to be passed"),
    "continuous": ([0.5, 1.5, 2.5], "Unknown label type: continuous"),
    "nan": ([1.0, np.nan, 2.0], r"contains NaN.*y\[1\] is nan"),
    "None inside": (["a", None, "b"], r"y\[1\] is None. Drop rows"),
    "pandas NA": (pd.Series(["a", pd.NA, "b"], dtype="string"), r"y\[1\] is <NA>"),
    "multilabel": (np.array([[0, 1], [1, 0]]), "y should be a 1d array"),
    "nested": ([["a", "b"], ["c", "d"]], "y should be a 1d array"),
    "numbers for anything": (np.array([1, 0], object), r"y holds 1 of type int.*y\.astype\(int\)"),
    "bools for anything": (pd.Series([True, False], dtype=object), r"y\.astype\(bool\)"),
    "column of anything": (np.array([[1], [0]], object), r"y holds 1 of type int"),
    "list of members": ([Side.LEFT, Side.RIGHT], r"y holds <Side\.LEFT: 1> of type Side.*first\.$"),
    "string dtype missing": (
        np.array(["a", np.nan], np.dtypes.StringDType(na_object=np.nan)),
        r"y\[1\] is nan",
    ),
    "one str": ("ab", r"y should be a 1d array, or a list of labels. Got 'ab' of type str"),
    "long str": ("ab" * 9999, r"^.{40,160}$"),
    "set": ({"a"}, r"Got \{'a'\} of type set"),
    "keys": ({"a": 1}.keys(), r"Got dict_keys\(\['a'\]\) of type dict_keys"),
    "generator": ((label for label in "ab"), "of type generator"),
    "mixed numbers": ([1, 2.5], "y: Unknown label type"),
    "one class": (["a", "a", "a"], "at least 2 classes.*one class: 'a'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_learn__unusable_labels__are_refused(kind):
    y, message = REFUSED[kind]
    with pytest.raises((ValueError, TypeError), match=message):
        ClassCodec.learn(y)


def test_encode__unknown_labels__are_named():
    codec = ClassCodec.learn(["a", "b"])
    with pytest.raises(ValueError, match=r"\['c', 'd'\] in y_val do not exist in the initial"):
        codec.encode(["a", "d", "c"], name="y_val")


def test_encode__other_type_of_label__is_unknown():
    with pytest.raises(ValueError, match="do not exist"):
        ClassCodec.learn([1, 2]).encode(["1", "2"])


def test_class_weights__balanced__matches_scikit_learn():
    codes = np.array([0, 0, 0, 1])
    weights = ClassCodec.learn(["a", "b"]).class_weights("balanced", codes, np.ones(4))
    np.testing.assert_allclose(weights, [4 / 6, 4 / 2])


def test_class_weights__balanced__weight_two_equals_row_twice():
    codec = ClassCodec.learn(["a", "b"])
    weighted = codec.class_weights("balanced", np.array([0, 1]), np.array([2.0, 1.0]))
    repeated = codec.class_weights("balanced", np.array([0, 0, 1]), np.ones(3))
    np.testing.assert_allclose(weighted, repeated)


def test_class_weights__dict__leaves_others_at_one():
    weights = ClassCodec.learn(["a", "b"]).class_weights({"b": 3}, np.array([0, 1]), np.ones(2))
    np.testing.assert_array_equal(weights, [1, 3])


def test_probabilities__extreme_logits__stay_exact():
    logits = np.array([[0.0, 1000.0], [-1000.0, -1000.0], [3.0, 1.0]], np.float32)
    probabilities = ClassCodec.probabilities(logits)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-15)
    np.testing.assert_allclose(probabilities[:2], [[0, 1], [0.5, 0.5]])
    np.testing.assert_allclose(
        ClassCodec.log_probabilities(logits), log_softmax(logits.astype(float), axis=1)
    )


def through_json(classes):
    return ClassCodec.from_record(**json.loads(json.dumps(ClassCodec(classes).record()))).classes


@pytest.mark.parametrize(
    "labels",
    [["no", "yes"], [0, 1, 7], [0.5, 1.0], [False, True], ["ä", "日本"]],
    ids=["str", "int", "float", "bool", "unicode"],
)
@pytest.mark.parametrize("dtype", [None, object])
def test_labels__through_json__keep_type_and_dtype(labels, dtype):
    classes = np.array(labels, dtype)
    found = through_json(classes)
    assert found.dtype == classes.dtype
    assert found.tolist() == labels
    assert [type(label) for label in found.tolist()] == [type(label) for label in labels]


def test_labels__string_dtype_of_numpy__comes_back():
    classes = np.array(["no", "yes"], dtype="T")
    found = through_json(classes)
    assert found.dtype == classes.dtype
    assert found.tolist() == ["no", "yes"]
