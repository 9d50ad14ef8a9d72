import gc
import inspect
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
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

from sklearn_transformers import InvalidTextError, PretrainedModelError, TransformerTextClassifier

ANSWERS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")


# --- learning --------------------------------------------------------------------------------


def test_fit__three_classes__learns_them(make, three_classes):
    X_test, y_test = toy_texts(150, classes=("bad", "good", "plain"), seed=1)
    clf = make(max_epochs=15, pooling="mean", early_stopping=False).fit(*three_classes)
    assert clf.score(X_test, y_test) > 0.9


@pytest.mark.pretrained
def test_fit__default_model__learns_from_few_texts():
    X = ["I loved it", "what a joy", "great fun", "I hated it", "what a bore", "no fun at all"] * 6
    y = ["good", "good", "good", "bad", "bad", "bad"] * 6
    clf = TransformerTextClassifier(max_epochs=4, random_state=0, verbose=0).fit(X, y)
    assert list(clf.predict(["a delightful film", "a terrible waste of time"])) == ["good", "bad"]
    assert clf.transform(X[:2]).shape == (2, 384)


# --- inputs and labels -----------------------------------------------------------------------


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
    with pytest.warns(UserWarning, match="column-vector y was passed") as caught:
        make(max_epochs=6).fit(X, np.array(y)[:, None])
    assert len(caught) == 1


def test_fit__four_rows__works(make):
    clf = make(max_epochs=2).fit(["good", "bad", "great", "awful"], [1, 0, 1, 0])
    assert clf.predict_proba(["good"]).shape == (1, 2)
    assert clf.best_score_ is not None


def test_fit__classes_of_one_row__stay_in_training(make, binary):
    X, y = binary
    clf = make(max_epochs=1).fit([*X, "meal"], [*y, "rare"])
    assert list(clf.classes_) == ["no", "rare", "yes"]


def test_fit__only_singletons__warns_and_trains_without_early_stopping(make):
    with pytest.warns(UserWarning, match="None of the 2 different rows can be held out"):
        clf = make(max_epochs=2).fit(["good", "bad"], ["a", "b"])
    assert clf.n_iter_ == 2
    assert clf.best_score_ is None


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_fit__validation_fraction__decides_how_many_rows_train(make, binary, fraction):
    X, y = binary
    clf = make(max_epochs=1, validation_fraction=fraction).fit(X, y)
    epoch = clf.history_[1]
    n_train = epoch["examples_per_second"] / epoch["tokens_per_second"]
    mean_tokens = np.mean([len(text.split()) + 2 for text in X])
    assert n_train * mean_tokens == pytest.approx(1, rel=0.1)


# --- answers ---------------------------------------------------------------------------------


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


def test_answers__three_classes__decision_function_is_calibrated_logits(fitted, three_classes):
    X, _ = three_classes
    decision, probabilities = fitted.decision_function(X), fitted.predict_proba(X)
    assert decision.shape == probabilities.shape == (240, 3)
    np.testing.assert_array_equal(decision.argmax(axis=1), probabilities.argmax(axis=1))
    with torch.no_grad():
        logits = fitted.model_.head(torch.from_numpy(fitted.transform(X)))
    np.testing.assert_allclose(decision * fitted.temperature_, logits, atol=1e-5)


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


# --- scikit-learn's contract -----------------------------------------------------------------


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
    assert clf.max_length_ == 300  # all that the tiny model can read


BAD_PARAMETERS = {
    "model": [3, None],
    "max_length": [0, -1, 2.5, "long"],
    "pooling": ["first", None],
    "dropout": [1.0, -0.1, "auto"],
    "head_init": ["zero", None],
    "learning_rate": [0, -1e-3, "fast", None],
    "head_learning_rate": [0, -1e-3, "fast", None],
    "layer_decay": [0, 1.1, "auto"],
    "label_smoothing": [1.0, -0.1, None],
    "weight_decay": [-1, "auto"],
    "warmup": [-0.1, 1.1],
    "max_grad_norm": [0, -1, "auto"],
    "batch_size": [0, 1.5, None],
    "gradient_checkpointing": ["yes", 2],
    "compile": ["yes", 2],
    "tuning": ["prefix", None, 1],
    "freeze_layers": [-1, 1.5, None],
    "lora_rank": [0, 2.5],
    "lora_alpha": [0, -1, None],
    "lora_dropout": [1.0, -0.1],
    "n_prompt_tokens": [0, 1.5],
    "head": ["deep", None, 3],
    "loss": ["hinge", None, 3],
    "optimizer": ["adam", None, 3],
    "optimizer_params": ["fast", 3],
    "schedule": ["step", None],
    "max_epochs": [0, 2.5],
    "early_stopping": ["maybe", 2],
    "truncation_side": ["centre", None],
    "validation_fraction": [1.0, -0.1, 5],
    "n_iter_no_change": [0, 1.5],
    "tol": [-1e-9],
    "bag_of_words": ["yes", 2],
    "calibrate": ["yes", 2],
    "scoring": ["accuracyy", 3],
    "class_weight": ["auto", 3],
    "device": ["gpu", 3],
    "precision": ["half", None],
    "predict_precision": ["half", None],
    "store_dtype": ["float64", None],
    "checkpoint_dir": [3, ["folder"]],
    "callbacks": ["EarlyStopping", 3],
    "warm_start": ["yes", 2],
    "random_state": ["seed", -1.5],
    "verbose": [-1, "loud"],
}


def test_bad_parameters__table__covers_every_parameter(make):
    assert set(BAD_PARAMETERS) == set(make().get_params())


@pytest.mark.parametrize(("side", "sees_it"), [("middle", True), ("left", True), ("right", False)])
def test_truncation_side__word_that_decides_is_last__seen_unless_cut_off(make, side, sees_it):
    words, labels = ["good", "bad"] * 60, ["yes", "no"] * 60
    texts = ["the film " * (10 + number % 7) + word for number, word in enumerate(words)]
    learner = {"pooling": "mean", "max_epochs": 12, "early_stopping": False}
    clf = make(max_length=8, truncation_side=side, **learner)
    assert (clf.fit(texts, labels).score(texts, labels) == 1) == sees_it
    assert clf.truncation_report_["share_cut"] == 1


def test_truncation_side__changed_after_fit__answers_as_it_learned(make, binary):
    clf = make(max_length=6, max_epochs=1).fit(*binary)
    texts = ["good bad film " * 10]
    expected = clf.predict_proba(texts)
    np.testing.assert_array_equal(
        clf.set_params(truncation_side="right").predict_proba(texts), expected
    )


def test_truncation_side__changed_before_training_goes_on__is_what_is_learned_and_read(
    make, binary
):
    clf = make(max_length=6, max_epochs=1).fit(*binary)
    clf.set_params(truncation_side="left").partial_fit(*binary)
    texts = ["good bad film " * 10, "bad film " * 2]
    np.testing.assert_array_equal(*clf.predict_proba([texts[0], "bad film good bad film"])[:, None])
    assert np.isfinite(clf.predict_proba(texts)).all()


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


# --- in company ------------------------------------------------------------------------------


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
        clone(make(verbose=1)).fit(*binary).predict(binary[0])
    assert capfd.readouterr() == ("", "")


# --- on a GPU --------------------------------------------------------------------------------

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
