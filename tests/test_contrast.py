import pickle
import weakref
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import encoded_texts, toy_texts
from scipy.special import softmax
from skorch.callbacks import Callback, Freezer

from sklearn_transformers import TransformerTextClassifier, _contrast
from sklearn_transformers._batching import Budget
from sklearn_transformers._contrast import pair_loss
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._recipe import auto_contrast, suit_pairs


@pytest.fixture
def contrastive(make):
    """Make a tiny classifier that is tuned by pairs of texts."""

    def contrastive(**parameters):
        defaults = {
            "tuning": "contrastive",
            "head_init": "auto",
            "head_learning_rate": "auto",
            "batch_size": 16,
            "early_stopping": False,
            "pooling": "mean",
        }
        return make(**(defaults | parameters))

    return contrastive


def raw_logits(clf, X):
    """Logits before division by the temperature."""
    vectors = torch.from_numpy(clf.transform(X))
    return clf.model_.head(vectors).detach().numpy().astype(float)


# --- the loss --------------------------------------------------------------------------------


def loss_by_hand(vectors, codes, weights):
    sums = {True: [0.0, 0], False: [0.0, 0]}
    for i, j in combinations(range(len(codes)), 2):
        cosine = vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
        same = bool(codes[i] == codes[j])
        sums[same][0] += weights[i] * weights[j] * (cosine - same) ** 2
        sums[same][1] += 1
    return sum(total / max(count, 1) / 2 for total, count in sums.values())


@pytest.mark.parametrize("codes", [[0, 1, 2, 1, 0, 0], [1] * 6, [0, 1, 2, 3, 4, 5]])
def test_pair_loss__every_kind_of_pairs__is_the_mean_over_each(codes):
    rng = np.random.default_rng(0)
    vectors, weights = rng.normal(size=(6, 5)), rng.uniform(0.5, 2, 6)
    given = [torch.tensor(a) for a in (vectors, np.array(codes), weights)]
    given[0].requires_grad_()
    loss = pair_loss(*given)
    assert float(loss) == pytest.approx(loss_by_hand(vectors, codes, weights), rel=1e-6)
    assert torch.autograd.gradcheck(lambda v: pair_loss(v, *given[1:]), given[:1])


def test_pair_loss__single_text__is_zero():
    vectors = torch.ones(1, 3, requires_grad=True)
    loss = pair_loss(vectors, torch.zeros(1, dtype=torch.long), torch.ones(1))
    loss.backward()
    assert float(loss) == 0
    assert vectors.grad.abs().max() == 0


def test_steps__token_budget__changes_nothing(contrastive, monkeypatch):
    X, y = toy_texts(64)
    still = {"dropout": 0.0, "max_epochs": 2}
    whole = contrastive(**still).fit(X, y)
    monkeypatch.setattr(Budget, "on", classmethod(lambda cls, device: cls(64)))
    parts = contrastive(**still).fit(X, y)
    np.testing.assert_allclose(parts.predict_proba(X), whole.predict_proba(X), atol=1e-5)
    a, b = ([row["train_loss"] for row in clf.history_[1:]] for clf in (whole, parts))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_steps__epochs__hold_each_row_once_and_other_texts_together(contrastive):
    class Looking(Callback):
        def on_train_begin(self, net, X=None, y=None):
            self.epochs = []

        def on_epoch_begin(self, net, **kwargs):
            self.epochs.append([])

        def on_batch_begin(self, net, batch=None, training=None):
            self.epochs[-1].append({tuple(ids[ids != 1].tolist()) for ids in batch[0]["input_ids"]})

        def on_batch_end(self, net, batch=None, training=None, **kwargs):
            assert kwargs["y_pred"].shape == (len(batch[1]), 2)
            assert torch.isfinite(kwargs["loss"])

    looking = Looking()
    X, y = toy_texts(40)
    assert len(set(X)) == 40
    contrastive(max_epochs=3, callbacks=[looking]).fit(X + X[:5], y + y[:5])
    for steps in looking.epochs:
        assert [len(step) for step in steps] == [14, 13, 13]  # about equal, and no text twice
        assert len(set.union(*steps)) == 40
    assert looking.epochs[0] != looking.epochs[1] != looking.epochs[2]


