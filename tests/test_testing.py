"""The checks pass on sound text estimators and name what is wrong with unsound ones."""

import inspect
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.exceptions import EstimatorCheckFailedWarning, SkipTestWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from sklearn_transformers.testing import (
    adapt_text_estimator,
    check_text_estimator,
    rows_to_texts,
)


def run(estimator):
    """Records of all checks; nothing raised."""
    return check_text_estimator(estimator, on_fail=None, on_skip=None)


def names(records, status):
    return {record["check_name"] for record in records if record["status"] == status}


class Sound(ClassifierMixin, BaseEstimator):
    """Logistic regression on words, as a text classifier should be written."""

    def __init__(self, C=1.0):
        self.C = C

    def fit(self, X, y, sample_weight=None):
        self.words_ = CountVectorizer().fit(X)
        model = LogisticRegression(C=self.C, solver="newton-cholesky", tol=1e-12)
        self.model_ = model.fit(self.words_.transform(X), y, sample_weight)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X):
        codes = self.predict_proba(X).argmax(axis=1)
        return self.classes_[codes]

    def predict_proba(self, X):
        check_is_fitted(self)
        return self.model_.predict_proba(self.words_.transform(X))

    def decision_function(self, X):
        check_is_fitted(self)
        return self.model_.decision_function(self.words_.transform(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


class AsksToBeSkipped(Sound):
    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags._skip_test = True
        return tags


class ChangesParameter(Sound):
    def fit(self, X, y, sample_weight=None):
        self.C = float(self.C) + 1.0
        return super().fit(X, y, sample_weight)


class SetsMoreInInit(Sound):
    def __init__(self, C=1.0):
        super().__init__(C)
        self.words = []


class RefusesInInit(Sound):
    def __init__(self, C=1.0):
        if not isinstance(C, float):
            raise TypeError(f"C must be a float. Got {C!r} instead.")
        super().__init__(C)


class FitReturnsNothing(Sound):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)


class IgnoresWeights(Sound):
    def fit(self, X, y, sample_weight=None):
        return super().fit(X, y)


class IsNotDeterministic(Sound):
    def predict_proba(self, X):
        return super().predict_proba(X) * np.random.default_rng().uniform(0.9, 1.1)


class LearnsOnInSecondFit(Sound):
    def fit(self, X, y, sample_weight=None):
        earlier = getattr(self, "earlier_", ([], []))
        self.earlier_ = (earlier[0] + list(X), earlier[1] + list(np.ravel(y)))
        return super().fit(*self.earlier_)


class CutsToShorter(Sound):
    def fit(self, X, y, sample_weight=None):
        n_rows = min(len(X), len(y))
        return super().fit(X[:n_rows], y[:n_rows], sample_weight)


class AnswersCodes(Sound):
    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)


class JudgesByCompany(Sound):
    def predict_proba(self, X):
        probabilities = super().predict_proba(X)
        return probabilities - probabilities.mean(axis=0)


class JudgesByPosition(Sound):
    def predict_proba(self, X):
        return super().predict_proba(X) * np.arange(1, len(X) + 1)[:, None]


class KeepsWhatItPredicts(Sound):
    def predict(self, X):
        labels = super().predict(X)
        self.last_ = X
        return labels


class PredictsUnfitted(Sound):
    def predict_proba(self, X):
        if not hasattr(self, "model_"):
            return np.full((len(X), 2), 0.5)
        return super().predict_proba(X)


class ReadsAnythingAsText(Sound):
    def fit(self, X, y, sample_weight=None):
        return super().fit([str(text) for text in X], y, sample_weight)

    def predict_proba(self, X):
        return super().predict_proba([str(text) for text in X])


class ReadsOneTextAsMany(Sound):
    def predict_proba(self, X):
        return super().predict_proba(list(X))


class WritesToX(Sound):
    def fit(self, X, y, sample_weight=None):
        for row, text in enumerate(X):
            X[row] = text.upper()
        return super().fit(X, y, sample_weight)


class ForgetsOnPickling(Sound):
    def __getstate__(self):
        return {**super().__getstate__(), "model_": None}


class TransformsDifferently(TransformerMixin, Sound):
    def transform(self, X):
        return self.predict_proba(X)

    def fit_transform(self, X, y, sample_weight=None):
        return self.fit(X, y, sample_weight).predict_proba(X)[:, ::-1]


