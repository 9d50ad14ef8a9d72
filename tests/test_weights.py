"""What weights do to a whole fit, and how they travel through scikit-learn.

`test_net.py` looks at the gradient of one step; here are the model that comes out, the losses
that are reported, and the ways by which weights and validation rows arrive.
"""

import numpy as np
import pytest
import sklearn
from conftest import toy_texts
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.metrics import accuracy_score, get_scorer, log_loss, make_scorer
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

# All rows in every step and no dropout: two fits differ by their weights alone.
FULL_BATCH = {"batch_size": 1000, "dropout": 0.0, "learning_rate": 1e-3, "max_epochs": 6}
ALL_ROWS = FULL_BATCH | {"early_stopping": False}
# Learns the toy texts from 120 rows.
LEARNER = {"pooling": "mean", "batch_size": 16, "max_epochs": 8, "early_stopping": False}


@pytest.fixture
def rows():
    """60 distinct texts, a third of them "yes", with weights between 0.5 and 2."""
    texts, labels = toy_texts(90)
    keep = [i for i, label in enumerate(labels) if label == "no" or i % 4 == 1][:60]
    X, y = [texts[i] for i in keep], np.array(labels)[keep]
    assert len(set(X)) == 60
    return X, y, np.random.default_rng(0).uniform(0.5, 2, 60)


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def largest_difference(first, second, X):
    """Over the probabilities of `X` and over all weights that a text can notice."""
    pairs = zip(first.model_.named_parameters(), second.model_.parameters(), strict=True)
    differences = [
        float((a - b).detach().abs().max())
        for (name, a), b in pairs
        # The softmax cancels a key's bias. Its gradient is rounding noise, which Adam scales up.
        if not name.endswith("key.bias")
    ]
    return max(*differences, np.abs(first.predict_proba(X) - second.predict_proba(X)).max())


# --- the model that comes out ----------------------------------------------------------------