def test_cross_validation__smallest_batches__hold_pairs(contrastive, monkeypatch):
    sizes = []

    def looking(vectors, codes, weights):
        sizes.append(len(codes))
        return pair_loss(vectors, codes, weights)

    monkeypatch.setattr(_contrast, "pair_loss", looking)
    clf = contrastive(batch_size=2, max_epochs=1, early_stopping="auto").fit(*toy_texts(32))
    assert clf.history_[0]["n_folds"] == 2
    assert min(sizes) == 2


# --- the model that comes out ----------------------------------------------------------------


def test_fit__vectors__of_a_class_come_together_and_others_apart(contrastive):
    X, y = toy_texts(60, classes=("bad", "good", "plain"))
    clf = contrastive(max_epochs=10).fit(X, y)
    frozen = contrastive(max_epochs=1, learning_rate=1e-30, weight_decay=0.0).fit(X, y)

    def gap(clf):
        vectors = clf.transform(X)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines, same = vectors @ vectors.T, np.equal.outer(y, y)
        return cosines[same].mean() - cosines[~same].mean()

    assert gap(clf) > gap(frozen) + 0.2
    losses = [row["train_loss"] for row in clf.history_[1:]]
    assert losses[-1] < losses[0] / 2
    X_test, y_test = toy_texts(90, classes=("bad", "good", "plain"), seed=3)
    assert clf.score(X_test, y_test) > frozen.score(X_test, y_test)


@pytest.mark.parametrize("held_out", ["none", "folds", "a part"])
def test_fit__head__is_a_logistic_regression_on_the_final_vectors(contrastive, held_out):
    X, y = toy_texts(90, classes=("bad", "good", "plain"))
    X_val, y_val = toy_texts(30, classes=("bad", "good", "plain"), seed=1)
    stop = {"none": False, "folds": "auto", "a part": True}[held_out]
    clf = contrastive(max_epochs=4, early_stopping=stop, random_state=2)
    clf.fit(X, y, **({"X_val": X_val, "y_val": y_val} if held_out == "a part" else {}))
    assert clf.best_epoch_ > 0
    # Where intercepts are not penalised, the mean probability of a class is its share.
    answers = softmax(raw_logits(clf, X), axis=1)
    np.testing.assert_allclose(answers.mean(axis=0), 1 / 3, atol=2e-3)
    # And a penalty leaves only weights that are sums of the rows' vectors.
    vectors = clf.transform(X).astype(float)
    head = clf.model_.head.weight.detach().numpy().astype(float)
    coefficients, *_ = np.linalg.lstsq(vectors.T, head.T, rcond=None)
    np.testing.assert_allclose(vectors.T @ coefficients, head.T, atol=1e-3 * np.abs(head).max())


def test_fit__early_stopping__keeps_the_epoch_and_its_head(contrastive):
    X, y = toy_texts(80)
    X_val, y_val = toy_texts(60, seed=5)
    clf = contrastive(early_stopping=True, max_epochs=6, scoring="accuracy")
    clf.fit(X, y, X_val=X_val, y_val=y_val)
    assert clf.best_score_ == clf.score(X_val, y_val)
    assert clf.best_score_ == max(row["valid_score"] for row in clf.history_)


def test_fit__few_rows__are_answered_by_models_that_never_saw_them(contrastive):
    X, y = toy_texts(60)
    clf = contrastive(early_stopping="auto", max_epochs=8).fit(X, y)
    assert clf.history_[0]["n_folds"] == 2
    assert clf.history_[-1]["valid_loss"] == -clf.best_score_
    assert clf.temperature_ == clf.history_[-1]["temperature"]
    rng = np.random.default_rng(0)
    noise = contrastive(early_stopping="auto", max_epochs=8)
    with pytest.warns(UserWarning, match="no better than"):
        noise.fit(X, rng.permutation(y))
    assert noise.best_score_ < clf.best_score_


