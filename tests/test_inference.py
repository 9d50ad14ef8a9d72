import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, CPU, encoded_texts, toy_texts
from sklearn.metrics import log_loss

from sklearn_transformers import TransformerTextClassifier, _batching, _inference
from sklearn_transformers._batching import Padding
from sklearn_transformers._inference import run


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
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 64)
    np.testing.assert_allclose(fitted.predict_proba(mixed), expected, rtol=0, atol=1e-5)


def test_predict_proba__padding__changes_no_probability(fitted, monkeypatch):
    texts = ["the film was great", "a sad book"]
    expected = fitted.predict_proba(texts)
    monkeypatch.setattr(_batching, "MULTIPLES_ON_CPU", {0: 200})
    np.testing.assert_allclose(fitted.predict_proba(texts), expected, rtol=0, atol=1e-5)


def n_read(clf):
    """Count the texts that the backbone of a classifier reads from now on."""
    counts = []
    clf.model_.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return counts


def test_predict_proba__equal_texts__are_read_once_and_answered_each(make, three_classes, mixed):
    clf = make(max_epochs=1).fit(*three_classes)
    distinct = list(dict.fromkeys(mixed))[:50]
    order = np.random.default_rng(1).integers(0, 50, 400)
    order[:50] = np.arange(50)
    expected = clf.predict_proba(distinct)
    counts = n_read(clf)
    repeated = clf.predict_proba([distinct[i] for i in order])
    assert sum(counts) == 50
    np.testing.assert_array_equal(repeated, expected[order])


def test_predict_proba__more_texts_than_a_chunk__are_read_in_chunks(fitted, mixed, monkeypatch):
    expected = fitted.predict_proba(mixed)
    monkeypatch.setattr(_inference, "CHUNK", 37)
    sizes = []
    encode = _inference.encode
    monkeypatch.setattr(_inference, "encode", lambda *a: sizes.append(len(a[1])) or encode(*a))
    np.testing.assert_allclose(fitted.predict_proba(mixed), expected, rtol=0, atol=1e-5)
    assert sizes == [37] * 8 + [4]


def test_run__observer__sees_every_row_once_with_its_output(monkeypatch):
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 16)
    texts = encoded_texts([1, 2], [3], [1, 2], [3, 1], [3], [4, 4, 4])
    seen = {}

    def observe(rows, outputs):
        assert not set(rows) & set(seen)
        seen.update(zip(rows.tolist(), outputs[:, 0].tolist(), strict=True))

    outputs = run(
        lambda ids, mask: (ids * mask).sum(dim=1, keepdim=True),
        texts,
        Padding(pad_id=9, longest=8),
        "cpu",
        observe=observe,
    )
    assert outputs[:, 0].tolist() == [3, 3, 3, 4, 3, 12]
    assert seen == dict(enumerate(outputs[:, 0]))


def test_out_of_memory__predict__answers_in_smaller_batches(make, three_classes, mixed):
    clf = make(max_epochs=1).fit(*three_classes)
    expected = clf.predict_proba(mixed)
    sizes = []

    def read(module, args, kwargs):
        sizes.append(len(kwargs["input_ids"]))
        if sizes[-1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = clf.model_.backbone.register_forward_pre_hook(read, with_kwargs=True)
    with pytest.warns(UserWarning, match="Memory ran out") as caught:
        scarce = clf.predict_proba(mixed)
    assert len(caught) == 1
    np.testing.assert_allclose(scarce, expected, rtol=0, atol=1e-5)
    # Halved until it fits, and again only where shorter texts make more rows of as many tokens.
    assert sum(size > 20 for size in sizes) < 12
    assert sum(size for size in sizes if size <= 20) == len(set(mixed))
    hook.remove()
    np.testing.assert_allclose(clf.predict_proba(mixed), expected, rtol=0, atol=1e-5)


def test_out_of_memory__predict__what_fits_is_remembered_for_later_texts(
    make, three_classes, monkeypatch
):
    X, y = three_classes
    clf = make(max_epochs=1).fit(X, y)
    monkeypatch.setattr(_inference, "CHUNK", 40)
    failed = []

    def read(module, args, kwargs):
        if len(kwargs["input_ids"]) > 10:
            failed.append(len(texts))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        texts.extend(kwargs["input_ids"])

    texts = []
    clf.model_.backbone.register_forward_pre_hook(read, with_kwargs=True)
    with pytest.warns(UserWarning, match="Memory ran out"):
        clf.predict([f"{text} {row}" for row, text in enumerate(X)])
    assert len(texts) == len(X) > 2 * 40
    assert max(failed) < 40  # nothing failed after the first chunk


def test_predict__model__runs_in_inference_mode(make, three_classes):
    X, y = three_classes
    clf = make(max_epochs=1).fit(X, y)
    seen = []

    def note(module, args):
        seen.append(torch.is_inference_mode_enabled())

    clf.model_.backbone.register_forward_pre_hook(note)
    for method in (clf.predict, clf.predict_proba, clf.transform):
        method(X)
    assert set(seen) == {True}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_predict_precision__lower__is_what_the_model_runs_in(make, three_classes, precision):
    X, y = three_classes
    clf = make(max_epochs=4).fit(X, y)
    expected = clf.predict_proba(X)
    seen = []
    layer = next(m for m in clf.model_.backbone.modules() if isinstance(m, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    clf.set_params(predict_precision=precision)
    answers = clf.predict_proba(X)
    assert set(seen) == {getattr(torch, precision)}
    assert 0 < abs(answers - expected).max() < 0.02
    assert clf.transform(X).dtype == np.float32


def test_predict_precision__lower__best_score_is_what_predictions_score(make, three_classes):
    X, y = three_classes
    clf = make(max_epochs=3, early_stopping=True, scoring="neg_log_loss", calibrate=False)
    clf.set_params(predict_precision="bfloat16").fit(X[20:], y[20:], X_val=X[:20], y_val=y[:20])
    loss = log_loss(y[:20], clf.predict_proba(X[:20]), labels=clf.classes_)
    assert -clf.best_score_ == pytest.approx(loss, abs=1e-9)
    clf.set_params(predict_precision="float32")
    assert log_loss(y[:20], clf.predict_proba(X[:20]), labels=clf.classes_) != loss


@pytest.mark.pretrained
def test_predict_precision__real_texts__labels_and_probabilities_stay(topics):
    texts, labels = topics
    order = np.random.default_rng(0).permutation(len(texts))
    X, y = [texts[i] for i in order], [labels[i] for i in order]
    clf = TransformerTextClassifier(max_epochs=2, early_stopping=False, random_state=0, verbose=0)
    exact = clf.fit(X[:300], y[:300]).predict_proba(X[300:1300])
    rounded = clf.set_params(predict_precision="bfloat16").predict_proba(X[300:1300])
    assert 0 < abs(rounded - exact).max() < 0.01
    changed = rounded.argmax(axis=1) != exact.argmax(axis=1)
    # None of 1,000 on an AMD EPYC; 3 on an Intel Xeon, whose AMX units add up in another order.
    assert changed.mean() <= (0.005 if "amx_bf16" in CPU else 0.001)
    best, second = np.sort(exact[changed])[:, :-3:-1].T
    assert (best - second < 0.01).all()
