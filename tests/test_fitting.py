import pickle
import random
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_texts
from sklearn.base import clone
from skorch.callbacks import Callback, Freezer

from sklearn_transformers import TextDataWarning, _held_out


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


def test_warm_start__second_fit__goes_on(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=3, early_stopping=False).fit(X, y)
    first = clf.history_[-1]["train_loss"]
    clf.fit(X, y)
    assert clf.n_iter_ == 6
    assert [epoch["epoch"] for epoch in clf.history_] == [0, 1, 2, 3, 4, 5, 6]
    assert clf.history_[4]["train_loss"] < 1.2 * first
    assert clf.best_epoch_ == 6


def test_warm_start__off__starts_over(make, three_classes):
    X, y = three_classes
    clf = make(max_epochs=2).fit(X, y)
    first = weights_of(clf)
    assert torch.equal(weights_of(clf.fit(X, y)), first)
    assert clf.n_iter_ == 2


def test_warm_start__best_epoch_of_second_fit__is_counted_over_both(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=2, scoring="neg_log_loss").fit(X, y)
    n_first = clf.n_iter_
    clf.set_params(max_epochs=10, n_iter_no_change=2, learning_rate=0.02).fit(X, y)
    later = [epoch["valid_score"] for epoch in clf.history_[n_first + 1 :]]
    assert clf.best_epoch_ == n_first + int(np.argmax(later)) + 1
    assert clf.best_score_ == max(later)


def test_warm_start__no_epoch_better_than_the_model__leaves_it(make, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=8).fit(X, y)
    before, epoch, answers = weights_of(clf), clf.best_epoch_, clf.predict_proba(X)
    clf.set_params(max_epochs=2, learning_rate=1.0).fit(X, y)  # ruins it
    assert clf.n_iter_ == 10
    assert clf.best_epoch_ == epoch
    assert torch.equal(weights_of(clf), before)
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1)
    np.testing.assert_array_equal(clf.predict_proba(X).argmax(axis=1), answers.argmax(axis=1))


def held_out_of(monkeypatch):
    """The texts that each fit holds out, as they are judged."""
    seen, original = [], _held_out.HeldOut.__init__

    def init(self, rows, *others):
        seen.append(set(rows.texts))
        original(self, rows, *others)

    monkeypatch.setattr(_held_out.HeldOut, "__init__", init)
    return seen


@pytest.mark.parametrize("random_state", [0, None])
def test_warm_start__same_rows__are_held_out_again(make, monkeypatch, random_state):
    X, y = toy_texts(400, seed=1)
    X = [f"{text} {number}" for number, text in enumerate(X)]
    seen = held_out_of(monkeypatch)
    clf = make(warm_start=True, max_epochs=1, early_stopping="auto", random_state=random_state)
    clf.fit(X, y).fit(X, y)
    clf = pickle.loads(pickle.dumps(clf)).set_params(random_state=5).fit(X, y)
    assert len(seen[0]) == 40
    assert seen[0] == seen[1] == seen[2]
    clf.set_params(warm_start=False).fit(X, y)
    assert seen[3] != seen[0]


def test_warm_start__labels_of_noise__are_never_thought_to_be_known(make):
    rng = np.random.default_rng(0)
    X, _ = toy_texts(400)
    X = [f"{text} {' '.join(rng.choice(list('bcdefghijklmnopqrs'), 6))}" for text in X]
    y = rng.choice(["no", "yes"], 400)
    # More epochs than do good, so that rows of the training are known by heart.
    clf = make(warm_start=True, max_epochs=8, early_stopping="auto", n_iter_no_change=99)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextDataWarning)  # it is no better than guessing
        for _ in range(3):
            clf.fit(X, y)
    assert clf._report["accuracy"] < 0.75
    assert clf.score(X, y) > clf._report["accuracy"] + 0.1


@pytest.mark.parametrize("first", [{"early_stopping": False}, {"early_stopping": "auto"}], ids=str)
def test_warm_start__rows_that_were_all_trained_on__judge_nothing(make, first):
    X, y = toy_texts(400)
    y = ["yes" if label == "yes" and number % 8 == 1 else "no" for number, label in enumerate(y)]
    clf = make(warm_start=True, max_epochs=1, **first).fit(X, y)
    assert clf._report["n_train"] == 400
    temperature = clf.temperature_
    clf.set_params(early_stopping="auto").fit(X[::-1], y[::-1])
    assert not clf.early_stopping_
    assert clf.best_score_ is None
    assert clf.temperature_ == temperature
    clf.partial_fit(X[:8], y[:8])
    clf = pickle.loads(pickle.dumps(clf)).set_params(early_stopping=True)
    for _ in range(2):
        with pytest.warns(TextDataWarning, match="trained on all of these 400 rows"):
            clf.fit(X, y)
    clf.set_params(early_stopping=False).fit([f"{text} bad" for text in X], y)
    clf.set_params(early_stopping="auto")
    assert not clf.fit(X, y).early_stopping_
    new = [f"{text} good" for text in X]
    with warnings.catch_warnings():
        warnings.simplefilter("error", TextDataWarning)
        assert clf.fit(new, y).early_stopping_


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


def test_going_on__the_same_start_in_other_words__is_accepted(make, checkpoints, three_classes):
    X, y = three_classes
    clf = make(warm_start=True, max_epochs=1).fit(X, y)
    same = Path(checkpoints["bert"]).parent / "." / "bert"
    clf.set_params(model=f"{checkpoints['bert']}/", pooling=clf.pooling_).fit(X, y)
    clf.set_params(model=same).partial_fit(X, y)
    assert clf.n_iter_ == 3


def test_fit__everything_frozen__names_the_callbacks(make, binary):
    with pytest.raises(ValueError, match="callbacks froze every weight"):
        make(callbacks=[Freezer("*")]).fit(*binary)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fit_predict__inside_autocast__equal_outside(make, binary, precision):
    X, y = binary
    outside = make(precision=precision, max_epochs=2).fit(X, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = make(precision=precision, max_epochs=2).fit(X, y)
        np.testing.assert_array_equal(inside.predict_proba(X), outside.predict_proba(X))
        np.testing.assert_array_equal(inside.transform(X), outside.transform(X))
    assert torch.equal(weights_of(inside), weights_of(outside))


def test_load__while_another_thread_fits__does_not_wait(make, binary, fitted):
    content = pickle.dumps(fitted)
    loaded = []

    class LoadMeanwhile(Callback):
        def on_epoch_end(self, net, **kwargs):
            thread = threading.Thread(target=lambda: loaded.append(pickle.loads(content)))
            thread.start()
            thread.join(timeout=60)
            assert loaded

    expected = make(max_epochs=2).fit(*binary).predict_proba(binary[0])
    clf = make(max_epochs=2, callbacks=[LoadMeanwhile()]).fit(*binary)
    np.testing.assert_array_equal(clf.predict_proba(binary[0]), expected)
    assert len(loaded) == 2