def test_sample_weight__two__equals_row_twice(contrastive):
    X, y = toy_texts(50)
    weights = np.where(np.arange(50) < 11, 2.0, 1.0)
    weighted = contrastive().fit(X, y, weights)
    repeated = contrastive().fit(X + X[:11], y + y[:11])
    plain = contrastive().fit(X, y)
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-4)
    assert np.abs(weighted.predict_proba(X) - plain.predict_proba(X)).max() > 1e-3


def test_auto__rows_given_twice__are_no_more_rows(checkpoints):
    X, y = toy_texts(160)
    clf = TransformerTextClassifier(
        checkpoints["bert"], early_stopping=False, random_state=0, verbose=0, precision="float32"
    )
    once = clf.fit(X, y).predict_proba(X)
    assert (clf.tuning_, clf.batch_size_) == ("contrastive", 16)
    twice = clf.fit(X + X, y + y).predict_proba(X)
    np.testing.assert_allclose(once, twice, atol=1e-5)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_sample_weight__zero__equals_row_absent(contrastive, class_weight):
    X, y = toy_texts(50)
    weights = np.where(np.arange(50) < 11, 0.0, 1.0)
    zeroed = contrastive(class_weight=class_weight).fit(X, y, weights)
    absent = contrastive(class_weight=class_weight).fit(X[11:], y[11:])
    np.testing.assert_array_equal(zeroed.predict_proba(X), absent.predict_proba(X))


def test_fit__same_seed__has_the_same_bits_with_any_number_of_threads(contrastive):
    X, y = toy_texts(60)
    before = torch.get_num_threads()
    answers = []
    try:
        for n_threads in (1, 2, 2):
            torch.set_num_threads(n_threads)
            clf = contrastive(early_stopping="auto", max_epochs=3).fit(X, y)
            answers.append(clf.predict_proba(X))
    finally:
        torch.set_num_threads(before)
    for others in answers[1:]:
        np.testing.assert_array_equal(answers[0], others)


def test_pickle__fitted__answers_the_same(contrastive):
    X, y = toy_texts(40)
    clf = contrastive(max_epochs=2).fit(X, y)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert again.tuning_ == "contrastive"


def test_fit__two_rows__works(contrastive):
    clf = contrastive(early_stopping="auto").fit(["good day", "bad day"], ["yes", "no"])
    assert clf.predict(["good day", "bad day"]).tolist() == ["yes", "no"]


# --- when it is chosen, and when it is refused ------------------------------------------------


def test_auto__few_rows__are_tuned_by_pairs(checkpoints):
    X, y = toy_texts(300)
    clf = TransformerTextClassifier(
        checkpoints["bert"], max_epochs=1, early_stopping=False, random_state=0, verbose=0
    )
    assert clf.fit(X, y).tuning_ == "full"
    assert clf.fit(X[:299], y[:299]).tuning_ == "contrastive"
    assert clf.head_learning_rate_ is None
    assert clf.batch_size_ == 32
    assert "train_loss" not in clf.history_[0]
    assert clf.history_[1]["head_seconds"] > 0
    for name, value in (
        ("head_init", "random"),
        ("head_learning_rate", 1e-3),
        ("label_smoothing", 0.1),
        ("batch_size", 7),
        ("callbacks", [Freezer("backbone*")]),  # leaves the head to be trained
        ("tuning", "full"),
    ):
        other = TransformerTextClassifier(**(clf.get_params() | {name: value}))
        assert other.fit(X[:60], y[:60]).tuning_ == "full", name
    assert clf.set_params(warm_start=True).fit(X[:60], y[:60]).tuning_ == "full"
    assert clf.partial_fit(X[:60], y[:60]).tuning_ == "full"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([8, 7], False),
        ([8, 8], True),
        ([149, 150], True),
        ([150, 150], False),
        ([8] * 10, True),
        ([9] * 11, False),
        # Nearly all pairs are of the one large class.
        ([60, 12, 4, 3, 3, 2, 2, 2], False),
        ([60, 12, 12, 12, 8, 8, 2, 2], True),
        ([60, 1, 1, 1], False),
    ],
)
def test_suit_pairs__rows_and_classes__leave_pairs_of_either_kind(sizes, expected):
    assert suit_pairs(np.repeat(np.arange(len(sizes)), sizes), len(sizes)) is expected


