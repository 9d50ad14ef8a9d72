"""Every place in scikit-learn where a classifier of texts can stand, with a score that it earns."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from conftest import toy_texts
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.semi_supervised import SelfTrainingClassifier
from sklearn.utils import estimator_html_repr

from sklearn_transformers import TransformerTextClassifier

# Learns short toy texts from 80 rows, in less than a second.
LEARNER = {"pooling": "mean", "batch_size": 16, "max_epochs": 8, "early_stopping": False}
CLASSES = ("bad", "good", "plain")
# scikit-learn has temperature scaling since 1.8.
has_temperature = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8)
METHODS = ["sigmoid", "isotonic", *["temperature"] * has_temperature]


def short_texts(n_rows, classes=("no", "yes"), seed=0):
    """Toy texts of at most 9 words, as many of each class."""
    texts, labels = toy_texts(5 * n_rows, classes, seed)
    chosen = []
    for label in classes:
        short = [i for i, t in enumerate(texts) if labels[i] == label and len(t.split()) < 10]
        chosen += short[: n_rows // len(classes)]
    chosen.sort()
    return [texts[i] for i in chosen], [labels[i] for i in chosen]


@pytest.fixture
def learner(make):
    return make(**LEARNER)


@pytest.fixture(scope="module")
def train():
    return short_texts(160)


@pytest.fixture(scope="module")
def test():
    return short_texts(100, seed=1)


def tf_idf():
    return make_pipeline(TfidfVectorizer(), LogisticRegression())


def column(texts):
    return np.array(texts, dtype=object)[:, None]


def join_words(texts):
    return [text.replace("_", " ") for text in texts]


def half_half(name, **parameters):
    return lambda clf: name(clf, cv=2, **parameters)


# --- around the classifier -------------------------------------------------------------------

COMPOSITIONS = {
    "Pipeline": lambda clf: make_pipeline(FunctionTransformer(join_words), clf),
    "FeatureUnion": lambda clf: make_pipeline(
        FeatureUnion([("ours", clf), ("tf-idf", TfidfVectorizer())]), LogisticRegression()
    ),
    **{
        f"calibrated, {method}": half_half(CalibratedClassifierCV, method=method)
        for method in METHODS
    },
    "calibrated, one model": half_half(CalibratedClassifierCV, ensemble=False),
    "stacking": lambda clf: StackingClassifier([("ours", clf), ("tf-idf", tf_idf())], cv=2),
    "voting, hard": lambda clf: VotingClassifier([("ours", clf), ("tf-idf", tf_idf())]),
    "voting, soft": lambda clf: VotingClassifier(
        [("ours", clf), ("tf-idf", tf_idf())], voting="soft", weights=[2, 1]
    ),
    "one vs rest": OneVsRestClassifier,
    "output code": lambda clf: OutputCodeClassifier(clf, code_size=1.5, random_state=0),
    "tuned threshold": half_half(TunedThresholdClassifierCV),
    "fixed threshold": lambda clf: FixedThresholdClassifier(clf, threshold=0.4, pos_label="yes"),
    "threshold of log-odds": lambda clf: FixedThresholdClassifier(
        clf, threshold=0.2, response_method="decision_function", pos_label="yes"
    ),
}


@pytest.mark.parametrize("kind", COMPOSITIONS)
def test_composition__fitted__scores_well(learner, train, test, kind):
    composed = COMPOSITIONS[kind](learner).fit(*train)
    assert composed.score(*test) > 0.8
    assert list(composed.classes_) == ["no", "yes"]


CONTAINERS = {
    "array": np.array,
    "object column": column,
    "series": lambda X: pd.Series(X, index=np.arange(len(X))[::-1] * 3),
    "frame": lambda X: pd.DataFrame({"text": X}, index=np.arange(len(X))[::-1] * 3),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize(
    "kind", ["calibrated, sigmoid", "one vs rest", "output code", "tuned threshold"]
)
def test_composition__any_container__equals_list(make, train, kind, container):
    X, y = [part[:40] for part in train]
    convert = CONTAINERS[container]
    plain = COMPOSITIONS[kind](make(max_epochs=1)).fit(X, y)
    composed = COMPOSITIONS[kind](make(max_epochs=1)).fit(convert(X), y)
    np.testing.assert_array_equal(composed.predict(convert(X)), plain.predict(X))


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("splits", [StackingClassifier, VotingClassifier])
def test_ensemble__any_container__equals_list(make, train, splits, container):
    X, y = [part[:40] for part in train]
    convert = CONTAINERS[container]

    def fit(X):
        extra = {"cv": 2} if splits is StackingClassifier else {"voting": "soft"}
        return splits([("ours", make(max_epochs=1))], **extra).fit(X, y)

    expected = fit(X).predict_proba(X)
    np.testing.assert_array_equal(fit(convert(X)).predict_proba(convert(X)), expected)


@pytest.fixture(scope="module")
def overconfident(checkpoints):
    """Fitted for long on labels of which every eighth is wrong: far too sure of itself."""
    X, y = short_texts(160, seed=3)
    swapped = np.where(np.array(y) == "yes", "no", "yes")
    y = np.where(np.random.default_rng(0).random(160) < 0.125, swapped, y)
    parameters = LEARNER | {"max_epochs": 20, "learning_rate": 5e-3, "random_state": 0}
    parameters |= {"head_init": "random", "head_learning_rate": 5e-2}
    parameters |= {"device": "cpu", "precision": "float32", "verbose": 0}
    return TransformerTextClassifier(checkpoints["bert"], **parameters).fit(X, y)


@pytest.mark.parametrize("method", METHODS)
def test_calibrated__overconfident_model__is_as_sure_as_it_is_right(overconfident, method):
    calibrated = CalibratedClassifierCV(FrozenEstimator(overconfident), method=method)
    calibrated.fit(*short_texts(1000, seed=4))
    X, y = short_texts(1000, seed=1)
    excess = {
        model: model.predict_proba(X).max(axis=1).mean() - model.score(X, y)
        for model in (overconfident, calibrated)
    }
    assert excess[overconfident] > 0.08
    assert abs(excess[calibrated]) < 0.04
    assert calibrated.score(X, y) > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_calibrated__three_classes__rows_sum_to_one_and_score_well(learner, method):
    learner.set_params(max_epochs=10)
    calibrated = CalibratedClassifierCV(learner, method=method, cv=2)
    calibrated.fit(*short_texts(180, CLASSES))
    X_test, y_test = short_texts(90, CLASSES, seed=1)
    np.testing.assert_allclose(calibrated.predict_proba(X_test).sum(axis=1), 1)
    assert calibrated.score(X_test, y_test) > 0.8


@pytest.mark.parametrize("compose", [OneVsRestClassifier, MultiOutputClassifier])
@pytest.mark.parametrize("sparse", [False, True])
def test_multi_label__topics_of_a_text__are_found(learner, compose, sparse):
    X, y = short_texts(180, CLASSES)
    X_test, y_test = short_texts(90, CLASSES, seed=1)
    binarizer = MultiLabelBinarizer(sparse_output=sparse and compose is OneVsRestClassifier)
    # Two labels that share rows: "plain" texts are both.
    names = {"bad": {"low"}, "good": {"high"}, "plain": {"low", "high"}}
    Y = binarizer.fit_transform([names[label] for label in y])
    Y_test = binarizer.transform([names[label] for label in y_test])
    learner.set_params(random_state=1)  # now and then such a tiny model learns nothing
    found = compose(learner).fit(X, Y).predict(X_test)
    found, Y_test = (M.toarray() if hasattr(M, "toarray") else M for M in (found, Y_test))
    assert (found == Y_test).mean(axis=0).min() > 0.8


def test_multi_output__string_targets__keep_their_own_classes(learner, train, test):
    X, y = train
    first = np.where([len(text.split()) > 5 for text in X], "long", "short")
    Y = pd.DataFrame({"length": first, "tone": y})
    composed = MultiOutputClassifier(learner).fit(X, Y)
    assert [list(classes) for classes in composed.classes_] == [["long", "short"], ["no", "yes"]]
    assert (composed.predict(test[0])[:, 1] == test[1]).mean() > 0.8


def test_frozen__in_a_pipeline__feeds_vectors_to_another_classifier(learner, train, test):
    frozen = FrozenEstimator(learner.fit(*train))
    before = learner.predict_proba(test[0])
    pipeline = make_pipeline(frozen, OneVsOneClassifier(LogisticRegression())).fit(*train)
    assert pipeline.score(*test) > 0.8
    np.testing.assert_array_equal(learner.predict_proba(test[0]), before)


# --- beside other columns --------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    """The text tells "no" from the rest, and the number tells "yes" from "perhaps"."""

    def make_table(n_rows, seed):
        texts, labels = short_texts(n_rows, seed=seed)
        numbers = np.random.default_rng(seed).normal(size=n_rows)
        labels = np.where((np.array(labels) == "yes") & (numbers > 0), "perhaps", labels)
        return pd.DataFrame({"text": texts, "number": numbers}), labels

    return *make_table(200, 0), *make_table(100, 1)


@pytest.mark.parametrize("selected", ["text", ["text"]])
def test_column_transformer__text_beside_numbers__beats_text_alone(make, table, selected):
    X, y, X_test, y_test = table
    columns = ColumnTransformer([("text", make(**LEARNER), selected)], remainder="passthrough")
    both = make_pipeline(columns, LogisticRegression(C=10)).fit(X, y).score(X_test, y_test)
    alone = make(**LEARNER).fit(X["text"], y).score(X_test["text"], y_test)
    assert both > 0.8
    assert alone < 0.8


def test_column_transformer__object_array__equals_frame(make, table):
    X, y, X_test, _ = table

    def fit_transform(which, X, X_test):
        columns = ColumnTransformer([("text", make(max_epochs=1), which)], remainder="passthrough")
        return columns.fit(X, y).transform(X_test)

    as_array = fit_transform([0], X.to_numpy(object), X_test.to_numpy(object))
    np.testing.assert_array_equal(as_array.astype(float), fit_transform("text", X, X_test))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output__column_transformer__names_its_columns(make, table, library):
    X, y, _, _ = table
    columns = ColumnTransformer([("text", make(max_epochs=1), "text")], remainder="passthrough")
    frame = columns.set_output(transform=library).fit_transform(X, y)
    assert type(frame).__module__.startswith(library)
    expected = [f"text__transformertextclassifier{i}" for i in range(32)]
    assert list(frame.columns) == [*expected, "remainder__number"]
    np.testing.assert_array_equal(np.asarray(frame["remainder__number"]), X["number"])
    own = columns.named_transformers_["text"].transform(X["text"])
    np.testing.assert_array_equal(np.asarray(frame)[:, 0], np.asarray(own)[:, 0])


def test_html_repr__nested__shows_classifier_and_parameters(make, train):
    search = GridSearchCV(make_pipeline("passthrough", make(max_epochs=1)), {}, cv=2)
    for estimator, state in ((clone(search), "Not fitted"), (search.fit(*train), "Fitted")):
        page = estimator_html_repr(estimator)
        assert f"<span>{state}</span>" in page
        assert "TransformerTextClassifier" in page
        assert "max_epochs" in page


# --- searches and cross-validation -----------------------------------------------------------

RATES = {"learning_rate": [1e-30, 5e-3]}
BY_EPOCHS = {"resource": "max_epochs", "min_resources": 4, "max_resources": 8, "factor": 2}
BY_SAMPLES = {"min_resources": 80, "factor": 2}
SEARCHES = {
    "grid": (GridSearchCV, {}, None),
    "grid, roc_auc": (GridSearchCV, {"scoring": "roc_auc"}, None),
    "grid, log loss": (GridSearchCV, {"scoring": "neg_log_loss"}, None),
    "random": (RandomizedSearchCV, {"n_iter": 2}, None),
    "halving grid by epochs": (HalvingGridSearchCV, BY_EPOCHS, [4, 8]),
    "halving random by epochs": (HalvingRandomSearchCV, BY_EPOCHS, [4, 8]),
    "halving grid by samples": (HalvingGridSearchCV, BY_SAMPLES, [80, 160]),
    "halving random by samples": (HalvingRandomSearchCV, BY_SAMPLES, [80, 160]),
}


@pytest.mark.parametrize("kind", SEARCHES)
def test_search__learning_rates__finds_the_one_that_learns(learner, train, test, kind):
    search_class, parameters, resources = SEARCHES[kind]
    seeded = {} if search_class is GridSearchCV else {"random_state": 0}
    search = search_class(learner, RATES, cv=2, **seeded, **parameters).fit(*train)
    assert search.best_params_["learning_rate"] == 5e-3
    assert (search.predict(test[0]) == test[1]).mean() > 0.8
    if resources is not None:
        assert search.n_resources_ == resources
        assert search.n_candidates_ == [2, 1]


def worst_class(estimator, X, y):
    found = estimator.predict(X)
    return min(float((found[y == label] == label).mean()) for label in estimator.classes_)


def test_search__callable_and_several_scores__are_those_of_the_refitted(learner, train):
    X, y = train[0], np.array(train[1])
    scoring = {"auc": "roc_auc", "worst": worst_class}
    search = GridSearchCV(learner, RATES, cv=2, scoring=scoring, refit="worst").fit(X, y)
    assert search.best_params_ == {"learning_rate": 5e-3}
    best = search.best_index_
    assert search.cv_results_["mean_test_auc"][best] > 0.95
    assert search.cv_results_["mean_test_worst"][best] > 0.8
    assert search.cv_results_["mean_test_worst"][1 - best] < 0.6


@pytest.mark.parametrize(
    ("scoring", "floor"), [("roc_auc", 0.95), ("neg_log_loss", -0.4), (worst_class, 0.8)]
)
def test_early_stopping__any_scoring__keeps_a_good_epoch(make, train, test, scoring, floor):
    X, y = train[0], np.array(train[1])
    parameters = {"early_stopping": True, "validation_fraction": 0.25}
    clf = make(**LEARNER | parameters, scoring=scoring).fit(X, y)
    assert clf.best_score_ > floor
    assert clf.score(*test) > 0.8


def test_search__pipeline_steps_and_nested_names__are_reached(learner, train):
    X = [text.replace(" ", "_") for text in train[0]]
    pipeline = make_pipeline(FunctionTransformer(join_words), learner)
    grid = {"functiontransformer": ["passthrough", FunctionTransformer(join_words)]}
    grid["transformertextclassifier__max_epochs"] = [8]
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, train[1])
    # Without the first step every text is one unknown word.
    assert search.best_params_["functiontransformer"] != "passthrough"
    assert search.cv_results_["mean_test_score"][0] < 0.7
    assert search.best_score_ > 0.8


def test_cross_validation__three_functions__agree_and_score_well(learner, train):
    X, y = train
    scores = cross_val_score(learner, X, y, cv=2)
    assert scores.min() > 0.8
    several = ["accuracy", "roc_auc", "neg_log_loss"]
    found = cross_validate(learner, X, y, cv=2, scoring=several, return_train_score=True)
    np.testing.assert_array_equal(found["test_accuracy"], scores)
    assert found["test_roc_auc"].min() > 0.9
    assert found["test_neg_log_loss"].mean() > -0.5  # knowing nothing is -0.69
    assert found["train_accuracy"].min() > 0.9
    probabilities = cross_val_predict(learner, X, y, cv=2, method="predict_proba")
    predicted = np.array(["no", "yes"])[probabilities.argmax(axis=1)]
    assert (predicted == y).mean() == pytest.approx(scores.mean())


@pytest.mark.parametrize("container", CONTAINERS)
def test_cross_validation__any_container__equals_list(make, train, container):
    X, y = [part[:60] for part in train]
    expected = cross_val_predict(make(max_epochs=1), X, y, cv=2, method="decision_function")
    y = pd.Series(y, index=np.arange(60)[::-1] * 3) if container in ("series", "frame") else y
    found = cross_val_predict(
        make(max_epochs=1), CONTAINERS[container](X), y, cv=2, method="decision_function"
    )
    np.testing.assert_array_equal(found, expected)


def test_curves__more_rows_and_more_epochs__score_better(learner, train):
    _, _, by_rows = learning_curve(learner, *train, cv=2, train_sizes=[8, 80])
    _, by_epochs = validation_curve(
        learner, *train, cv=2, param_name="max_epochs", param_range=[1, 8]
    )
    for few, many in (by_rows.mean(axis=1), by_epochs.mean(axis=1)):
        assert many > 0.8
        assert few < many - 0.1


def test_permutation_test__shuffled_labels__are_not_learned(learner, train):
    score, shuffled, p_value = permutation_test_score(
        learner, *train, cv=2, n_permutations=3, random_state=0
    )
    assert score > 0.8
    assert np.abs(shuffled - 0.5).max() < 0.25
    assert p_value == pytest.approx(1 / 4)


# --- what scikit-learn does not let through, and the ways out --------------------------------

NO_TEXTS = {
    "one vs one": (OneVsOneClassifier, list),
    "chain": (lambda clf: ClassifierChain(clf), list),
    "self-training": (SelfTrainingClassifier, list),
    "self-training, column": (SelfTrainingClassifier, column),
    "bagging": (BaggingClassifier, list),
    "boosting": (AdaBoostClassifier, list),
    "stacking, passthrough": (
        lambda clf: StackingClassifier([("ours", clf)], cv=2, passthrough=True),
        list,
    ),
}
REFUSALS = "Expected 2D array, got 1D|could not convert string to float|same number of dimensions"


@pytest.mark.parametrize("kind", NO_TEXTS)
def test_scikit_learn__composition_for_numbers__refuses_texts(make, train, kind):
    compose, convert = NO_TEXTS[kind]
    X, y = [part[:40] for part in train]
    y = np.column_stack([np.arange(40) % 2, np.arange(40) % 3 == 0]) if kind == "chain" else y
    y = np.where(np.array(y) == "yes", 1, 0) if "self" in kind else y
    with pytest.raises(ValueError, match=REFUSALS):
        compose(make(max_epochs=1)).fit(convert(X), y)


@pytest.mark.parametrize("container", ["object column", "frame"])
@pytest.mark.parametrize("ensemble", [BaggingClassifier, AdaBoostClassifier])
def test_ensemble_for_numbers__one_column__lets_texts_through(
    learner, train, test, ensemble, container
):
    convert = CONTAINERS[container]
    composed = ensemble(learner, n_estimators=2, random_state=0).fit(convert(train[0]), train[1])
    assert composed.score(convert(test[0]), test[1]) > 0.8


def test_permutation_importance__frame__finds_the_text(learner, train, test):
    clf = learner.fit(*train)
    X = pd.DataFrame({"text": test[0]})
    found = permutation_importance(clf, X, test[1], n_repeats=3, random_state=0)
    assert found.importances_mean[0] > 0.3


class ByNumber:
    """Turns row numbers into texts, for what takes numbers only."""

    def __init__(self, texts):
        self.texts = texts

    def __call__(self, rows):
        return [self.texts[int(row)] for row in np.ravel(rows)]


def test_self_training__row_numbers__learns_from_unlabelled_texts(learner, test):
    X, y = short_texts(240, seed=2)
    labels = np.where(np.array(y) == "yes", 1, 0)
    labels[60:] = -1
    rows = np.arange(240)[:, None]
    by_number = make_pipeline(FunctionTransformer(ByNumber(X)), learner.set_params(max_epochs=12))
    model = SelfTrainingClassifier(by_number, threshold=0.9, max_iter=2).fit(rows, labels)
    clf = model.estimator_[-1]
    y_test = np.where(np.array(test[1]) == "yes", 1, 0)
    assert (model.transduction_ != -1).sum() > 100
    assert clf.score(test[0], y_test) > 0.75
    np.testing.assert_array_equal(clf.predict(X), model.predict(rows))


def test_one_vs_one__row_numbers__scores_well(learner):
    X, y = short_texts(180, CLASSES)
    X_test, y_test = short_texts(90, CLASSES, seed=1)
    rows = np.arange(270)[:, None]
    model = OneVsOneClassifier(make_pipeline(FunctionTransformer(ByNumber(X + X_test)), learner))
    assert model.fit(rows[:180], y).score(rows[180:], y_test) > 0.8


# --- imbalanced-learn and skrub --------------------------------------------------------------


@pytest.mark.parametrize("container", ["object column", "frame"])
def test_imbalanced_learn__random_over_sampler__helps_the_rare_class(learner, test, container):
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.pipeline import make_pipeline as make_sampling_pipeline

    X, y = toy_texts(300)
    keep = [i for i, label in enumerate(y) if label == "no" or i % 10 == 1]
    X, y = [X[i] for i in keep], [y[i] for i in keep]
    assert (len(y), y.count("yes")) == (180, 30)
    convert = CONTAINERS[container]
    sampler = RandomOverSampler(random_state=0)
    model = make_sampling_pipeline(sampler, learner).fit(convert(X), y)
    assert balanced_accuracy_score(test[1], model.predict(convert(test[0]))) > 0.8
    resampled, labels = sampler.fit_resample(convert(X), y)
    assert len(labels) == 300
    assert {type(text) for text in np.ravel(resampled)} == {str}


def test_imbalanced_learn__list_of_texts__is_turned_into_a_column(learner, train, test):
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.pipeline import make_pipeline as make_sampling_pipeline

    model = make_sampling_pipeline(
        FunctionTransformer(column), RandomOverSampler(random_state=0), learner
    )
    assert cross_val_score(model, *train, cv=2).min() > 0.8
    assert model.fit(*train).score(*test) > 0.8


def test_skrub__table_vectorizer__takes_the_text_column(make, table):
    from skrub import TableVectorizer

    X, y, X_test, y_test = table
    vectorizer = TableVectorizer(high_cardinality=make(**LEARNER))
    model = make_pipeline(vectorizer, LogisticRegression(C=10)).fit(X, y)
    assert model.score(X_test, y_test) > 0.8
    assert vectorizer.get_feature_names_out()[-1] == "number"
    assert len(vectorizer.get_feature_names_out()) == 33


def test_skrub__tabular_pipeline__takes_it_for_named_columns(make, table):
    from skrub import tabular_pipeline

    X, y, X_test, y_test = table
    model = tabular_pipeline(LogisticRegression(C=10)).set_params(
        tablevectorizer__specific_transformers=[(make(**LEARNER), ["text"])]
    )
    assert model.fit(X, y).score(X_test, y_test) > 0.8
