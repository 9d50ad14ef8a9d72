import numpy as np
import pytest
from conftest import toy_texts
from sklearn.metrics import f1_score, get_scorer, make_scorer


@pytest.mark.parametrize("scoring", ["accuracy", "f1_macro", "neg_log_loss", "roc_auc_ovr"])
def test_scoring__scorer_name__is_what_the_scorer_says_of_the_result(make, three_classes, scoring):
    X, y = three_classes
    X_val, y_val = toy_texts(60, classes=("bad", "good", "plain"), seed=7)
    clf = make(scoring=scoring, max_epochs=4).fit(X, y, X_val=X_val, y_val=y_val)
    assert clf.best_score_ == pytest.approx(get_scorer(scoring)(clf, X_val, y_val), abs=1e-9)
    assert clf.best_score_ == max(epoch["valid_score"] for epoch in clf.history_)


def test_scoring__callable__gets_estimator_texts_and_labels(make, three_classes):
    X, y = three_classes
    seen = []

    def half_of_them(estimator, X_val, y_val):
        seen.append((estimator.predict(X_val), estimator.predict(X_val[:5]), X_val, y_val))
        assert estimator.transform(X_val[:5]).shape == (5, 32)
        return estimator.score(X_val, y_val)

    clf = make(scoring=half_of_them, max_epochs=2).fit(X, y)
    every, first, X_val, y_val = seen[-1]
    np.testing.assert_array_equal(every[:5], first)
    assert set(X_val) <= set(X)
    assert set(y_val) <= set(y)
    assert clf.n_iter_ == len(seen) - 1 == 2  # and once before the first epoch


def test_scoring__sample_weight__reaches_the_scorer(make, binary):
    X, y = binary
    seen = []

    def scorer(estimator, X_val, y_val, sample_weight=None):
        seen.append(sample_weight)
        return 0.0

    weights = np.arange(1.0, 201.0)
    make(scoring=scorer, max_epochs=1).fit(X, y, sample_weight=weights)
    assert len(seen[0]) == 20
    assert set(seen[0]) <= set(weights)
    make(scoring=scorer, max_epochs=1).fit(X, y)
    assert seen[2] is None


@pytest.mark.parametrize("scoring", ["f1", "average_precision", "neg_log_loss"])
def test_scoring__scorer_that_cannot_work__is_refused_before_loading(make, binary, scoring):
    X, y = binary
    labels = ["rare", *y[1:]]
    clf = make(model="/no/such/folder", scoring=scoring)
    with pytest.raises(ValueError, match=f"scoring='{scoring}' cannot score the 20 validation"):
        clf.fit(X, labels)


def test_scoring__class_without_a_validation_row__is_named_with_ways_out(make, three_classes):
    X, y = three_classes
    with pytest.raises(ValueError, match=r"No validation row has the labels \['plain'\]: give"):
        make(scoring="neg_log_loss").fit(X, y, X_val=["good", "bad"], y_val=["good", "bad"])
    with pytest.raises(ValueError, match="cannot score") as error:
        make(scoring="f1").fit(X, y)
    assert "No validation row" not in str(error.value)


def test_scoring__nan__is_refused(make, binary):
    with pytest.raises(ValueError, match="gave nan for the 20 validation rows"):
        make(scoring=lambda *_: float("nan")).fit(*binary)


def test_scoring__minus_infinity__keeps_the_start(make, binary):
    clf = make(scoring=lambda *_: -np.inf, n_iter_no_change=2).fit(*binary)
    assert (clf.n_iter_, clf.best_epoch_, clf.best_score_) == (2, 0, -np.inf)


def test_scoring__callable_without_weights__is_called_without(make, binary):
    def scorer(estimator, X_val, y_val):
        return estimator.score(X_val, y_val)

    X, y = binary
    clf = make(scoring=scorer, max_epochs=1).fit(X, y, sample_weight=np.arange(1, 201))
    assert 0 <= clf.best_score_ <= 1


def test_scoring__refit__scorer_sees_no_attribute_of_the_last_fit(make, binary):
    seen = []

    def scorer(estimator, X_val, y_val):
        seen.append(hasattr(estimator, "n_iter_"))
        return 0.0

    clf = make(scoring=scorer, max_epochs=1).fit(*binary)
    clf.fit(*binary)
    assert seen == [False] * 4


def test_scoring__every_epoch__runs_the_model_once(make, three_classes, monkeypatch):
    from sklearn_transformers import _model

    X, y = three_classes
    X_val, y_val = X[:50], y[:50]
    texts_read = []
    original = _model.TextClassifier.forward

    def counting(self, input_ids, attention_mask):
        if not self.training:
            texts_read.append(len(input_ids))
        return original(self, input_ids, attention_mask)

    monkeypatch.setattr(_model.TextClassifier, "forward", counting)
    make(scoring="f1_macro", max_epochs=2).fit(X, y, X_val=X_val, y_val=y_val)
    assert sum(texts_read) == 3 * 50 + 1  # the start, two epochs, a look at one text in the end


def test_scoring__metric_without_weights__is_asked_without(make, binary):
    X, y = binary
    codes = [int(label == "yes") for label in y]
    clf = make(scoring="adjusted_rand_score", max_epochs=1).fit(X, codes, np.ones(200))
    assert -1 <= clf.best_score_ <= 1


def test_scoring__made_scorer_that_cannot_work__is_refused_before_loading(make, binary):
    clf = make(model="/no/such/folder", scoring=make_scorer(f1_score))
    with pytest.raises(ValueError, match=r"scoring=make_scorer.* cannot score the 20 validation"):
        clf.fit(*binary)


def test_scoring__not_a_number__is_refused(make, binary):
    with pytest.raises(TypeError, match=r"must give a number\. Got dict instead"):
        make(scoring=lambda *_: {"accuracy": 1.0}).fit(*binary)