@pytest.mark.parametrize(
    ("n_rows", "n_classes", "batch_size", "epochs"),
    [
        (2, 2, 16, 1),
        (16, 2, 16, 4),
        (32, 4, 16, 12),
        (48, 6, 16, 20),
        (152, 19, 16, 20),
        (224, 28, 32, 13),
        (616, 77, 32, 5),
        (10_000, 2, 32, 1),
    ],
)
def test_auto_contrast__rows_and_classes__decide_on_batches_and_epochs(
    n_rows, n_classes, batch_size, epochs
):
    assert auto_contrast(n_rows, n_classes, 10) == (batch_size, epochs)


def test_auto_contrast__long_texts__are_read_less_often():
    assert auto_contrast(128, 2, 128 * 190) == (16, 20)
    assert auto_contrast(128, 2, 128 * 512) == (16, 8)
    assert auto_contrast(128, 2, 128 * 4096) == (16, 3)
    assert auto_contrast(6, 2, 6 * 4096) == (16, 2)


def test_auto_contrast__tokens_of_the_texts__decide_in_fit(contrastive, monkeypatch):
    X, y = toy_texts(60)
    parameters = {"max_epochs": "auto", "batch_size": "auto"}
    assert contrastive(**parameters).fit(X, y).max_epochs_ == 15
    longer = [" ".join([text] * 200) for text in X]
    monkeypatch.setattr("sklearn_transformers._recipe.PAIRED_TOKENS_TO_SEE", 200_000)
    clf = contrastive(**parameters, max_length=256).fit(longer, y)
    assert clf.max_epochs_ == round(200_000 / (60 * 256))


@pytest.mark.parametrize(
    ("name", "value"),
    [("head_init", "random"), ("head_learning_rate", 1e-3), ("label_smoothing", 0.1)],
)
def test_fit__parameter_of_a_trained_head__is_refused_by_name(contrastive, name, value):
    clf = contrastive(**{name: value})
    with pytest.raises(ValueError, match=f"{name}={value!r} has no meaning. Set it to"):
        clf.fit(*toy_texts(20))
    assert not hasattr(clf, "model_")


def test_partial_fit__contrastive__is_refused_by_name(contrastive):
    with pytest.raises(ValueError, match="tuning='contrastive' is not supported by partial_fit"):
        contrastive().partial_fit(*toy_texts(20), classes=["no", "yes"])


def test_warm_start__contrastive__goes_on_from_the_model(contrastive):
    X, y = toy_texts(60)
    clf = contrastive(max_epochs=3, warm_start=True).fit(X, y)
    losses = [row["train_loss"] for row in clf.fit(X, y).history_[1:]]
    assert len(losses) == 6
    assert losses[3] < losses[0]
    assert clf.tuning_ == "contrastive"


def test_fit__single_text_a_step__is_refused_by_name(contrastive):
    with pytest.raises(ValueError, match=r"batch_size=1\. Set it to"):
        contrastive(batch_size=1).fit(*toy_texts(20))


def test_fit__frozen_backbone__is_refused(contrastive):
    with pytest.raises(ValueError, match="callbacks froze every weight"):
        contrastive(callbacks=[Freezer("backbone*")]).fit(*toy_texts(20))


# --- who looks on ----------------------------------------------------------------------------


def test_fit__x_val__changes_nothing_but_the_records(contrastive):
    X, y = toy_texts(60)
    X_val, y_val = toy_texts(20, seed=2)
    alone = contrastive(max_epochs=3).fit(X, y)
    watched = contrastive(max_epochs=3).fit(X, y, X_val=X_val, y_val=y_val)
    np.testing.assert_array_equal(alone.transform(X), watched.transform(X))
    np.testing.assert_array_equal(raw_logits(alone, X), raw_logits(watched, X))
    assert "valid_score" in watched.history_[1]


