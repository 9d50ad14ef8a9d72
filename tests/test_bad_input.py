"""Whatever is passed in: a documented error that names the culprit, or a documented answer.

The tables of texts, labels and parameters are those of the modules that read them. Here they go
through every method, must end in the package's own checks or scikit-learn's, and leave the
estimator as it was.
"""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import toy_texts
from scipy import sparse
from test_classifier import BAD_VALUES
from test_targets import REFUSED as BAD_LABELS
from test_validation import REFUSED as BAD_TEXTS

from sklearn_transformers import InvalidTextError, PretrainedModelError, TransformerTextClassifier
from sklearn_transformers._compat import InvalidParameterError

X, Y = toy_texts(4)
EVERY_PARAMETER = sorted(TransformerTextClassifier().get_params())


@pytest.fixture(scope="module")
def trained(checkpoints):
    """A classifier of the labels "no" and "yes"; refusals leave it as it is."""
    clf = TransformerTextClassifier(
        checkpoints["bert"], tuning="full", head_init="random", early_stopping=False, max_epochs=1
    )
    return clf.set_params(device="cpu", precision="float32", random_state=0, verbose=0).fit(X, Y)


def state_of(clf):
    """All attributes, and the weights as they are now."""
    model = vars(clf).get("model_")
    weights = {} if model is None else {n: w.clone() for n, w in model.state_dict().items()}
    return dict(vars(clf)), weights


def refuse(clf, call, kind, message):
    """`call` must raise exactly this kind of error, in words of ours or of scikit-learn's."""
    attributes, weights = state_of(clf)
    with pytest.raises(kind, match=message) as caught:
        call()
    assert caught.type is kind
    innermost = caught.traceback[-1].frame.f_globals["__name__"]
    assert innermost.split(".")[0] in {"sklearn_transformers", "sklearn"}
    now, weights_now = state_of(clf)
    assert now == attributes
    assert all(weights[name].equal(weights_now[name]) for name in weights)


# --- texts -----------------------------------------------------------------------------------

READERS = {
    "fit": lambda clf, texts: clf.fit(texts, Y),
    "fit, X_val": lambda clf, texts: clf.fit(X, Y, X_val=texts, y_val=Y),
    "partial_fit": lambda clf, texts: clf.partial_fit(texts, Y),
    "predict": lambda clf, texts: clf.predict(texts),
    "predict_proba": lambda clf, texts: clf.predict_proba(texts),
    "predict_log_proba": lambda clf, texts: clf.predict_log_proba(texts),
    "decision_function": lambda clf, texts: clf.decision_function(texts),
    "transform": lambda clf, texts: clf.transform(texts),
    "score": lambda clf, texts: clf.score(texts, Y),
}
CASES_OF_TEXTS = [
    (reader, kind)
    for reader in READERS
    for kind in BAD_TEXTS
    if (reader, kind) != ("fit, X_val", "none")  # means that there is none
]


@pytest.mark.parametrize(("reader", "kind"), CASES_OF_TEXTS)
def test_texts__unreadable__are_refused_by_name(trained, reader, kind):
    texts, message = BAD_TEXTS[kind]
    message = message.replace("X", "X_val") if reader == "fit, X_val" else message
    refuse(trained, lambda: READERS[reader](trained, texts), InvalidTextError, message)


@pytest.mark.parametrize("reader", ["fit", "fit, X_val", "partial_fit"])
def test_texts__another_number_than_labels__are_refused_with_both(trained, reader):
    suffix = "_val" if reader == "fit, X_val" else ""
    message = rf"inconsistent numbers of samples: \[3, 4\] \(X{suffix}, y{suffix}\)"
    refuse(trained, lambda: READERS[reader](trained, X[:3]), ValueError, message)


STRANGE_TEXTS = {
    "empty": "",
    "only spaces": " \t\r\n\u00a0\u2003 ",
    "NUL inside": "good\0film",
    "only NUL": "\0",
    "right to left": "טוב \u202bسرور\u202c good",
    "emoji": "👩\u200d👩\u200d👧 🏳️\u200d🌈 👍🏽",
    "zero width": "\u200b\ufeff",
    "combining": "e" + "\u0301" * 500,
    "noncharacter": "\uffff\U0010ffff",
    "control": "".join(map(chr, range(32))),
    "one long word": "a" * 100_000,
}


