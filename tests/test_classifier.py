import gc
import inspect
import pickle
import random
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from conftest import toy_texts
from joblib import Parallel, delayed
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from skorch.callbacks import Callback, Freezer

from sklearn_transformers import InvalidTextError, PretrainedModelError, TransformerTextClassifier

ANSWERS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")


# --- learning -------------------------------------------------------------------------------


def test_fit__three_classes__learns_them(make, three_classes):
    X_test, y_test = toy_texts(150, classes=("bad", "good", "plain"), seed=1)
    clf = make(max_epochs=15, pooling="mean").fit(*three_classes)
    assert clf.score(X_test, y_test) > 0.9


@pytest.mark.pretrained
def test_fit__default_model__learns_from_few_texts():
    X = ["I loved it", "what a joy", "great fun", "I hated it", "what a bore", "no fun at all"] * 6
    y = ["good", "good", "good", "bad", "bad", "bad"] * 6
    clf = TransformerTextClassifier(max_epochs=4, random_state=0, verbose=0).fit(X, y)
    assert list(clf.predict(["a delightful film", "a terrible waste of time"])) == ["good", "bad"]
    assert clf.transform(X[:2]).shape == (2, 384)


# --- inputs and labels ----------------------------------------------------------------------


CONTAINERS = {
    "tuple": tuple,
    "str array": np.array,
    "object array": lambda X: np.array(X, dtype=object),
    "column array": lambda X: np.array(X)[:, None],
    "series": lambda X: pd.Series(X, index=np.arange(len(X))[::-1] * 3),
    "string series": lambda X: pd.Series(X, dtype="string"),
    "category series": lambda X: pd.Series(X, dtype="category"),
    "frame": lambda X: pd.DataFrame({"text": X}),
    "polars series": pl.Series,
    "polars frame": lambda X: pl.DataFrame({"text": X}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_fit_predict__any_container__equals_list(make, binary, container):
    X, y = [part[:60] for part in binary]
    convert = CONTAINERS[container]
    expected = make(max_epochs=1).fit(X, y).predict_proba(X)
    clf = make(max_epochs=1).fit(convert(X), y, X_val=convert(X[:10]), y_val=y[:10])
    assert clf.predict(convert(X)).shape == (60,)
    clf = make(max_epochs=1).fit(convert(X), y)
    np.testing.assert_array_equal(clf.predict_proba(convert(X)), expected)


LABELS = {
    "str": np.array(["no", "yes"]),
    "object": np.array(["no", "yes"], dtype=object),
    "5 and 7": np.array([5, 7]),
    "-1 and 1": np.array([-1, 1]),
    "bool": np.array([False, True]),
    "float": np.array([1.0, 2.0]),
}


@pytest.mark.parametrize("container", [np.asarray, list, pd.Series, pl.Series])
@pytest.mark.parametrize("kind", LABELS)
def test_fit_predict__labels_of_any_kind__come_back_like_logistic_regression(
    make, binary, kind, container
):
    X, _ = [part[:60] for part in binary]
    y = LABELS[kind][np.arange(60) % 2]
    clf = make(max_epochs=1).fit(X, container(y.tolist()))
    reference = LogisticRegression().fit(np.arange(60)[:, None], container(y.tolist()))
    np.testing.assert_array_equal(clf.classes_, reference.classes_)
    assert clf.classes_.dtype == reference.classes_.dtype
    assert clf.predict(X).dtype == clf.classes_.dtype
    assert 0 <= clf.score(X, y) <= 1


def test_fit__column_labels__warns_as_scikit_learn(make, binary):
    X, y = binary
    with pytest.warns(UserWarning, match="column-vector y was passed"):
        make(max_epochs=1).fit(X, np.array(y)[:, None])


def test_fit__four_rows__works(make):
    clf = make(max_epochs=2).fit(["good", "bad", "great", "awful"], [1, 0, 1, 0])
    assert clf.predict_proba(["good"]).shape == (1, 2)
    assert clf.best_score_ is not None


def test_fit__classes_of_one_row__stay_in_training(make, binary):
    X, y = binary
    clf = make(max_epochs=1).fit([*X, "meal"], [*y, "rare"])
    assert list(clf.classes_) == ["no", "rare", "yes"]


def test_fit__only_singletons__warns_and_trains_without_early_stopping(make):
    with pytest.warns(UserWarning, match="None of the 2 rows can be held out"):
        clf = make(max_epochs=2).fit(["good", "bad"], ["a", "b"])
    assert clf.n_iter_ == 2
    assert clf.best_score_ is None


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_fit__validation_fraction__decides_how_many_rows_train(make, binary, fraction):
    X, y = binary
    clf = make(max_epochs=1, validation_fraction=fraction).fit(X, y)
    epoch = clf.history_[0]
    n_train = epoch["examples_per_second"] / epoch["tokens_per_second"]
    mean_tokens = np.mean([len(text.split()) + 2 for text in X])
    assert n_train * mean_tokens == pytest.approx(1, rel=0.1)


# --- answers --------------------------------------------------------------------------------


def test_answers__binary__have_scikit_learns_shapes_and_signs(make, binary):
    X, y = binary
    clf = make(max_epochs=3).fit(X, y)
    probabilities, decision = clf.predict_proba(X), clf.decision_function(X)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert decision.shape == (200,)
    assert decision.dtype == np.float64
    np.testing.assert_array_equal(clf.predict(X), clf.classes_[(decision > 0).astype(int)])
    np.testing.assert_allclose(1 / (1 + np.exp(-decision)), probabilities[:, 1], atol=1e-12)
    np.testing.assert_allclose(np.exp(clf.predict_log_proba(X)), probabilities, atol=1e-12)
    vectors = clf.transform(X)
    assert (vectors.shape, vectors.dtype) == ((200, 32), np.float32)


def test_answers__three_classes__decision_function_is_logits(fitted, three_classes):
    X, _ = three_classes
    decision, probabilities = fitted.decision_function(X), fitted.predict_proba(X)
    assert decision.shape == probabilities.shape == (240, 3)
    np.testing.assert_array_equal(decision.argmax(axis=1), probabilities.argmax(axis=1))
    with torch.no_grad():
        logits = fitted.model_.head(torch.from_numpy(fitted.transform(X)))
    np.testing.assert_allclose(decision, logits, atol=1e-5)


@pytest.mark.parametrize("method", ANSWERS)
def test_answers__unfitted__raise_not_fitted(make, method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(make(), method)(["a"])


@pytest.mark.parametrize("method", ANSWERS)
def test_answers__bad_text__is_named(fitted, method):
    with pytest.raises(InvalidTextError, match=r"X\[1\] is None"):
        getattr(fitted, method)(["a", None])


def test_feature_names__transform__are_prefixed(fitted):
    names = fitted.get_feature_names_out()
    assert len(names) == 32
    assert names[0] == "transformertextclassifier0"


def test_set_output__pandas__keeps_the_index(make, binary):
    X, y = [part[:60] for part in binary]
    clf = make(max_epochs=1).set_output(transform="pandas").fit(X, y)
    frame = clf.transform(pd.DataFrame({"text": X}, index=np.arange(60) + 7))
    assert list(frame.columns) == list(clf.get_feature_names_out())
    assert list(frame.index) == list(range(7, 67))
    assert isinstance(clf.transform(X), pd.DataFrame)


# --- scikit-learn's contract ----------------------------------------------------------------


def test_signature__parameters__are_keyword_only_after_model():
    parameters = list(inspect.signature(TransformerTextClassifier).parameters.values())
    assert parameters[0].name == "model"
    assert {p.kind for p in parameters[1:]} == {inspect.Parameter.KEYWORD_ONLY}


def test_tags__text_classifier__are_honest(make):
    tags = get_tags(make())
    assert tags.input_tags.string
    assert tags.input_tags.one_d_array
    assert not tags.input_tags.two_d_array
    assert tags.target_tags.required
    assert tags.transformer_tags is not None
    assert is_classifier(make())


def test_get_params__flat__and_settable(make):
    clf = make()
    assert not [name for name in clf.get_params() if "__" in name]
    assert clf.set_params(max_epochs=3).max_epochs == 3
    assert "max_epochs=3" in repr(clf)
    assert "max_epochs" in clf._repr_html_()


def test_fit__parameters__are_never_written(make, binary):
    clf = make(learning_rate="auto", precision="auto", device="auto", class_weight="balanced")
    before = clf.get_params()
    clf.fit(*binary)
    assert clf.get_params() == before
    assert clf.learning_rate_ == pytest.approx(5e-4)
    assert clf.precision_ in {"float32", "bfloat16", "float16"}
    assert clf.device_ in {"cpu", "cuda", "mps"}
    assert clf.pooling_ == "cls"
    assert clf.max_length_ == 256


BAD_PARAMETERS = {
    "model": [3, None],
    "max_length": [0, -1, 2.5, "long"],
    "pooling": ["first", None],
    "dropout": [1.0, -0.1, "auto"],
    "learning_rate": [0, -1e-3, "fast", None],
    "weight_decay": [-1, "auto"],
    "warmup": [-0.1, 1.1],
    "max_grad_norm": [0, -1, "auto"],
    "batch_size": [0, 1.5, None],
    "max_epochs": [0, 2.5],
    "early_stopping": ["auto", 2],
    "validation_fraction": [1.0, -0.1, 5],
    "n_iter_no_change": [0, 1.5],
    "tol": [-1e-9],
    "scoring": ["accuracyy", 3],
    "class_weight": ["auto", 3],
    "device": ["gpu", 3],
    "precision": ["half", None],
    "callbacks": ["EarlyStopping", 3],
    "warm_start": ["yes", 2],
    "random_state": ["seed", -1.5],
    "verbose": [-1, "loud"],
}


def test_bad_parameters__table__covers_every_parameter(make):
    assert set(BAD_PARAMETERS) == set(make().get_params())


BAD_VALUES = [(name, value) for name, values in BAD_PARAMETERS.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_fit__bad_parameter__is_named_with_its_value(make, binary, name, value):
    clf = make(**{name: value})
    message = f"The '{name}' parameter of TransformerTextClassifier must be.*{value!r}"
    with pytest.raises(ValueError, match=message):
        clf.fit(*binary)
    assert not hasattr(clf, "model_")


CONFLICTS = {
    "no rows to hold out": ({"validation_fraction": 0}, {}, "validation_fraction=0. Raise it"),
    "X_val alone": ({}, {"X_val": ["a"]}, "X_val is provided, but y_val was not"),
    "y_val alone": ({}, {"y_val": ["no"]}, "y_val is provided, but X_val was not"),
    "X_val with other labels": ({}, {"X_val": ["a"], "y_val": ["?"]}, r"\['\?'\] in y_val"),
    "X_val not texts": ({}, {"X_val": [1], "y_val": ["no"]}, r"X_val\[0\] is 1"),
    "X_val and y_val differ": ({}, {"X_val": ["a", "b"], "y_val": ["no"]}, "X_val, y_val"),
    "negative weight": ({}, {"sample_weight": [-1] * 200}, "[Nn]egative"),
    "wrong number of weights": ({}, {"sample_weight": [1] * 3}, "sample_weight"),
    "weightless classes": ({"class_weight": {"no": 0, "yes": 0}}, {}, "class_weight is zero"),
    "negative class weight": ({"class_weight": {"no": -1}}, {}, "must be finite and not negative"),
    "missing label": ({}, {"y": ["no", None] * 100}, r"y\[1\] is None"),
    "no room for text": ({"max_length": 2}, {}, "max_length=2 leaves no room"),
    "unknown class": ({"class_weight": {"maybe": 2}}, {}, "not in class_weight"),
    "no such folder": ({"model": "/no/such/folder"}, {}, "which does not exist"),
    "GPU that is not there": ({"device": "cuda:99"}, {}, "device='cuda:99' is not available"),
}


@pytest.mark.parametrize("kind", CONFLICTS)
def test_fit__conflict__is_explained_and_leaves_the_estimator_as_it_was(make, binary, kind):
    parameters, arguments, message = CONFLICTS[kind]
    clf = make(max_epochs=1).fit(*binary)
    clf.set_params(**parameters)
    before = dict(vars(clf))
    with pytest.raises((ValueError, PretrainedModelError), match=message):
        clf.fit(**({"X": binary[0], "y": binary[1]} | arguments))
    assert vars(clf) == before


def test_fit__unequal_lengths__names_both(make):
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[3, 2\]"):
        make().fit(["a", "b", "c"], [0, 1])


def test_fit__one_class__is_refused(make):
    with pytest.raises(ValueError, match="at least 2 classes"):
        make().fit(["a", "b", "c"], [1, 1, 1])


def test_fit__no_labels__is_refused(make):
    with pytest.raises(ValueError, match="requires y to be passed"):
        make().fit(["a", "b"], None)


# --- scoring --------------------------------------------------------------------------------


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
    assert clf.n_iter_ == len(seen) == 2


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
    assert seen[1] is None


@pytest.mark.parametrize("scoring", ["f1", "average_precision", "neg_log_loss"])
def test_scoring__scorer_that_cannot_work__is_refused_before_loading(make, binary, scoring):
    X, y = binary
    labels = ["rare", *y[1:]]
    clf = make(model="/no/such/folder", scoring=scoring)
    with pytest.raises(ValueError, match=f"scoring='{scoring}' cannot score the 20 validation"):
        clf.fit(X, labels)


def test_scoring__nan__is_refused(make, binary):
    with pytest.raises(ValueError, match="gave nan for the 20 validation rows"):
        make(scoring=lambda *_: float("nan")).fit(*binary)


def test_scoring__minus_infinity__keeps_the_first_epoch(make, binary):
    clf = make(scoring=lambda *_: -np.inf, n_iter_no_change=2).fit(*binary)
    assert (clf.n_iter_, clf.best_epoch_, clf.best_score_) == (2, 1, -np.inf)


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
    assert seen == [False, False]


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
    assert sum(texts_read) == 2 * 50 + 32  # and a look at one batch in the end


# --- seeds ----------------------------------------------------------------------------------


def weights_of(clf):
    return torch.cat([p.detach().flatten() for p in clf.model_.parameters()])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_random_state__same__is_bit_identical(make, three_classes, precision):
    first, second = (make(precision=precision, max_epochs=3).fit(*three_classes) for _ in range(2))
    assert torch.equal(weights_of(first), weights_of(second))
    assert first.best_score_ == second.best_score_


def test_random_state__other__differs(make, three_classes):
    first, second = (make(random_state=s, max_epochs=1).fit(*three_classes) for s in (0, 1))
    assert not torch.equal(weights_of(first), weights_of(second))


def test_random_state__none__can_be_repeated_with_seed(make, three_classes):
    first = make(random_state=None, max_epochs=1).fit(*three_classes)
    second = make(random_state=first.seed_, max_epochs=1).fit(*three_classes)
    assert torch.equal(weights_of(first), weights_of(second))
    third = make(random_state=None, max_epochs=1).fit(*three_classes)
    assert third.seed_ != first.seed_


@pytest.mark.parametrize("random_state", [None, 0])
def test_random_state__global_states__are_untouched(make, binary, random_state):
    def states():
        legacy = np.random.get_state()  # noqa: NPY002
        return torch.get_rng_state(), legacy[1].copy(), legacy[2], random.getstate()

    before = states()
    clf = make(random_state=random_state, max_epochs=1).fit(*binary)
    clf.predict(binary[0])
    pickle.loads(pickle.dumps(clf))
    after = states()
    assert torch.equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


# --- going on -------------------------------------------------------------------------------


def test_warm_start__second_fit__goes_on(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=3, early_stopping=False).fit(X, y)
    first = clf.history_[-1]["train_loss"]
    clf.fit(X, y)
    assert clf.n_iter_ == 6
    assert [epoch["epoch"] for epoch in clf.history_] == [1, 2, 3, 4, 5, 6]
    assert clf.history_[3]["train_loss"] < 1.2 * first
    assert clf.best_epoch_ == 6


def test_warm_start__off__starts_over(make, three_classes):
    X, y = three_classes
    clf = make(max_epochs=2).fit(X, y)
    first = weights_of(clf)
    assert torch.equal(weights_of(clf.fit(X, y)), first)
    assert clf.n_iter_ == 2


def test_warm_start__best_epoch_of_second_fit__is_counted_over_both(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=10, n_iter_no_change=2, learning_rate=0.02).fit(X, y)
    n_first = clf.n_iter_
    clf.fit(X, y)
    later = [epoch["valid_score"] for epoch in clf.history_[n_first:]]
    assert clf.best_epoch_ == n_first + int(np.argmax(later)) + 1
    assert clf.best_score_ == max(later)


def test_warm_start__other_classes__are_refused(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match="same classes as in the previous call to fit"):
        clf.fit(X, [label.replace("plain", "good") for label in y])


@pytest.mark.parametrize("changed", [{"model": "gpt2"}, {"pooling": "max"}, {"dropout": 0.7}])
def test_going_on__with_another_kind_of_model__is_refused(make, three_classes, changed):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=1).fit(X, y).set_params(**changed)
    (name,) = changed
    for go_on in (clf.fit, clf.partial_fit):
        with pytest.raises(ValueError, match=rf"began with {name}=.*the parameter is now {name}="):
            go_on(X, y)


def test_going_on__bad_parameter__is_named(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=1).fit(X, y)
    for changed in ({"device": "foo"}, {"batch_size": 0}):
        clf = clone(clf).fit(X, y).set_params(**changed)
        for go_on in (clf.fit, clf.partial_fit):
            with pytest.raises(ValueError, match=f"The '{next(iter(changed))}' parameter"):
                go_on(X, y)
        clf.set_params(device="cpu", batch_size=32)


def test_going_on__after_a_freezer__trains_everything_again(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=2, callbacks=[Freezer("backbone.*")]).fit(X, y)
    assert all(p.requires_grad for p in clf.model_.parameters())
    before = clf.model_.backbone.state_dict()
    before = {name: weight.clone() for name, weight in before.items()}
    clf.set_params(callbacks=None).fit(X, y)
    after = clf.model_.backbone.state_dict()
    assert not all(torch.equal(before[name], after[name]) for name in before)


def test_warm_start__failing__keeps_the_model_bit_by_bit(make, three_classes):
    clf = make(warm_start=True, max_epochs=2).fit(*three_classes)
    before, history = weights_of(clf), list(clf.history_)
    clf.set_params(learning_rate=1e30, max_grad_norm=None)
    with pytest.raises(ArithmeticError):
        clf.fit(*three_classes)
    assert torch.equal(weights_of(clf), before)
    assert clf.history_ == history


def test_partial_fit__epoch_by_epoch__learns(make, three_classes):
    X, y = three_classes
    clf = make()
    for _ in range(8):
        clf.partial_fit(X, y, classes=["bad", "good", "plain"])
    assert clf.n_iter_ == 8
    assert clf.score(X, y) > 0.8
    assert clf.best_score_ is None


def test_partial_fit__batches_with_missing_classes__keep_all_classes(make):
    clf = make().partial_fit(["good"], ["a"], classes=["c", "a", "b"])
    clf.partial_fit(["bad"], ["b"])
    assert list(clf.classes_) == ["a", "b", "c"]
    assert clf.predict_proba(["meal"]).shape == (1, 3)


def test_partial_fit__after_fit__goes_on(make, three_classes):
    X, y = three_classes
    clf = make(max_epochs=2).fit(X, y)
    before = weights_of(clf)
    clf.partial_fit(X[:10], y[:10])
    assert clf.n_iter_ == 3
    assert not torch.equal(weights_of(clf), before)


def test_partial_fit__two_calls__do_not_repeat_the_same_shuffle(make, three_classes):
    X, y = three_classes
    seen = []

    class Batches(Callback):
        def on_batch_end(self, net, batch, **kwargs):
            seen[-1].append(batch[0]["input_ids"].tolist())

    clf = make(callbacks=[Batches()])
    for _ in range(2):
        seen.append([])
        clf.partial_fit(X, y, classes=np.unique(y))
    assert sorted(map(len, seen[0])) == sorted(map(len, seen[1]))
    assert seen[0] != seen[1]


PARTIAL_FIT_ERRORS = {
    "no classes": ({}, "classes must be passed on the first call to partial_fit"),
    "unseen label": ({"classes": ["no", "maybe"]}, r"\['yes'\] in y do not exist in the initial"),
}


@pytest.mark.parametrize("kind", PARTIAL_FIT_ERRORS)
def test_partial_fit__first_call_wrong__leaves_unfitted(make, binary, kind):
    arguments, message = PARTIAL_FIT_ERRORS[kind]
    clf = make()
    with pytest.raises(ValueError, match=message):
        clf.partial_fit(*binary, **arguments)
    assert not hasattr(clf, "classes_")


def test_partial_fit__other_classes_later__are_refused(make, binary):
    clf = make().partial_fit(*binary, classes=["no", "yes"])
    with pytest.raises(ValueError, match="is not the same as on last call"):
        clf.partial_fit(*binary, classes=["no", "yes", "maybe"])


def test_partial_fit__balanced__is_refused_as_in_scikit_learn(make, binary):
    with pytest.raises(ValueError, match="'balanced' is not supported by partial_fit"):
        make(class_weight="balanced").partial_fit(*binary, classes=["no", "yes"])


# --- in company -----------------------------------------------------------------------------


def test_pipeline_grid_search__cleaning_and_rate__finds_the_better(make, three_classes):
    X, y = three_classes
    pipeline = make_pipeline(FunctionTransformer(lambda X: [text.upper() for text in X]), make())
    grid = {"transformertextclassifier__learning_rate": [1e-30, 5e-3]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
    assert search.best_params_ == {"transformertextclassifier__learning_rate": 5e-3}
    assert search.score(X, y) > 0.8


def test_cross_val_score__workers__equal_one_process(make, three_classes):
    X, y = three_classes
    clf = make(max_epochs=2)
    one, two = (cross_val_score(clf, X, y, cv=2, n_jobs=n) for n in (1, 2))
    np.testing.assert_array_equal(one, two)


def live_tensors():
    gc.collect()
    return [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]


def test_fit__in_threads__equals_one_after_the_other(make, three_classes):
    X, y = three_classes
    before = torch.get_rng_state()
    expected = make(max_epochs=2).fit(X, y).predict_proba(X)
    work = [delayed(make(max_epochs=2).fit)(X, y) for _ in range(4)]
    for clf in Parallel(n_jobs=4, backend="threading")(work):
        np.testing.assert_array_equal(clf.predict_proba(X), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_fit__afterwards__nothing_is_left_but_the_model(make, three_classes):
    before = {id(tensor) for tensor in live_tensors()}
    clf = make(max_epochs=3).fit(*three_classes)
    clf.predict(three_classes[0])
    own = {id(t) for t in [*clf.model_.parameters(), *clf.model_.buffers()]}
    assert [tensor for tensor in live_tensors() if id(tensor) not in before | own] == []
    assert all(p.grad is None for p in clf.model_.parameters())
    assert not clf.model_.training


def test_fit__no_terminal__prints_and_warns_nothing(make, binary, capfd):
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone(make(verbose=1, max_epochs=1)).fit(*binary).predict(binary[0])
    assert capfd.readouterr() == ("", "")


# --- on a GPU -------------------------------------------------------------------------------

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_gpu__fit__learns_and_answers_like_the_cpu(make, three_classes, precision):
    X, y = three_classes
    clf = make(device="auto", precision=precision, max_epochs=12).fit(X, y)
    assert clf.device_ == "cuda"
    assert clf.score(X, y) > 0.8
    state = clf.__getstate__() | {"device_": "cpu"}
    on_cpu = object.__new__(type(clf))
    on_cpu.__setstate__(state)
    assert on_cpu.device_ == "cpu"
    np.testing.assert_allclose(on_cpu.predict_proba(X), clf.predict_proba(X), atol=1e-4)


@gpu
@pytest.mark.gpu
def test_gpu__estimator_gone__memory_is_back(make, three_classes):
    make(device="cuda", max_epochs=1).fit(*three_classes)  # cuBLAS keeps a workspace for good
    gc.collect()
    before = torch.cuda.memory_allocated()
    clf = make(device="cuda", max_epochs=1).fit(*three_classes)
    assert torch.cuda.memory_allocated() > before
    del clf
    gc.collect()
    assert torch.cuda.memory_allocated() == before


@gpu
@pytest.mark.gpu
def test_gpu__global_random_state__is_untouched(make, binary):
    before = torch.cuda.get_rng_state()
    make(device="cuda", max_epochs=1).fit(*binary)
    assert torch.equal(torch.cuda.get_rng_state(), before)