def test_fit__callback__meets_a_head_that_fits_the_vectors(contrastive):
    class Looking(Callback):
        def on_epoch_end(self, net, **kwargs):
            assert not net.module_.training
            self.head = net.module_.head.weight.detach().clone()

    looking = Looking()
    X, y = toy_texts(60)
    clf = contrastive(max_epochs=3, callbacks=[looking]).fit(X, y)
    assert torch.equal(looking.head, clf.model_.head.weight)
    alone = contrastive(max_epochs=3).fit(X, y)
    assert torch.equal(alone.model_.head.weight, clf.model_.head.weight)


class LittleMemory(Callback):
    """Lets the backbone run out of memory above some rows, or above some that keep a graph."""

    def __init__(self, most, with_graph):
        self.most, self.with_graph = most, with_graph

    def on_train_begin(self, net, X=None, y=None):
        self.kept_, original = 0, net.module_.embed

        def embed(input_ids, attention_mask):
            keeps = torch.is_grad_enabled() and not self.recomputes
            self.kept_ += len(input_ids) if keeps else 0
            if len(input_ids) > self.most or (self.with_graph and self.kept_ > self.most):
                self.kept_ = 0
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(input_ids, attention_mask)

        net.module_.embed = embed
        self.net_ = net

    @property
    def recomputes(self):
        return self.net_.sparing_

    def on_grad_computed(self, net, **kwargs):
        self.kept_ = 0

    def on_train_end(self, net, X=None, y=None):
        del net.module_.embed


@pytest.mark.parametrize("with_graph", [False, True])
def test_fit__memory_runs_out__trains_the_same_in_parts(contrastive, with_graph):
    X, y = toy_texts(32)
    still = {"max_epochs": 2, "dropout": 0.0}
    plain = contrastive(**still).fit(X, y)
    little = LittleMemory(5, with_graph)
    with pytest.warns(UserWarning, match="Memory ran out with 16 texts"):
        parts = contrastive(**still, callbacks=[little]).fit(X, y)
    np.testing.assert_allclose(parts.transform(X), plain.transform(X), atol=1e-4)
    losses = [[row["train_loss"] for row in clf.history_[1:]] for clf in (plain, parts)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_fit__memory_runs_out_after_the_forward_pass__lets_go_of_it_first(contrastive, monkeypatch):
    original, made, still_there = _contrast.pair_loss, [], []

    def pair_loss(vectors, codes, weights):
        still_there.extend(ref() is not None for ref in made)
        made.append(weakref.ref(vectors))
        if len(made) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(vectors, codes, weights)

    monkeypatch.setattr(_contrast, "pair_loss", pair_loss)
    with pytest.warns(UserWarning, match="Memory ran out with 16 texts"):
        contrastive(max_epochs=1).fit(*toy_texts(16))
    assert len(made) > 1
    assert not any(still_there)


def test_fit__memory_for_no_text__says_so(contrastive):
    with (
        pytest.warns(UserWarning, match="Memory ran out"),
        pytest.raises(torch.OutOfMemoryError, match="single text"),
    ):
        contrastive(callbacks=[LittleMemory(0, False)]).fit(*toy_texts(20))


# --- rows that are one -----------------------------------------------------------------------


def test_distinct__equal_rows__add_up_their_weights_in_an_order_of_their_own():
    texts = encoded_texts([7, 8], [3], [7, 8], [5], [7, 8])
    codes, weights = np.array([0, 1, 0, 0, 1]), np.array([1.0, 2.0, 0.5, 0.0, 4.0])
    rows = LabelledTexts(texts, codes, weights)
    for order in (np.arange(5), np.array([4, 2, 0, 3, 1])):
        once = rows.take(order).distinct()
        found = [
            (once.texts.tokens(np.array([i])).tolist(), int(once.codes[i]), once.weights[i])
            for i in range(len(once))
        ]
        assert found == [([3], 1, 2.0), ([7, 8], 0, 1.5), ([7, 8], 1, 4.0)]