CAUGHT_BY = {
    ChangesParameter: "check_dont_overwrite_parameters",
    SetsMoreInInit: "check_no_attributes_set_in_init",
    RefusesInInit: "check_do_not_raise_errors_in_init_or_set_params",
    FitReturnsNothing: "check_estimators_fit_returns_self",
    IgnoresWeights: "check_sample_weight_equivalence_on_dense_data",
    IsNotDeterministic: "check_fit_idempotent",
    LearnsOnInSecondFit: "check_fit_idempotent",
    CutsToShorter: "check_classifiers_train",
    AnswersCodes: "check_classifiers_classes",
    JudgesByCompany: "check_methods_subset_invariance",
    JudgesByPosition: "check_methods_sample_order_invariance",
    KeepsWhatItPredicts: "check_dict_unchanged",
    PredictsUnfitted: "check_estimators_unfitted",
    ReadsAnythingAsText: "check_estimators_nan_inf",
    ReadsOneTextAsMany: "check_fit2d_predict1d",
    WritesToX: "check_readonly_memmap_input",
    ForgetsOnPickling: "check_estimators_pickle",
    TransformsDifferently: "check_transformer_general",
}


@pytest.mark.parametrize("sound", [Sound, AsksToBeSkipped])
def test_check__sound_classifier__passes_every_check(sound):
    with pytest.warns(SkipTestWarning, match="Can't test estimator"):
        assert len(check_estimator(sound())) == 1  # scikit-learn's own, for want of texts
    records = run(sound())
    assert names(records, "failed") == set()
    assert names(records, "xfail") == set()
    assert sum(record["status"] == "passed" for record in records) >= 57


@pytest.mark.parametrize("broken", CAUGHT_BY, ids=lambda broken: broken.__name__)
def test_check__broken_classifier__fails_the_check_for_it(broken):
    assert CAUGHT_BY[broken] in names(run(broken()), "failed")


def test_check__tfidf_and_logistic_regression__passes():
    records = check_text_estimator(
        make_pipeline(TfidfVectorizer(), LogisticRegression()), on_skip=None
    )
    assert sum(record["status"] == "passed" for record in records) >= 51
    # Not excused for nothing: these do fail.
    assert names(records, "xfail") == {
        "check_dont_overwrite_parameters",
        "check_estimators_overwrite_params",
    }


def test_check__on_fail_raise__raises_what_the_check_raised():
    with pytest.raises(AssertionError, match="changes __dict__ during predict"):
        check_text_estimator(KeepsWhatItPredicts(), on_skip=None)


def test_check__on_fail_warn__warns_and_goes_on():
    with pytest.warns(EstimatorCheckFailedWarning, match="check_dict_unchanged"):
        records = check_text_estimator(KeepsWhatItPredicts(), on_fail="warn", on_skip=None)
    assert len(records) > 57


def test_check__expected_failure__is_marked_and_called_back():
    seen = []
    records = check_text_estimator(
        KeepsWhatItPredicts(),
        expected_failed_checks={"check_dict_unchanged": "it keeps the last texts"},
        on_fail=None,
        on_skip=None,
        callback=lambda **record: seen.append(record),
    )
    assert names(records, "failed") == set()
    assert names(records, "xfail") == {"check_dict_unchanged"}
    assert seen == records


def test_adapt__class__is_refused():
    with pytest.raises(TypeError, match=r"class Sound; pass an instance: Sound\(\)"):
        check_text_estimator(Sound)


def test_adapt__estimator__stays_as_it_was():
    estimator = Sound(C=2.0)
    twin = adapt_text_estimator(estimator)
    twin.fit([[0.0], [1.0]], [0, 1])
    assert type(estimator) is Sound
    assert vars(estimator) == {"C": 2.0}
    assert isinstance(twin, Sound)
    assert repr(twin) == "Sound(C=2.0)"
    assert clone(twin).C == 2.0


def test_adapt__methods__are_there_when_the_estimator_has_them():
    with_proba = make_pipeline(CountVectorizer(), MultinomialNB())
    with_decisions = make_pipeline(CountVectorizer(), LinearSVC())
    for estimator in (Sound(), with_proba, with_decisions):
        twin = adapt_text_estimator(estimator)
        for name in ("predict", "predict_proba", "decision_function", "transform", "partial_fit"):
            assert hasattr(twin, name) == hasattr(estimator, name), name
    assert hasattr(adapt_text_estimator(with_proba), "predict_proba")
    assert not hasattr(adapt_text_estimator(with_decisions), "predict_proba")


def test_adapt__signatures__are_the_estimators():
    twin = adapt_text_estimator(Sound())
    assert has_fit_parameter(twin, "sample_weight")
    for name in ("fit", "predict", "score"):
        assert inspect.signature(getattr(twin, name)) == inspect.signature(getattr(Sound(), name))


