"""scikit-learn's own callbacks, which are new in 1.9, see the epochs of a `fit`."""

import copy
import io
import pickle
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import EarlyStopping

from sklearn_transformers import TransformerTextClassifier

callback = pytest.importorskip("sklearn.callback", reason="needs scikit-learn 1.9")


class Recorder:
    """Writes down what it is told; stops after `stop_after` epochs."""

    max_propagation_depth = None

    def __init__(self, stop_after=None):
        self.stop_after = stop_after
        self.told = []

    def setup(self, estimator, context):
        self.told.append(("setup", context.estimator_name))

    def teardown(self, estimator, context):
        self.told.append(("teardown", context.estimator_name))

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.told.append(("begin", context.task_name, context.task_id))
        self.metadata = metadata

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, fitted_estimator=None):
        answers = None if fitted_estimator is None else fitted_estimator.predict_proba(X)
        self.told.append(("end", context.task_name, context.task_id))
        self.answers = answers
        return context.task_name == "epoch" and context.task_id + 1 == self.stop_after


def epochs(recorder):
    return [event[0] for event in recorder.told if event[1:2] == ("epoch",)]


def test_fit__recorder__is_told_of_every_epoch_in_order(make, binary):
    recorder = Recorder()
    clf = make(max_epochs=2).set_callbacks(recorder).fit(*binary)
    name = type(clf).__name__
    assert recorder.told == [
        ("setup", name),
        ("begin", "fit", 0),
        ("begin", "epoch", 0),
        ("end", "epoch", 0),
        ("begin", "epoch", 1),
        ("end", "epoch", 1),
        ("end", "fit", 0),
        ("teardown", name),
    ]
    assert recorder.metadata is None


def test_fit__skorchs_early_stopping__ends_every_epoch_that_began(make, binary):
    recorder = Recorder()
    stopper = EarlyStopping(monitor="train_loss", patience=1, threshold=100)
    clf = make(max_epochs=9, early_stopping=False, callbacks=[stopper]).set_callbacks(recorder)
    assert clf.fit(*binary).n_iter_ == 2
    assert epochs(recorder) == ["begin", "end", "begin", "end"]


def test_fit__with_weights__passes_them_on_as_metadata(make, binary):
    recorder, weights = Recorder(), np.linspace(1, 2, 200)
    make(max_epochs=1).set_callbacks(recorder).fit(*binary, sample_weight=weights)
    assert recorder.metadata["sample_weight"] is weights


@pytest.mark.parametrize("early_stopping", [True, False])
def test_fit__callbacks__change_no_bit(make, binary, early_stopping):
    parameters = {"max_epochs": 3, "early_stopping": early_stopping, "dropout": 0.3}
    expected = make(**parameters).fit(*binary)
    clf = make(**parameters).set_callbacks(Recorder()).fit(*binary)
    for one, other in zip(clf.model_.parameters(), expected.model_.parameters(), strict=True):
        assert torch.equal(one, other)


def test_fit__callback_that_stops__ends_training_after_its_epoch(make, binary):
    recorder = Recorder(stop_after=2)
    clf = make(max_epochs=6).set_callbacks(recorder).fit(*binary)
    assert clf.n_iter_ == 2
    assert epochs(recorder) == ["begin", "end"] * 2


def test_fit__last_epoch__is_seen_with_the_answers_it_ends_with(make, binary):
    recorder = Recorder(stop_after=1)
    clf = make(early_stopping=False).set_callbacks(recorder).fit(*binary)
    np.testing.assert_array_equal(recorder.answers, clf.predict_proba(binary[0]))


def test_fit__failing__tears_down_and_leaves_the_estimator_as_it_was(make, binary):
    recorder = Recorder()
    clf = make(model="/no/such/folder").set_callbacks(recorder)
    before = dict(vars(clf))
    with pytest.raises(OSError, match="could not be loaded"):
        clf.fit(*binary)
    assert recorder.told[-1][0] == "teardown"
    assert vars(clf) == before


@pytest.mark.parametrize("tuning", ["full", "contrastive"])
def test_scoring_monitor__fit_again__scores_every_epoch_as_predict_would(make, binary, tuning):
    X, y = binary
    monitor = callback.ScoringMonitor(scoring=["accuracy", "neg_log_loss"])
    head = {"head_init": "auto", "head_learning_rate": "auto"} if tuning == "contrastive" else {}
    clf = make(max_epochs=3, early_stopping=False, tuning=tuning, **head)
    clf.set_callbacks(monitor).fit(X, y).fit(X, y)
    rows = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert [row["task_id"] for row in rows] == [0, 1, 2]
    assert rows[-1]["accuracy"] == accuracy_score(y, clf.predict(X))
    assert rows[-1]["neg_log_loss"] == pytest.approx(-log_loss(y, clf.predict_proba(X)))
    assert rows[-1]["neg_log_loss"] > rows[0]["neg_log_loss"]


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scoring_monitor__in_a_search__has_the_epochs_of_every_fit(make, binary, n_jobs):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    clf = make(max_epochs=2, early_stopping=False).set_callbacks(monitor)
    GridSearchCV(clf, {"learning_rate": [1e-3, 5e-3]}, cv=2, n_jobs=n_jobs).fit(*binary)
    runs = monitor.get_logs(select="all")
    rows = [row for run in runs for row in run.data if row["task_name"] == "epoch"]
    assert len(rows) == (2 * 2 + 1) * 2
    assert all(0 <= row["accuracy"] <= 1 for row in rows)


@pytest.mark.filterwarnings("ignore:The estimator FunctionTransformer does not support callbacks")
def test_progress_bar__in_a_search_over_a_pipeline__shows_every_epoch(make, binary, monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    pipeline = make_pipeline(FunctionTransformer(), make(max_epochs=3))
    search = GridSearchCV(pipeline, {"transformertextclassifier__dropout": [0.0, 0.1]}, cv=2)
    search.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(*binary)
    shown = sys.stdout.getvalue()
    assert "TransformerTextClassifier" in shown
    assert "100%" in shown


def test_propagated__from_a_search__sees_the_epochs_of_every_fit(make, binary):
    recorder = Recorder()
    search = GridSearchCV(make(max_epochs=2), {"dropout": [0.0, 0.1]}, cv=2)
    search.set_callbacks(recorder).fit(*binary)
    assert epochs(recorder) == ["begin", "end"] * 2 * (2 * 2 + 1)


def test_clone_and_pickle__with_callbacks__keep_them(make, binary):
    monitor = callback.ScoringMonitor(scoring="accuracy")
    clf = make(max_epochs=1).set_callbacks(monitor)
    assert clone(clf)._skl_callbacks == [monitor]
    loaded = pickle.loads(pickle.dumps(clf.fit(*binary)))
    np.testing.assert_array_equal(loaded.predict_proba(binary[0]), clf.predict_proba(binary[0]))


def test_copy__fitted__shares_the_model(fitted):
    twin = copy.copy(fitted)
    assert type(twin) is TransformerTextClassifier
    assert twin.model_ is fitted.model_
    assert vars(twin) == vars(fitted)
    twin.max_epochs = 77
    assert fitted.max_epochs != 77
