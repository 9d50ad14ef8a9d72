import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from conftest import toy_texts
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss

from sklearn_transformers import TextDataWarning
from sklearn_transformers._calibration import cross_entropies, fit_temperature, mean_and_error
from sklearn_transformers._targets import ClassCodec


def answers(n_rows, n_classes=4, seed=0):
    """Logits that are calibrated as they are, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n_rows, n_classes))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, (shares.cumsum(axis=1) > rng.random((n_rows, 1))).argmax(axis=1)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_fit_temperature__scaled_logits__are_scaled_back(factor):
    logits, codes = answers(5000)
    found = fit_temperature(factor * logits, codes, np.ones(5000))
    assert found == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize(
    ("n_rows", "share"), [(1, 0.1), (6, 0.1), (60, 0.1), (1000, 0.05), (20_000, 0.05)]
)
def test_fit_temperature__rows_all_right__promise_no_certainty(n_rows, share):
    logits = np.tile([2.0, 0.0], (n_rows, 1))
    temperature = fit_temperature(logits, np.zeros(n_rows, int), np.ones(n_rows))
    assert temperature > (0.2 if n_rows <= 60 else 0.12)
    # Laplace's rule of succession would be (n + 1) / (n + 2).
    assert 1 / (1 + np.exp(-2 / temperature)) < 1 - share / (n_rows + 2)


def test_fit_temperature__weights__count_as_repeated_rows():
    logits, codes = answers(4000)
    logits[:2000] *= 5
    weights = np.where(np.arange(4000) < 2000, 2.0, 1.0)
    heavy = fit_temperature(logits, codes, weights)
    rows = np.repeat(np.arange(4000), weights.astype(int))
    # How much each temperature may say depends on the number of rows: equal only in the limit.
    assert heavy == pytest.approx(fit_temperature(logits[rows], codes[rows], np.ones(6000)), 1e-3)
    assert heavy > 1.05 * fit_temperature(logits, codes, np.ones(4000))


def test_fit_temperature__rows_without_weight__do_not_count():
    logits, codes = answers(12)
    logits, weights = 3 * logits, np.repeat([1.0, 0.0], [8, 4])
    kept = fit_temperature(logits[:8], codes[:8], np.ones(8))
    assert fit_temperature(logits, codes, weights) == pytest.approx(kept, 1e-3)
    assert fit_temperature(logits, codes, 7 * weights) == pytest.approx(kept, 1e-3)


def likeliest_temperature(logits, codes):
    def loss(log_temperature):
        return cross_entropies(logits, codes, np.exp(log_temperature)).mean()

    return np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)


def test_fit_temperature__few_rows__new_ones_are_better_answered_than_at_the_likeliest():
    few, new = slice(16), slice(16, None)
    losses = []
    for seed in range(100):
        logits, codes = answers(1016, 2, seed)
        rows = 4 * logits[few], codes[few]
        found = fit_temperature(*rows, np.ones(16)), likeliest_temperature(*rows)
        losses.append([cross_entropies(4 * logits[new], codes[new], t).mean() for t in found])
    ours, likeliest = np.mean(losses, axis=0)
    assert ours < likeliest - 0.01


def test_fit_temperature__many_rows__is_the_likeliest():
    logits, codes = answers(1000)
    assert fit_temperature(logits, codes, np.ones(1000)) == likeliest_temperature(logits, codes)
    # Just below the border the others hardly have a say.
    most = slice(990)
    few = fit_temperature(logits[most], codes[most], np.ones(990))
    assert few == pytest.approx(likeliest_temperature(logits[most], codes[most]), rel=0.01)


def test_calibrate__one_class_held_out__does_not_make_the_other_rarer(make):
    X, _ = toy_texts(120)
    y = ["no"] * 119 + ["yes"]  # a row of which nothing can be held out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextDataWarning)
        clf = make(early_stopping="auto", head_init="auto", max_epochs=3).fit(X, y)
    assert clf._report["n_held_out"] == 119
    assert clf.temperature_ >= 1


def test_fit_temperature__many_classes__take_memory_for_the_answers_only():
    logits, codes = answers(20, n_classes=2000)
    tracemalloc.start()
    fit_temperature(logits, codes, np.ones(20))
    highest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert highest < 10 * logits.nbytes  # a table of classes by classes is a hundred times as much


def test_mean_and_error__equal_weights__is_the_textbooks():
    values = np.array([1.0, 4.0, 2.0, 9.0])
    mean, error = mean_and_error(values, np.full(4, 3.0))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / 2)


@pytest.mark.parametrize("weights", [[2.0], [2.0, 0.0]])
def test_mean_and_error__one_row__tells_nothing_of_the_error(weights):
    assert mean_and_error(np.arange(1.0, 1 + len(weights)), np.array(weights)) == (1.0, np.inf)


def test_cross_entropies__rows__are_scikit_learns_log_loss():
    logits, codes = answers(50)
    shares = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    assert cross_entropies(logits, codes, 2.0).mean() == pytest.approx(log_loss(codes, shares))


def test_calibrate__labels__are_the_same_with_and_without(make, three_classes):
    X, y = three_classes
    parameters = {"early_stopping": False, "max_epochs": 3}
    X_val = {"X_val": X[:50], "y_val": y[:50]}
    sure = make(calibrate=False, **parameters).fit(X, y, **X_val)
    mild = make(**parameters).fit(X, y, **X_val)
    assert sure.temperature_ == 1
    assert mild.temperature_ != 1
    np.testing.assert_array_equal(sure.predict(X), mild.predict(X))
    labels = mild.classes_[mild.predict_proba(X).argmax(axis=1)]
    np.testing.assert_array_equal(labels, sure.predict(X))
    assert np.abs(sure.predict_proba(X) - mild.predict_proba(X)).max() > 1e-3


def test_calibrate__near_ties__keep_their_order():
    low = np.float32(1.7)
    logits = np.array([[low, np.nextafter(low, np.float32(2))]], np.float32)
    for temperature in np.geomspace(0.05, 20, 1001):
        scores = ClassCodec.scores(logits, temperature)
        assert scores[0, 0] < scores[0, 1]


def test_calibrate__overconfident_model__gets_a_lower_log_loss(make):
    X, y = toy_texts(400)
    rng = np.random.default_rng(0)
    y = [("no", "yes")[rng.integers(2)] if rng.random() < 0.4 else label for label in y]
    losses, temperatures = [], []
    for calibrate in (False, True):
        clf = make(calibrate=calibrate, max_epochs=12, scoring=last_epoch(), n_iter_no_change=12)
        clf.fit(X[:200], y[:200], X_val=X[200:300], y_val=y[200:300])
        losses.append(log_loss(y[300:], clf.predict_proba(X[300:])))
        temperatures.append(clf.temperature_)
    assert temperatures[1] > 1.5
    assert losses[1] < losses[0] - 0.02


def last_epoch():
    """A scorer to which each epoch is better than the one before."""
    count = iter(range(10**6))
    return lambda *_: next(count)


def test_temperature__survives_pickling_and_shapes_probabilities(make, three_classes):
    X, y = three_classes
    clf = make().fit(X, y)
    same = pickle.loads(pickle.dumps(clf))
    assert same.temperature_ == clf.temperature_
    np.testing.assert_array_equal(same.predict_proba(X[:9]), clf.predict_proba(X[:9]))
    scores = clf.decision_function(X[:9])
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(clf.predict_proba(X[:9]), shares, atol=1e-12)
