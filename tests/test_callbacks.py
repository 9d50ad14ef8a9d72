import io
import multiprocessing
import re
import sys
import threading
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import AdaBoostClassifier, VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.multioutput import ClassifierChain
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    Freezer,
    LRScheduler,
    Unfreezer,
)

from sklearn_transformers._callbacks import is_watched
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._schedule import Schedule


def schedule_of(n_steps, warmup):
    schedule = Schedule("linear", warmup)
    schedule.on_train_begin(
        SimpleNamespace(n_steps_=n_steps, optimizer_=SimpleNamespace(param_groups=[]))
    )
    return schedule


def test_linear_schedule__warm_up_and_decay__never_reach_zero():
    schedule = schedule_of(20, warmup=0.2)
    factors = [schedule.factor(step) for step in range(20)]
    np.testing.assert_allclose(factors[:5], [0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(factors[4:], np.linspace(1, 1 / 16, 16))


@pytest.mark.parametrize("warmup", [0, 0.1, 1])
def test_linear_schedule__single_step__has_a_rate(warmup):
    assert schedule_of(1, warmup=warmup).factor(0) > 0


def test_early_stopping__stalled__goes_back_to_best_epoch(make, three_classes):
    X, y = three_classes
    clf = make(max_epochs=40, n_iter_no_change=2, learning_rate=0.02).fit(X, y)
    scores = [epoch["valid_score"] for epoch in clf.history_]
    assert clf.n_iter_ == len(scores) - 1 < 40
    assert clf.best_epoch_ == int(np.argmax(scores)) == clf.n_iter_ - 2
    assert clf.best_score_ == max(scores)


def test_early_stopping__restored_weights__give_the_best_score(make, three_classes, binary):
    X, y = three_classes
    X_val, y_val = X[:60], y[:60]
    choices = {"learning_rate": 0.02, "scoring": "neg_log_loss", "random_state": 3}
    clf = make(max_epochs=15, n_iter_no_change=2, **choices)
    clf.fit(X[60:], y[60:], X_val=X_val, y_val=y_val)
    assert clf.best_epoch_ < clf.n_iter_
    log_proba = clf.predict_log_proba(X_val)
    expected = np.mean([log_proba[i, list(clf.classes_).index(y_val[i])] for i in range(60)])
    assert clf.best_score_ == pytest.approx(expected, abs=1e-9)


def test_early_stopping__tol__counts_small_gains_as_stalled(make, three_classes):
    clf = make(max_epochs=20, tol=100.0, n_iter_no_change=3).fit(*three_classes)
    assert clf.n_iter_ == 4


def test_early_stopping__off__runs_every_epoch_and_keeps_the_last(make, binary):
    clf = make(max_epochs=3, early_stopping=False).fit(*binary)
    assert (clf.n_iter_, clf.best_epoch_, clf.best_score_) == (3, 3, None)
    assert "valid_loss" not in clf.history_[0]


def test_early_stopping__off_with_validation_rows__only_records(make, binary):
    X, y = binary
    clf = make(max_epochs=8, early_stopping=False, learning_rate=0.02)
    clf.fit(X, y, X_val=X[:20], y_val=y[:20])
    assert clf.n_iter_ == clf.best_epoch_ == 8
    assert clf.best_score_ == clf.history_[-1]["valid_score"]
    assert all(epoch["valid_score"] == -epoch["valid_loss"] for epoch in clf.history_)


def test_history__epoch__has_the_documented_plain_values(fitted):
    assert [epoch["epoch"] for epoch in fitted.history_] == list(range(fitted.n_iter_ + 1))
    everywhere = {
        "epoch",
        "valid_loss",
        "valid_score",
        "temperature",
        "learning_rate",
        "seconds",
        "valid_seconds",
    }
    start, *epochs = fitted.history_
    parts = {"load_seconds", "tokenise_seconds", "bag_of_words_seconds"}
    assert set(start) == everywhere | parts
    trained = {"train_loss", "train_seconds", "examples_per_second", "tokens_per_second"}
    for epoch in epochs:
        assert set(epoch) == everywhere | trained
        assert {type(value) for value in epoch.values()} <= {int, float}


def test_history__seconds__are_the_sum_of_their_parts(make, binary):
    clf = make(head_init="logistic", max_epochs=2).fit(*binary)
    start, *epochs = clf.history_
    parts = ("load_seconds", "tokenise_seconds", "bag_of_words_seconds", "head_seconds")
    parts = (*parts, "valid_seconds")
    assert start["seconds"] == pytest.approx(sum(start[part] for part in parts), rel=0.05, abs=0.01)
    for epoch in epochs:
        parts = epoch["train_seconds"] + epoch["valid_seconds"]
        assert epoch["seconds"] == pytest.approx(parts, rel=0.05, abs=0.01)


class Recorder(Callback):
    def __init__(self):
        self.events = []

    def on_train_begin(self, net, **kwargs):
        self.events.append("train begin")

    def on_epoch_end(self, net, **kwargs):
        self.events.append(len(net.history))

    def on_batch_end(self, net, batch, training, **kwargs):
        assert kwargs["y_pred"].shape == (len(batch[1]), 2)

    def on_train_end(self, net, **kwargs):
        self.events.append("train end")


def test_callbacks__users__see_the_training(make, binary):
    recorder = Recorder()
    make(max_epochs=2, callbacks=[recorder]).fit(*binary)
    assert recorder.events == ["train begin", 1, 2, "train end"]


def test_callbacks__skorchs_early_stopping__stops_without_losing_the_model(make, binary):
    stopper = EarlyStopping(monitor="train_loss", patience=2, threshold=100, load_best=True)
    clf = make(max_epochs=9, early_stopping=False, callbacks=[("stop", stopper)]).fit(*binary)
    assert clf.n_iter_ == 3
    assert stopper.best_model_weights_ is None  # nothing of the training stays alive


def test_callbacks__skorchs_early_stopping__lets_the_others_see_the_last_epoch(make, binary):
    stopper = EarlyStopping(monitor="train_loss", patience=2, threshold=100)
    before, after = Recorder(), Recorder()
    callbacks = [("before", before), ("stopper", stopper), ("after", after)]
    clf = make(max_epochs=9, early_stopping=False, callbacks=callbacks)
    assert clf.fit(*binary).n_iter_ == 3
    assert before.events == after.events == ["train begin", 1, 2, 3, "train end"]


def test_callbacks__skorchs_epoch_scoring__records_accuracy(make, binary):
    seen = []

    class Look(Callback):
        def on_epoch_end(self, net, **kwargs):
            seen.append(net.history[-1, "valid_accuracy"])

    scoring = EpochScoring("accuracy", lower_is_better=False, name="valid_accuracy")
    X, y = binary
    clf = make(max_epochs=3, callbacks=[scoring, Look()], early_stopping=False)
    clf.fit(X, y, X_val=X[:50], y_val=y[:50])
    assert seen[-1] == clf.score(X[:50], y[:50])


def test_callbacks__learning_rate_scheduler__replaces_ours_and_leaves_no_optimizer(make, binary):
    scheduler = LRScheduler("StepLR", step_size=1, gamma=0.1)
    clf = make(max_epochs=3, callbacks=[("rate", scheduler)], early_stopping=False).fit(*binary)
    rates = [epoch["learning_rate"] for epoch in clf.history_]
    np.testing.assert_allclose(rates, [0, 5e-3, 5e-4, 5e-5])
    assert scheduler.lr_scheduler_ is None


def test_callbacks__learning_rate_scheduler_class__replaces_ours(make, binary):
    clf = make(max_epochs=2, callbacks=[LRScheduler], early_stopping=False).fit(*binary)
    # The first rate of WarmRestartLR, skorch's default policy; ours would end the epoch near 0.
    assert clf.history_[1]["learning_rate"] == 0.05


def test_callbacks__skorchs_checkpoint__saves_the_best_epochs(make, binary, tmp_path):
    X, y = binary
    for monitor in ("valid_loss_best", "train_loss_best", "valid_score_best"):
        checkpoint = Checkpoint(monitor=monitor, dirname=tmp_path / monitor)
        make(max_epochs=2, callbacks=[checkpoint], early_stopping=False).fit(
            X, y, X_val=X[:20], y_val=y[:20]
        )
        assert (tmp_path / monitor / "params.pt").exists()


def test_callbacks__marks_of_the_best__are_each_about_their_own_value(make, three_classes):
    seen = []

    class Look(Callback):
        def on_train_end(self, net, **kwargs):
            names = ("train_loss", "valid_loss", "valid_score")
            seen.extend((n, net.history[:, n], net.history[:, f"{n}_best"]) for n in names)

    make(max_epochs=6, scoring="accuracy", callbacks=[Look()]).fit(*three_classes)
    for name, values, marks in seen:
        values = -np.array(values) if "loss" in name else np.array(values)
        assert marks == [bool((value > values[:i]).all()) for i, value in enumerate(values)]


def test_callbacks__unfreezing_after_the_best_epoch__restores_it(make, three_classes):
    X, y = three_classes
    falling = iter([0, *range(100, 0, -1)])  # the start, then the epochs
    clf = make(
        callbacks=[Freezer("backbone.*"), Unfreezer("backbone.*", at=2)],
        scoring=lambda *_: next(falling),
        max_epochs=4,
        n_iter_no_change=9,
    ).fit(X, y)
    assert (clf.best_epoch_, clf.n_iter_) == (1, 4)
    start = load_pretrained(clf.model).backbone.state_dict()
    for name, weight in clf.model_.backbone.state_dict().items():
        assert torch.equal(weight, start[name]), name


def test_callbacks__no_callback__is_named(make, binary):
    with pytest.raises(TypeError, match=r"callbacks\[1\] is 'oops'; every callback must"):
        make(callbacks=[Recorder(), "oops"]).fit(*binary)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Put a terminal in place of standard error; called in the test, after pytest's own."""

    def terminal():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return terminal


def test_progress__terminal__shows_a_bar_per_epoch_that_fits(make, binary, terminal):
    stream = terminal()
    make(max_epochs=2, verbose=1, scoring="accuracy").fit(*binary)
    lines = [line.split("\r")[-1].rstrip() for line in stream.getvalue().strip().split("\n")]
    assert len(lines) == 2
    pattern = r"epoch {}/2 \|[█#]{{8}}\| 00:0\d<00:00, loss 0.\d+, valid 0.\d+, score [01].\d+"
    assert re.fullmatch(pattern.format(1) + ", best", lines[0])
    assert re.fullmatch(pattern.format(2) + "(, best)?", lines[1])
    assert max(map(len, lines)) < 80


def test_progress__training_cut_short__closes_the_bar(make, binary, terminal):
    class Stop(Callback):
        def on_batch_end(self, net, **kwargs):
            raise KeyboardInterrupt

    stream = terminal()
    with pytest.raises(KeyboardInterrupt):
        make(verbose=1, callbacks=[Stop()]).fit(*binary)
    assert stream.getvalue().endswith("\n")


def test_progress__verbose_0__is_silent(make, binary, terminal):
    stream = terminal()
    make(max_epochs=1, verbose=0).fit(*binary)
    assert stream.getvalue() == ""


def test_progress__no_terminal__is_silent(make, binary, capfd):
    capfd.readouterr()
    make(max_epochs=1, verbose=1).fit(*binary)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stream", [None, object()])
def test_is_watched__stderr_that_is_no_file__is_not(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    assert not is_watched(1)


def test_is_watched__thread__is_not(terminal):
    terminal()
    answers = []
    thread = threading.Thread(target=lambda: answers.append(is_watched(1)))
    thread.start()
    thread.join()
    assert answers == [False]
    assert is_watched(1)


def _watched_with_terminal():
    sys.stderr = Terminal()
    return is_watched(1), multiprocessing.current_process().name


def test_is_watched__joblib_worker__is_not():
    (watched, name), *_ = joblib.Parallel(n_jobs=2)(
        joblib.delayed(_watched_with_terminal)() for _ in range(2)
    )
    assert name != "MainProcess"
    assert watched is False


def test_is_watched__notebook__is(monkeypatch):
    shell = type("Shell", (), {"kernel": object()})
    module = type(sys)("IPython")
    module.get_ipython = shell
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert is_watched(1)


def fit_alone(clf, X, y):
    return clf.fit(X, y)


def fit_in_a_pipeline(clf, X, y):
    return make_pipeline(FunctionTransformer(), clf).fit(X, y)


def fit_in_a_search(clf, X, y):
    return GridSearchCV(clf, {"max_epochs": [1, 2]}, cv=2).fit(X, y)


def fit_in_a_cross_validation(clf, X, y):
    return cross_validate(clf, X, y, cv=2)


def fit_in_an_ensemble(clf, X, y):
    return VotingClassifier([("one", clf), ("two", clone(clf))]).fit(X, y)


def fit_in_a_calibration(clf, X, y):
    return CalibratedClassifierCV(clf, cv=2).fit(X, y)


def fit_in_a_column_transformer(clf, X, y):
    return ColumnTransformer([("text", clf, 0)]).fit(np.array(X)[:, None], y)


def fit_in_boosting(clf, X, y):
    clf.set_params(max_epochs=6)  # boosting refuses what is no better than chance
    return AdaBoostClassifier(clf, n_estimators=2, random_state=0).fit(np.array(X)[:, None], y)


def fit_in_a_chain(clf, X, y):
    texts = FunctionTransformer(lambda rows: [X[int(row)] for row in rows[:, 0]])
    codes = np.unique(y, return_inverse=True)[1]
    chain = ClassifierChain(make_pipeline(texts, clf))
    return chain.fit(np.arange(len(X))[:, None], np.column_stack([codes, 1 - codes]))


@pytest.mark.parametrize("fit", [fit_alone, fit_in_a_pipeline, fit_in_a_column_transformer])
def test_progress__single_fit__shows_its_epochs(make, binary, terminal, fit):
    stream = terminal()
    fit(make(verbose=1, max_epochs=1), *binary)
    assert "epoch 1/1" in stream.getvalue()


@pytest.mark.parametrize(
    "fit",
    [
        fit_in_a_search,
        fit_in_a_cross_validation,
        fit_in_an_ensemble,
        fit_in_a_calibration,
        fit_in_boosting,
        fit_in_a_chain,
    ],
)
def test_progress__one_fit_of_many__shows_nothing(make, binary, terminal, fit):
    stream = terminal()
    fit(make(verbose=1, max_epochs=1), *binary)
    assert stream.getvalue() == ""