def test_sample_weight__two__equals_row_twice(make, rows):
    X, y, _ = rows
    weights = np.where(np.arange(60) < 11, 2.0, 1.0)
    weighted = make(**ALL_ROWS).fit(X, y, weights)
    repeated = make(**ALL_ROWS).fit(X + X[:11], [*y, *y[:11]])
    plain = make(**ALL_ROWS).fit(X, y)
    assert largest_difference(weighted, repeated, X) < 1e-5
    assert largest_difference(weighted, plain, X) > 1e-3
    for ours, theirs in zip(weighted.history_[1:], repeated.history_[1:], strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weight__zero__equals_row_absent(make, rows, early_stopping, class_weight):
    X, y, weights = rows
    weights[:11] = 0
    parameters = FULL_BATCH | {"early_stopping": early_stopping, "class_weight": class_weight}
    zeroed = make(**parameters).fit(X, y, weights)
    absent = make(**parameters).fit(X[11:], y[11:], weights[11:])
    full = make(**parameters).fit(X, y)
    assert largest_difference(zeroed, absent, X) < 1e-5
    assert largest_difference(zeroed, full, X) > 1e-3
    assert zeroed.best_score_ == absent.best_score_


def test_sample_weight__zero_for_mislabelled_rows__learns_the_right_labels(make, binary):
    X, y = binary
    X_test, y_test = toy_texts(100, seed=1)
    y_bad, weights = np.array(y), np.ones(200)
    y_bad[:80] = np.where(y_bad[:80] == "yes", "no", "yes")
    weights[:80] = 0
    # 40 % of wrong labels teach little; the 120 right ones teach enough.
    assert make(**LEARNER).fit(X, y_bad).score(X_test, y_test) < 0.75
    assert make(**LEARNER).fit(X, y_bad, weights).score(X_test, y_test) > 0.85


def test_sample_weight__all_the_same__equals_none(make, rows):
    X, y, _ = rows
    same, none = (make(**ALL_ROWS).fit(X, y, w) for w in (np.full(60, 7.0), None))
    assert largest_difference(same, none, X) < 1e-5


def class_weights_by_hand(class_weight, y, sample_weight):
    if class_weight == "balanced":
        mass = {label: sample_weight[y == label].sum() for label in ("no", "yes")}
        class_weight = {label: sample_weight.sum() / (2 * m) for label, m in mass.items()}
    return np.array([(class_weight or {}).get(label, 1.0) for label in y])


CLASS_WEIGHTS = [None, {"yes": 5.0}, {"no": 0.2, "yes": 3.0}, "balanced"]


@pytest.mark.parametrize("class_weight", CLASS_WEIGHTS[1:], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_class_weight__whole_fit__equals_its_product_with_sample_weight(
    make, rows, class_weight, weighted
):
    X, y, weights = rows
    weights = weights if weighted else np.ones(60)
    both = make(**ALL_ROWS, class_weight=class_weight).fit(X, y, weights if weighted else None)
    product = weights * class_weights_by_hand(class_weight, y, weights)
    by_row = make(**ALL_ROWS).fit(X, y, product)
    assert largest_difference(both, by_row, X) < 1e-5
    assert largest_difference(both, make(**ALL_ROWS).fit(X, y, weights), X) > 1e-3


# --- the losses that are reported ------------------------------------------------------------


@pytest.mark.parametrize("class_weight", CLASS_WEIGHTS, ids=str)
def test_train_loss__weights__is_the_weighted_log_loss(make, rows, class_weight):
    X, y, weights = rows
    # At this learning rate the model that is judged is the model that was trained.
    parameters = ALL_ROWS | {"learning_rate": 1e-30, "label_smoothing": 0.0}
    clf = make(**parameters, class_weight=class_weight).fit(X, y, weights)
    product = weights * class_weights_by_hand(class_weight, y, weights)
    expected = log_loss(y, clf.predict_proba(X), sample_weight=product)
    assert [epoch["train_loss"] for epoch in clf.history_[1:]] == pytest.approx([expected] * 6)
    assert abs(expected - log_loss(y, clf.predict_proba(X))) > 1e-3


@pytest.mark.parametrize("class_weight", CLASS_WEIGHTS, ids=str)
def test_valid_loss__weights__is_the_weighted_log_loss_of_the_held_out_rows(
    make, rows, class_weight
):
    X, y, weights = rows
    held_out = []

    def scorer(estimator, X_val, y_val):
        held_out[:] = [X.index(text) for text in X_val]
        return 0.0

    parameters = FULL_BATCH | {"class_weight": class_weight, "validation_fraction": 0.3}
    make(**parameters, scoring=scorer).fit(X, y, weights)
    clf = make(**parameters).fit(X, y, weights)
    assert len(held_out) == 18
    # "balanced" is decided by the rows that are trained on, for both losses.
    train = np.setdiff1d(np.arange(60), held_out)
    by_class = dict(
        zip(y[train], class_weights_by_hand(class_weight, y[train], weights[train]), strict=True)
    )
    product = weights[held_out] * np.array([by_class[label] for label in y[held_out]])
    probabilities = clf.predict_proba([X[i] for i in held_out])
    expected = log_loss(y[held_out], probabilities, sample_weight=product)
    assert clf.best_score_ == pytest.approx(-expected, abs=1e-5)
    assert clf.history_[clf.best_epoch_]["valid_loss"] == pytest.approx(expected, abs=1e-5)
    assert abs(expected - log_loss(y[held_out], probabilities)) > 1e-4


# --- the ways by which weights arrive --------------------------------------------------------


def upper(texts):
    return [text.upper() for text in texts]


GRID = {"weight_decay": [0.01]}
# Around the classifier -> (the composition, how to find the classifier in it, fitted on all rows).
COMPOSITIONS = {
    "Pipeline": (lambda clf: make_pipeline(FunctionTransformer(upper), clf), lambda c: c[-1]),
    "Pipeline in GridSearchCV": (
        lambda clf: GridSearchCV(Pipeline([("c", clf)]), {"c__weight_decay": [0.01]}, cv=2),
        lambda c: c.best_estimator_[-1],
    ),
    "GridSearchCV": (lambda clf: GridSearchCV(clf, GRID, cv=2), lambda c: c.best_estimator_),
    "RandomizedSearchCV": (
        lambda clf: RandomizedSearchCV(clf, GRID, n_iter=1, cv=2),
        lambda c: c.best_estimator_,
    ),
    "CalibratedClassifierCV": (
        lambda clf: CalibratedClassifierCV(clf, cv=2, ensemble=False),
        lambda c: c.calibrated_classifiers_[0].estimator,
    ),
    "VotingClassifier": (lambda clf: VotingClassifier([("c", clf)]), lambda c: c.estimators_[0]),
    "StackingClassifier": (
        lambda clf: StackingClassifier([("c", clf)], cv=2),
        lambda c: c.estimators_[0],
    ),
    "OneVsRestClassifier": (OneVsRestClassifier, lambda c: c.estimators_[0]),
    "FixedThresholdClassifier": (FixedThresholdClassifier, lambda c: c.estimator_),
}


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("kind", COMPOSITIONS)
def test_routing__weights_through_a_composition__equal_the_plain_fit(make, rows, kind):
    X, y, weights = rows
    compose, find = COMPOSITIONS[kind]
    weighted = make(**ALL_ROWS).set_fit_request(sample_weight=True)
    weighted.set_score_request(sample_weight=True)  # searches score as well
    composed = compose(weighted).fit(X, y, sample_weight=weights)
    plain = make(**ALL_ROWS).fit(X, y, weights)
    unweighted = make(**ALL_ROWS).fit(X, y)
    np.testing.assert_array_equal(find(composed).predict_proba(X), plain.predict_proba(X))
    assert largest_difference(plain, unweighted, X) > 1e-3


@pytest.mark.usefixtures("routing")
def test_routing__weights_through_multi_output__reach_every_output(make, rows):
    X, y, weights = rows
    Y = np.column_stack([y == "yes", np.arange(60) % 3 == 0])
    clf = make(**ALL_ROWS).set_fit_request(sample_weight=True)
    composed = MultiOutputClassifier(clf).fit(X, Y, sample_weight=weights)
    for estimator, labels in zip(composed.estimators_, Y.T, strict=True):
        expected = make(**ALL_ROWS).fit(X, labels, weights).predict_proba(X)
        np.testing.assert_array_equal(estimator.predict_proba(X), expected)


@pytest.mark.usefixtures("routing")
def test_routing__not_requested__is_refused_not_ignored(make, rows):
    X, y, weights = rows
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        make_pipeline(make()).fit(X, y, sample_weight=weights)
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        cross_validate(make(), X, y, cv=2, params={"sample_weight": weights})


def test_no_routing__pipeline_and_search__pass_weights_by_their_old_names(make, rows):
    X, y, weights = rows
    expected = make(**ALL_ROWS).fit(X, y, weights).predict_proba(X)
    pipeline = Pipeline([("clf", make(**ALL_ROWS))]).fit(X, y, clf__sample_weight=weights)
    search = GridSearchCV(make(**ALL_ROWS), GRID, cv=2).fit(X, y, sample_weight=weights)
    for composed in (pipeline, search):
        np.testing.assert_array_equal(composed.predict_proba(X), expected)


FOLDS = StratifiedKFold(3)


@pytest.mark.usefixtures("routing")
def test_routing__cross_validate__fits_and_scores_each_fold_with_its_weights(make, rows):
    X, y, weights = rows
    clf = make(**ALL_ROWS).set_fit_request(sample_weight=True)
    scoring = {
        "weighted": make_scorer(accuracy_score).set_score_request(sample_weight=True),
        "loss": get_scorer("neg_log_loss").set_score_request(sample_weight=True),
        "plain": make_scorer(accuracy_score).set_score_request(sample_weight=False),
    }
    params = {"sample_weight": weights}
    found = cross_validate(clf, X, y, cv=FOLDS, scoring=scoring, params=params)
    probabilities = cross_val_predict(clf, X, y, cv=FOLDS, params=params, method="predict_proba")
    for fold, (train, test) in enumerate(FOLDS.split(X, y)):
        alone = make(**ALL_ROWS).fit([X[i] for i in train], y[train], weights[train])
        proba = alone.predict_proba([X[i] for i in test])
        predicted = alone.classes_[proba.argmax(axis=1)]
        np.testing.assert_array_equal(probabilities[test], proba)
        expected = {
            "weighted": accuracy_score(y[test], predicted, sample_weight=weights[test]),
            "loss": -log_loss(y[test], proba, sample_weight=weights[test]),
            "plain": accuracy_score(y[test], predicted),
        }
        assert {name: found[f"test_{name}"][fold] for name in scoring} == pytest.approx(expected)


@pytest.mark.usefixtures("routing")
def test_routing__scorer__ignores_mislabelled_rows_of_weight_zero(make):
    X, y = toy_texts(300)
    weights = np.where(np.arange(300) % 5 < 2, 0.0, 1.0)
    wrong = np.where(np.array(y) == "yes", "no", "yes")
    y_bad = np.where(weights == 0, wrong, y)
    # Now and then such a tiny model learns nothing; with this seed all of them learn.
    clf = make(**LEARNER, random_state=1, label_smoothing=0.0).set_fit_request(sample_weight=True)
    weighted = make_scorer(accuracy_score).set_score_request(sample_weight=True)
    plain = make_scorer(accuracy_score).set_score_request(sample_weight=False)
    scores = {
        name: GridSearchCV(clf, GRID, cv=2, scoring=scorer)
        .fit(X, y_bad, sample_weight=weights)
        .best_score_
        for name, scorer in {"weighted": weighted, "plain": plain}.items()
    }
    # The model finds the right labels; unweighted, 40 % of the given ones are wrong.
    assert scores["weighted"] > 0.85
    assert scores["plain"] < 0.6


@pytest.mark.usefixtures("routing")
def test_routing__score_method__takes_weights_in_a_search(make, rows):
    X, y, weights = rows
    clf = make(**ALL_ROWS).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
    search = GridSearchCV(clf, GRID, cv=FOLDS).fit(X, y, sample_weight=weights)
    by_fold = [
        make(**ALL_ROWS)
        .fit([X[i] for i in train], y[train], weights[train])
        .score([X[i] for i in test], y[test], weights[test])
        for train, test in FOLDS.split(X, y)
    ]
    assert search.best_score_ == pytest.approx(np.mean(by_fold))
    expected = make(**ALL_ROWS).fit(X, y, weights).score(X, y, weights)
    assert search.score(X, y, sample_weight=weights) == pytest.approx(expected)


@pytest.mark.usefixtures("routing")
def test_routing__partial_fit__takes_weights(make, rows):
    X, y, weights = rows
    clf = make().set_partial_fit_request(sample_weight=True, classes=True)
    requests = clf.get_metadata_routing().partial_fit.requests
    assert requests == {"sample_weight": True, "classes": True}
    weighted, plain = (
        make(**FULL_BATCH).partial_fit(X, y, classes=["no", "yes"], sample_weight=w)
        for w in (weights, None)
    )
    assert largest_difference(weighted, plain, X) > 1e-4


# --- validation rows -------------------------------------------------------------------------


@pytest.mark.usefixtures("routing")
def test_routing__x_val_through_a_pipeline__is_transformed_and_validated_on(make, rows):
    X, y, weights = rows
    X_val, y_val = toy_texts(40, seed=5)
    # Without the first step every word is unknown, so that it cannot be skipped unnoticed.
    split = FunctionTransformer(lambda texts: [text.replace("_", " ") for text in texts])
    joined, joined_val = ([text.replace(" ", "_") for text in part] for part in (X, X_val))
    clf = make(max_epochs=4).set_fit_request(sample_weight=True, X_val=True, y_val=True)
    pipeline = Pipeline([("split", split), ("clf", clf)], transform_input=["X_val"])
    pipeline.fit(joined, y, sample_weight=weights, X_val=joined_val, y_val=y_val)
    plain = make(max_epochs=4).fit(X, y, weights, X_val=X_val, y_val=y_val)
    assert pipeline[-1].best_score_ == plain.best_score_
    np.testing.assert_array_equal(pipeline.predict_proba(joined), plain.predict_proba(X))


@pytest.mark.usefixtures("routing")
def test_routing__x_val_through_a_search__serves_every_candidate(make, rows):
    X, y, _ = rows
    X_val, y_val = toy_texts(40, seed=5)
    clf = make(max_epochs=4).set_fit_request(X_val=True, y_val=True)
    search = GridSearchCV(clf, GRID, cv=2).fit(X, y, X_val=X_val, y_val=y_val)
    plain = make(max_epochs=4).fit(X, y, X_val=X_val, y_val=y_val)
    assert search.best_estimator_.best_score_ == plain.best_score_


SCORERS = {
    "accuracy": lambda: "accuracy",
    "neg_log_loss": lambda: "neg_log_loss",
    "requesting": lambda: make_scorer(accuracy_score).set_score_request(sample_weight=True),
    "silent": lambda: make_scorer(accuracy_score),
}


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("kind", SCORERS)
def test_routing__early_stopping_scorer__is_weighted_by_the_held_out_rows(make, rows, kind):
    X, y, weights = rows
    held_out = []

    def spy(estimator, X_val, y_val):
        held_out[:] = [X.index(text) for text in X_val]
        return 0.0

    parameters = FULL_BATCH | {"validation_fraction": 0.3, "n_iter_no_change": 6}
    make(**parameters, scoring=spy).fit(X, y, weights)
    clf = make(**parameters, scoring=SCORERS[kind]()).fit(X, y, weights)
    scorer = get_scorer("neg_log_loss" if kind == "neg_log_loss" else "accuracy")
    arguments = [X[i] for i in held_out], y[held_out]
    expected = scorer(clf, *arguments, sample_weight=weights[held_out])
    assert clf.best_score_ == pytest.approx(expected, abs=1e-6)
    assert clf.best_score_ == max(epoch["valid_score"] for epoch in clf.history_)
    assert abs(expected - scorer(clf, *arguments)) > 1e-4


# --- weights of X_val ------------------------------------------------------------------------


@pytest.fixture
def validation():
    """Texts to validate on, every third mislabelled, with weights that know of it."""
    X, y = toy_texts(30, seed=3)
    y = [{"no": "yes", "yes": "no"}[label] if i % 3 == 0 else label for i, label in enumerate(y)]
    return X, y, np.where(np.arange(30) % 3, 1.0, 0.25)


def test_sample_weight_val__validation_loss_and_score__are_weighted(make, binary, validation):
    X_val, y_val, weights = validation
    clf = make(max_epochs=4, scoring="accuracy", class_weight={"no": 2.0})
    clf.fit(*binary, X_val=X_val, y_val=y_val, sample_weight_val=weights)
    by_class = np.where(np.array(y_val) == "no", 2.0, 1.0)
    expected = log_loss(y_val, clf.predict_proba(X_val), sample_weight=weights * by_class)
    best = clf.history_[clf.best_epoch_]
    assert best["valid_loss"] == pytest.approx(expected, abs=1e-6)
    expected = accuracy_score(y_val, clf.predict(X_val), sample_weight=weights)
    assert clf.best_score_ == pytest.approx(expected)
    assert clf.best_score_ != accuracy_score(y_val, clf.predict(X_val))


def test_sample_weight_val__zero__equals_absent(make, binary, validation):
    X_val, y_val, weights = validation
    kept = np.flatnonzero(weights == 1)
    zeroed = make(max_epochs=2).fit(
        *binary, X_val=X_val, y_val=y_val, sample_weight_val=weights == 1
    )
    absent = make(max_epochs=2).fit(
        *binary, X_val=[X_val[i] for i in kept], y_val=[y_val[i] for i in kept]
    )
    assert zeroed.best_score_ == absent.best_score_


def test_sample_weight_val__routed_through_a_pipeline__arrives(make, binary, validation):
    X_val, y_val, weights = validation
    arrays = {"X_val": X_val, "y_val": y_val, "sample_weight_val": weights}
    expected = make(max_epochs=1).fit(*binary, **arrays).best_score_
    with sklearn.config_context(enable_metadata_routing=True):
        clf = make(max_epochs=1).set_fit_request(**dict.fromkeys(arrays, True))
        pipeline = make_pipeline(FunctionTransformer(), clf).fit(*binary, **arrays)
    assert pipeline[-1].best_score_ == expected


WRONG_WEIGHTS = {
    "too few": [1.0, 1.0],
    "negative": [-1.0] * 30,
    "NaN": [np.nan] * 30,
    "all zero": [0.0] * 30,
}


@pytest.mark.parametrize("kind", WRONG_WEIGHTS)
def test_sample_weight_val__wrong__is_blamed_by_its_name(make, binary, validation, kind):
    X_val, y_val, _ = validation
    with pytest.raises(ValueError, match="sample_weight_val"):
        make().fit(*binary, X_val=X_val, y_val=y_val, sample_weight_val=WRONG_WEIGHTS[kind])


def test_sample_weight_val__without_validation_texts__is_refused(make, binary):
    with pytest.raises(ValueError, match="sample_weight_val is provided, but X_val and y_val"):
        make().fit(*binary, sample_weight_val=[1.0])