def test_strange_texts__among_others__are_answered_as_alone(trained):
    texts = [*STRANGE_TEXTS.values(), *X]
    together = trained.predict_proba(texts)
    assert np.isfinite(together).all()
    alone = np.vstack([trained.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn_transformers.TextDataWarning")
def test_strange_texts__training__takes_them(make):
    texts = [*STRANGE_TEXTS.values(), "good"]
    clf = make(max_epochs=1, early_stopping=False).fit(texts, [0, 1] * 6)
    assert np.isfinite(clf.predict_proba(texts)).all()


def test_strange_texts__only_spaces__are_as_the_empty_text(trained):
    empty, spaces = trained.predict_proba(["", STRANGE_TEXTS["only spaces"]])
    np.testing.assert_array_equal(spaces, empty)


def test_strange_texts__a_million_characters__are_read_up_to_max_length(trained):
    huge, its_beginning = trained.predict_proba(["good film " * 10**5, "good film " * 200])
    np.testing.assert_array_equal(huge, its_beginning)


# --- labels ----------------------------------------------------------------------------------

# kind -> labels, error, and its message, in which {name} is what the user calls the labels.
MORE_BAD_LABELS = {
    "infinite": ([0.0, np.inf, 1.0, 0.0], ValueError, "Input {name} contains infinity"),
    "NaT": ([0, pd.NaT, 1, 0], ValueError, r"{name}\[1\] is NaT. Drop rows"),
    "masked": (np.ma.masked_array([0, 1, 0, 1], [0, 1, 0, 0]), ValueError, "{name} is masked"),
    "ragged": ([["a"], ["b", "c"], "a", "b"], ValueError, r"{name}\[0\] is \['a'\] of type list"),
    "a set inside": (["a", {"b"}, "a", "b"], ValueError, r"{name}\[1\] is {{'b'}} of type set"),
    "str and int": (["no", 1, "no", 1], ValueError, r"{name} mixes .*\[0\] is 'no', {name}\[1\]"),
    "int and str": (
        np.array([1, "no", 1, 1], object),
        ValueError,
        r"{name} mixes str and others.*Give all labels the same type",
    ),
    "3-D": (np.zeros((4, 1, 1)), ValueError, "{name}.*dim 3"),
    "one str": ("no", ValueError, "{name} should be a 1d array.*Got 'no' of type str"),
    "number": (3, ValueError, "{name} should be a 1d array"),
    "dict": ({"no": 1}, ValueError, "{name} should be a 1d array"),
    "generator": ((label for label in Y), ValueError, "{name} should be a 1d array"),
    "complex": ([1j, 2j, 1j, 2j], ValueError, "Complex data not supported"),
    "bytes": ([b"no", b"yes"] * 2, TypeError, "bytes is not supported"),
    "sparse": (sparse.csr_matrix(np.eye(4)), TypeError, "Sparse data was passed for {name}"),
    "objects": ([object(), object()] * 2, ValueError, "Unknown label type"),
    "empty": ([], ValueError, r"{name} is empty \(shape=\(0,\)\)"),
    "no column": (np.empty((4, 0)), ValueError, r"{name} is empty \(shape=\(4, 0\)\)"),
}
LABELLED = {
    "fit": ("y", lambda clf, y: clf.fit(X, y)),
    "fit, y_val": ("y_val", lambda clf, y: clf.fit(X, Y, X_val=X, y_val=y)),
    "partial_fit": ("y", lambda clf, y: clf.partial_fit(X, y)),
    "partial_fit, classes": ("classes", lambda clf, y: clf.partial_fit(X, Y, classes=y)),
    "add_classes": ("classes", lambda clf, y: clf.add_classes(y)),
}


@pytest.mark.parametrize("kind", MORE_BAD_LABELS)
@pytest.mark.parametrize("method", LABELLED)
def test_labels__unusable__are_refused_by_name(trained, method, kind):
    labels, error, message = MORE_BAD_LABELS[kind]
    name, call = LABELLED[method]
    refuse(trained, lambda: call(trained, labels), error, message.format(name=name))


NOT_ONE_KIND_OF_LABEL = ["continuous", "nan", "None inside", "pandas NA", "multilabel", "nested"]


@pytest.mark.parametrize("kind", NOT_ONE_KIND_OF_LABEL)
@pytest.mark.parametrize("method", LABELLED)
def test_labels__no_labels_at_all__are_refused_in_every_place(trained, method, kind):
    labels, message = BAD_LABELS[kind]
    name, call = LABELLED[method]
    message = re.sub(r"\by\b", name, message)
    refuse(trained, lambda: call(trained, labels), ValueError, message)


def test_labels__first_classes__are_called_classes(make):
    clf = make()
    message = "classes mixes str and others"
    refuse(clf, lambda: clf.partial_fit(X, Y, classes=["no", 1]), ValueError, message)
    message = "contains only one class: 'no'"
    refuse(clf, lambda: clf.partial_fit(X, Y, classes=["no"]), ValueError, message)
    message = "classes must be passed on the first call"
    refuse(clf, lambda: clf.partial_fit(X, Y), ValueError, message)


def test_labels__that_hardly_repeat__are_not_taken_for_numbers(make):
    texts, _ = toy_texts(30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = make().partial_fit(texts, range(30), classes=range(30))
        clf.partial_fit(texts, range(30), classes=range(30))
    assert len(clf.classes_) == 30


# --- weights ---------------------------------------------------------------------------------

BAD_WEIGHTS = {
    "str": (["a"] * 4, ValueError, "{name}: could not convert string to float: 'a'"),
    "None inside": ([1, None, 1, 1], ValueError, "Input {name} contains NaN"),
    "infinite": ([1, np.inf, 1, 1], ValueError, "Input {name} contains infinity"),
    "negative": ([1, -1, 1, 1], ValueError, "Negative values in data passed to `{name}`"),
    "all zero": ([0] * 4, ValueError, "{name}.*zero"),
    "column": (np.ones((4, 1)), ValueError, "{name} must be 1D array or scalar, got 2D array"),
    "too few": ([1, 1], ValueError, r"{name}.shape == \(2,\), expected \(4,\)"),
    "empty": ([], ValueError, r"{name}: Found array with 0 sample\(s\)"),
    "ragged": ([[1], [1, 2], 1, 1], ValueError, "{name}: setting an array element"),
    "complex": ([1j] * 4, TypeError, "{name}: .*not 'complex'"),
    "dict": ({0: 1}, TypeError, "{name}: .*not 'dict'"),
    "sparse": (sparse.csr_matrix(np.eye(4)), TypeError, "Sparse data was passed for {name}"),
}
WEIGHTED = {
    "fit": ("sample_weight", lambda clf, w: clf.fit(X, Y, sample_weight=w)),
    "fit, sample_weight_val": (
        "sample_weight_val",
        lambda clf, w: clf.fit(X, Y, X_val=X, y_val=Y, sample_weight_val=w),
    ),
    "partial_fit": ("sample_weight", lambda clf, w: clf.partial_fit(X, Y, sample_weight=w)),
}


@pytest.mark.parametrize("kind", BAD_WEIGHTS)
@pytest.mark.parametrize("method", WEIGHTED)
def test_weights__unusable__are_refused_by_name(trained, method, kind):
    weights, error, message = BAD_WEIGHTS[kind]
    name, call = WEIGHTED[method]
    refuse(trained, lambda: call(trained, weights), error, message.format(name=name))


# --- parameters ------------------------------------------------------------------------------

NO_PARAMETER = {
    "object": object(),
    "bytes": b"1",
    "complex": 1j,
    "nan": float("nan"),
    "minus infinity": -np.inf,
    "array": np.array([1.0, 2.0]),
}


def test_parameters__constraints__are_there_for_every_one():
    assert sorted(TransformerTextClassifier._parameter_constraints) == EVERY_PARAMETER


@pytest.mark.parametrize("value", NO_PARAMETER.values(), ids=NO_PARAMETER)
@pytest.mark.parametrize("name", EVERY_PARAMETER)
def test_parameter__of_a_type_that_none_takes__is_named_with_its_value(make, name, value):
    clf = make().set_params(**{name: value})
    message = f"(?s)The '{name}' parameter of Transf.* must be .*Got {re.escape(repr(value))}"
    refuse(clf, lambda: clf.fit(X, Y), InvalidParameterError, message)
    refuse(clf, lambda: clf.partial_fit(X, Y, classes=Y), InvalidParameterError, message)


@pytest.fixture
def changed(trained):
    """Set parameters of the trained classifier for one test."""
    before = trained.get_params()
    yield trained.set_params
    trained.set_params(**before)


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_partial_fit__bad_parameter_of_a_fitted_one__is_named_with_its_value(changed, name, value):
    clf = changed(**{name: value})
    message = f"(?s)The '{name}' parameter of Transf.* must be .*Got {re.escape(repr(value))}"
    refuse(clf, lambda: clf.partial_fit(X, Y), InvalidParameterError, message)


@pytest.mark.parametrize("value", ["half", None, *NO_PARAMETER.values()])
@pytest.mark.parametrize("reader", ["predict", "transform", "score"])
def test_predict_precision__changed_to_nothing_known__is_named_with_its_value(
    changed, reader, value
):
    clf = changed(predict_precision=value)
    message = f"'predict_precision' parameter of Transf.*Got {re.escape(repr(value))}"
    refuse(clf, lambda: READERS[reader](clf, X), InvalidParameterError, message)


UNUSABLE = {
    "class_weight of str": ({"class_weight": {"no": "a"}}, ValueError, "class_weight={'no': 'a'}"),
    "class_weight of lists": ({"class_weight": {"no": [1]}}, ValueError, "class_weight={'no'"),
    "class_weight of None": ({"class_weight": {"no": None}}, ValueError, "class_weight must be"),
    "class_weight of NaN": ({"class_weight": {"no": np.nan}}, ValueError, "class_weight must be"),
    "no name of a model": ({"model": ""}, PretrainedModelError, "model='' could not be loaded"),
    "NUL in a name": ({"model": "a\0b"}, PretrainedModelError, r"model='a\\x00b' could not"),
    "surrogate in a name": ({"model": "\ud800"}, PretrainedModelError, "could not be loaded"),
    "no callbacks": ({"callbacks": [3]}, TypeError, r"callbacks\[0\] is 3; every callback must"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_fit__parameter_that_only_looks_right__is_named_with_its_value(make, kind):
    parameters, error, message = UNUSABLE[kind]
    clf = make(**parameters)
    refuse(clf, lambda: clf.fit(X, Y), error, message)