def test_adapt__pickling__keeps_class_and_answers():
    X = np.array([[0.0, 1.0], [2.0, 3.0]])
    twin = adapt_text_estimator(Sound()).fit(X, ["low", "high"])
    loaded = pickle.loads(pickle.dumps(twin))
    assert type(loaded) is type(twin)
    assert loaded.predict(X).tolist() == ["low", "high"]


class Recorder(BaseEstimator):
    """Keeps what it gets."""

    def fit(self, X, y=None):
        self.got_ = X
        return self


FIRST, SECOND = "c0b00 c1b04", "c0b08 c1b12"
TABLE = np.array([[0.0, 1.0], [2.0, 3.0]])
TRANSLATED = {
    "list": (TABLE.tolist(), [FIRST, SECOND]),
    "array": (TABLE, np.array([FIRST, SECOND], dtype=object)),
    "float32 array": (TABLE.astype(np.float32), np.array([FIRST, SECOND], dtype=object)),
    "objects that are numbers": (TABLE.astype(object), np.array([FIRST, SECOND], dtype=object)),
    "DataFrame": (
        pd.DataFrame(TABLE, index=[7, 3]),
        pd.Series([FIRST, SECOND], index=[7, 3]),
    ),
    "one row": (TABLE[0], FIRST),
    "NaN": ([[0.0, np.nan], [2.0, 3.0]], [np.nan, SECOND]),
    "infinity": ([[0.0, np.inf], [2.0, 3.0]], [None, SECOND]),
    "an object that is no number": ([[0.0, {"a": 1}], [2.0, 3.0]], [{"a": 1}, SECOND]),
    "no rows": ([[], []][:0], []),
}


@pytest.mark.parametrize("kind", TRANSLATED)
def test_adapt__table__arrives_as_texts(kind):
    table, expected = TRANSLATED[kind]
    got = adapt_text_estimator(Recorder()).fit(table).got_
    assert type(got) is type(expected)
    if isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(got, expected)
    else:
        np.testing.assert_equal(got, expected)


HANDED_ON = {
    "texts": [FIRST, SECOND],
    "texts, one missing": [np.nan, SECOND],
    "one text": FIRST,
    "array of texts": np.array([FIRST, SECOND]),
    "column of texts": np.array([[FIRST], [SECOND]]),
    "complex": np.array([[1 + 1j], [2 + 2j]]),
    "sparse": sparse.csr_array(TABLE),
    "three dimensions": np.zeros((2, 2, 2)),
    "no columns": np.zeros((2, 0)),
    "None": None,
}


@pytest.mark.parametrize("kind", HANDED_ON)
def test_adapt__anything_else__arrives_as_it_is(kind):
    assert adapt_text_estimator(Recorder()).fit(HANDED_ON[kind]).got_ is HANDED_ON[kind]


def test_adapt__read_only_table__arrives_read_only():
    table = TABLE.copy()
    assert adapt_text_estimator(Recorder()).fit(table).got_.flags.writeable
    table.flags.writeable = False
    assert not adapt_text_estimator(Recorder()).fit(table).got_.flags.writeable


def test_adapt__refusal__says_both_what_was_wrong_and_what_the_estimator_said():
    twin = adapt_text_estimator(Sound())
    with pytest.raises(ValueError, match=r"contains NaN.*np\.nan is an invalid document") as info:
        twin.fit([[np.nan], [1.0]], [0, 1])
    assert isinstance(info.value.__cause__, ValueError)


def test_adapt__other_number_of_columns__is_refused_after_fit():
    twin = adapt_text_estimator(Sound()).fit(TABLE, [0, 1])
    assert twin.n_features_in_ == 2
    with pytest.raises(ValueError, match="X has 1 features, but Sound is expecting 2 features"):
        twin.predict(TABLE[:, :1])
    assert twin.fit(TABLE[:, :1], [0, 1]).n_features_in_ == 1


def test_rows_to_texts__columns_and_bins__name_the_words():
    texts = rows_to_texts([[0.0, 0.24, 0.25], [-0.25, 15.75, 16.0]])
    assert texts == ["c0b00 c1b00 c2b01", "c0b63 c1b63 c2b00"]


def test_rows_to_texts__words__survive_the_vectorizers():
    grid = np.repeat(np.arange(0, 16, 0.25)[:, None], 3, axis=1)
    assert len(TfidfVectorizer().fit(rows_to_texts(grid)).vocabulary_) == 3 * 64


def test_import__testing__loads_neither_torch_nor_transformers():
    code = (
        "import sys, sklearn_transformers.testing\n"
        "print(sorted({'torch', 'transformers', 'skorch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
