import numpy as np
import pytest
from conftest import ARCHITECTURES, toy_texts

from sklearn_transformers import _batching


@pytest.fixture(scope="module")
def mixed():
    """300 texts of 0 to 250 words in no order."""
    rng = np.random.default_rng(3)
    texts, _ = toy_texts(300, seed=3)
    return [" ".join(text.split() * rng.integers(0, 13)) for text in texts]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_predict_proba__mixed_lengths__equals_one_at_a_time(
    make, three_classes, architecture, mixed
):
    clf = make(architecture, max_epochs=2).fit(*three_classes)
    texts = mixed[:40]
    together = clf.predict_proba(texts)
    alone = np.vstack([clf.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert together.std(axis=0).max() > 0.01  # the texts do differ


def test_predict_proba__permuted_input__permutes_output(fitted, mixed):
    order = np.random.default_rng(0).permutation(len(mixed))
    shuffled = fitted.predict_proba([mixed[i] for i in order])
    np.testing.assert_allclose(shuffled, fitted.predict_proba(mixed)[order], rtol=0, atol=1e-5)


def test_predict_proba__small_token_budget__changes_nothing(fitted, mixed, monkeypatch):
    expected = fitted.predict_proba(mixed)
    monkeypatch.setattr(_batching, "TOKEN_BUDGET", 64)
    np.testing.assert_allclose(fitted.predict_proba(mixed), expected, rtol=0, atol=1e-5)


def test_predict_proba__padding__changes_no_probability(fitted, monkeypatch):
    texts = ["the film was great", "a sad book"]
    expected = fitted.predict_proba(texts)
    monkeypatch.setattr(_batching, "MULTIPLE", 200)
    np.testing.assert_allclose(fitted.predict_proba(texts), expected, rtol=0, atol=1e-5)
