import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from sklearn_transformers import _head_start
from sklearn_transformers._calibration import cross_entropies
from sklearn_transformers._head_start import DOUBT, fit_head


def blobs(n_rows, n_classes, seed=0, width=12, spread=1.0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n_rows) % n_classes
    vectors = rng.normal(size=(n_classes, width))[codes] + spread * rng.normal(size=(n_rows, width))
    return vectors.astype(np.float32) * 3 + 7, codes


def fit(vectors, codes, weights=None, n_classes=None):
    weights = np.ones(len(codes)) if weights is None else weights
    n_classes = codes.max() + 1 if n_classes is None else n_classes
    start = fit_head(vectors, codes, weights, n_classes, np.random.default_rng(0))
    return start.weight, start.bias


@pytest.mark.parametrize("n_classes", [2, 5])
def test_fit_head__labels__are_those_of_a_logistic_regression(n_classes, monkeypatch):
    vectors, codes = blobs(300, n_classes)
    monkeypatch.setattr(_head_start, "PENALTIES", (0.03,))
    weight, bias = fit(vectors, codes)
    assert weight.shape == (n_classes, 12)
    assert weight.dtype == bias.dtype == np.float32
    centred = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0).mean()
    theirs = LogisticRegression(C=1 / (0.03 * 300), tol=1e-8, max_iter=1000).fit(centred, codes)
    assert np.mean((vectors @ weight.T + bias).argmax(axis=1) == theirs.predict(centred)) > 0.99


def test_fit_head__training_rows__are_left_in_doubt():
    vectors, codes = blobs(300, 5, spread=0.5)
    start = fit_head(vectors, codes, np.ones(300), 5, np.random.default_rng(0))
    logits = vectors.astype(float) @ start.weight.T + start.bias
    assert np.mean(logits.argmax(axis=1) == codes) > 0.95
    assert cross_entropies(logits, codes).mean() < 0.5
    shrunk = logits * start.shrink
    assert cross_entropies(shrunk, codes).mean() == pytest.approx(DOUBT * np.log(5), abs=1e-3)


def test_fit_head__noise__chooses_a_strong_penalty_and_structure_a_weak_one():
    rng = np.random.default_rng(0)
    vectors, codes = blobs(300, 3)
    noise = rng.normal(size=vectors.shape)
    chosen = [
        _head_start._choose_penalty(v, codes, np.ones(300), np.random.default_rng(0))
        for v in (noise, vectors)
    ]
    assert chosen[0] > 5 * chosen[1]


def test_fit_head__weights__move_the_border():
    vectors, codes = blobs(200, 2, spread=3.0)
    plain, heavy = fit(vectors, codes), fit(vectors, codes, np.where(codes == 1, 9.0, 1.0))
    ones = [np.mean((vectors @ w.T + b).argmax(axis=1)) for w, b in (plain, heavy)]
    assert ones[1] > ones[0] + 0.1


def test_fit_head__scale_of_the_weights__makes_no_difference():
    vectors, codes = blobs(100, 3)
    once, often = fit(vectors, codes), fit(vectors, codes, np.full(100, 64.0))
    np.testing.assert_allclose(often[0], once[0], rtol=1e-4, atol=1e-5)


def test_fit_head__class_without_a_row__is_never_the_answer():
    vectors, codes = blobs(60, 3)
    codes = np.array([0, 1, 3])[codes]
    weight, bias = fit(vectors, codes, n_classes=5)
    assert set((vectors @ weight.T + bias).argmax(axis=1)) <= {0, 1, 3}
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()


def test_fit_head__a_single_class__is_always_the_answer():
    weight, bias = fit(np.ones((3, 4), np.float32), np.array([1, 1, 1]), n_classes=3)
    assert weight.shape == (3, 4)
    assert (np.ones(4) @ weight.T + bias).argmax() == 1


@pytest.mark.parametrize("codes", [[0, 1], [0, 1, 2, 3], [0, 0, 0, 1], [0, 1, 1]])
def test_fit_head__handful_of_rows__gives_finite_weights(codes):
    codes = np.array(codes)
    vectors = np.random.default_rng(0).normal(size=(len(codes), 6)).astype(np.float32)
    weight, bias = fit(vectors, codes)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    assert list((vectors @ weight.T + bias).argmax(axis=1)) == list(codes)


def test_fit_head__vectors_all_alike__says_the_shares_of_the_classes():
    codes = np.array([0, 0, 0, 1])
    weight, bias = fit(np.full((4, 6), 0.5, np.float32), codes)
    logits = np.full(6, 0.5) @ weight.T + bias
    assert np.isfinite(logits).all()
    assert logits[0] > logits[1]
