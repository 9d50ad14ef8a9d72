"""The bag of words beside the Transformer: what it is, when it has a say, and where it goes."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from conftest import PLAIN, encoded_texts, toy_texts
from sklearn.base import clone
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sklearn_transformers import OnnxTextClassifier, TransformerTextClassifier, _word_regression
from sklearn_transformers._bag_of_words import BagOfWords
from sklearn_transformers._batching import Padding
from sklearn_transformers._data import LabelledTexts, Rows
from sklearn_transformers._held_out import HeldOut
from sklearn_transformers._inference import run
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers._word_regression import C, fit_words
from sklearn_transformers.exceptions import SavedModelError

SPECIAL = [0, 1, 2]
PADDING = Padding(pad_id=0, longest=64)


def random_rows(n_rows, n_classes=3, seed=0, n_tokens=40):
    """Token ids between two special ones; a class likes some tokens better."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_rows) % n_classes
    lists = []
    for code in codes:
        ids = rng.integers(3, n_tokens, rng.integers(1, 20))
        liked = 3 + code + n_classes * rng.integers(0, 3, 4)
        lists.append([1, *ids, *liked, 2])
    return LabelledTexts(encoded_texts(*lists), codes, np.ones(n_rows)), lists


def answers(words, texts):
    return run(words, texts, PADDING, "cpu")


def test_fit_words__logits__are_those_of_scikit_learn():
    data, lists = random_rows(90)
    new, new_lists = random_rows(30, seed=1, n_tokens=60)  # has tokens that training has not
    known = CountVectorizer(analyzer=lambda ids: [i for i in ids if i not in SPECIAL])
    theirs = make_pipeline(
        known,
        TfidfTransformer(sublinear_tf=True),
        LogisticRegression(C=C, max_iter=1000, tol=1e-8),
    ).fit(lists, data.codes)
    ours = ClassCodec.probabilities(answers(fit_words(data, 3, SPECIAL), new.texts))
    np.testing.assert_allclose(ours, theirs.predict_proba(new_lists), atol=2e-3)
    assert theirs.score(new_lists, new.codes) > 0.8


def test_fit_words__two_classes__have_the_same_odds_as_in_scikit_learn():
    data, lists = random_rows(60, n_classes=2)
    theirs = make_pipeline(
        CountVectorizer(analyzer=lambda ids: [i for i in ids if i not in SPECIAL]),
        TfidfTransformer(sublinear_tf=True),
        LogisticRegression(C=C, max_iter=1000, tol=1e-8),
    ).fit(lists, data.codes)
    logits = answers(fit_words(data, 2, SPECIAL), data.texts)
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0], theirs.decision_function(lists), atol=2e-2
    )


def test_fit_words__copies_of_a_row__are_its_weight():
    data, lists = random_rows(30)
    twice = LabelledTexts(
        encoded_texts(*lists, *lists[:9]), data.codes[np.r_[:30, :9]], np.ones(39)
    )
    heavy = LabelledTexts(data.texts, data.codes, np.repeat([2.0, 1.0], [9, 21]))
    found, wanted = (fit_words(rows, 3, SPECIAL) for rows in (twice, heavy))
    for tensor, same in zip(found.buffers(), wanted.buffers(), strict=True):
        assert torch.equal(tensor, same)
    assert not torch.equal(wanted.weight, fit_words(data, 3, SPECIAL).weight)


def test_fit_words__order_of_the_rows__does_not_matter():
    data, _ = random_rows(30)
    order = np.random.default_rng(0).permutation(30)
    ids = data.texts.ids.copy()
    one, other = fit_words(data, 3, SPECIAL), fit_words(data.take(order), 3, SPECIAL)
    assert torch.equal(one.weight, other.weight)
    assert np.array_equal(data.texts.ids, ids)


def test_fit_words__class_without_a_row__is_never_the_answer():
    data, _ = random_rows(30)
    logits = answers(fit_words(data, 5, SPECIAL), data.texts)
    assert logits.shape == (30, 5)
    assert logits.argmax(axis=1).max() <= 2


@pytest.mark.parametrize(
    ("lists", "codes"), [([[1, 2], [1, 2]], [0, 1]), ([[1, 5, 2], [1, 6, 2]], [1, 1])]
)
def test_fit_words__nothing_to_learn_from__says_nothing(lists, codes):
    data = LabelledTexts(encoded_texts(*lists), np.array(codes), np.ones(2))
    assert not answers(fit_words(data, 2, SPECIAL), data.texts).any()


def test_bag_of_words__padding__is_no_word():
    data, _ = random_rows(30)
    words = fit_words(data, 3, [1, 2])  # 0 pads, but is not left out by itself
    ids = torch.tensor([[1, 5, 6, 2, 0, 0], [1, 5, 6, 2, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]])
    short = words(ids[:1, :4], mask[:1, :4])
    torch.testing.assert_close(words(ids, mask), short.repeat(2, 1))


def test_bag_of_words__token_beyond_the_known_ones__counts_nothing():
    words = fit_words(random_rows(30)[0], 3, SPECIAL)
    ids, ones = torch.tensor([[1, 5, 10**6, 2]]), torch.ones(1, 4, dtype=torch.int64)
    torch.testing.assert_close(words(ids, ones), words(ids[:, [0, 1, 3]], ones[:, :3]))


def test_bag_of_words__widened__new_classes_are_as_the_mean():
    words = fit_words(random_rows(30)[0], 3, SPECIAL)
    wide = words.widened(5, torch.tensor([0, 2, 4]))
    ids, ones = torch.tensor([[1, 5, 6, 2]]), torch.ones(1, 4, dtype=torch.int64)
    old, new = words(ids, ones), wide(ids, ones)
    torch.testing.assert_close(new[:, [0, 2, 4]], old)
    torch.testing.assert_close(new[:, [1, 3]], old.mean(dim=1, keepdim=True).repeat(1, 2))


# --- in the estimator ------------------------------------------------------------------------


def unlearnable(make, **parameters):
    """A classifier whose Transformer learns nothing: all that it knows, it has from the words."""
    return make(learning_rate=1e-9, max_epochs=1, bag_of_words=True, **parameters)


@pytest.fixture
def with_words(make, three_classes):
    clf = unlearnable(make).fit(*three_classes)
    assert clf.bag_of_words_weight_ > 0
    return clf


def test_fit__words_that_tell__are_added(make, three_classes, with_words):
    X, y = toy_texts(120, ("bad", "good", "plain"), seed=1)
    alone = unlearnable(make).set_params(bag_of_words=False).fit(*three_classes)
    assert alone.bag_of_words_weight_ == 0
    assert alone.model_.words is None
    assert with_words.score(X, y) > alone.score(X, y) + 0.2
    assert with_words._report["accuracy"] > alone._report["accuracy"] + 0.2


def test_fit__training__is_the_same_with_words_and_without(make, three_classes, with_words):
    alone = unlearnable(make).set_params(bag_of_words=False).fit(*three_classes)
    weights = with_words.model_.state_dict()
    for name, weight in alone.model_.state_dict().items():
        assert torch.equal(weight, weights.pop(name))
    assert all(name.startswith("words.") for name in weights)
    assert [row["train_loss"] for row in with_words.history_[1:]] == [
        row["train_loss"] for row in alone.history_[1:]
    ]


def test_fit__words_that_tell_nothing__are_left_out(make):
    rng = np.random.default_rng(0)
    X = [" ".join(rng.choice(PLAIN, 8)) for _ in range(120)]
    clf = make(max_epochs=1, bag_of_words=True).fit(X, rng.choice(["no", "yes"], 120))
    assert clf.bag_of_words_weight_ == 0
    assert clf.model_.words is None


def test_fit__logits__are_the_sum(with_words, three_classes):
    X = three_classes[0][:40]
    both = with_words.decision_function(X) * with_words.temperature_
    words, with_words.model_.words = with_words.model_.words, None
    alone = with_words.decision_function(X) * with_words.temperature_
    tokens = with_words.tokenizer_(X, padding=True, return_tensors="pt")
    own = words(tokens["input_ids"], tokens["attention_mask"]).numpy()
    np.testing.assert_allclose(both, alone + own, atol=1e-5)
    assert np.abs(own).max() > 0.1


def test_fit__temperature__is_that_of_the_sum(make, three_classes):
    X, y = toy_texts(1200, ("bad", "good", "plain"), seed=2)
    y[::5] = y[1::5]  # else no temperature would be low enough
    clf = unlearnable(make).fit(*three_classes, X_val=X, y_val=y)
    assert clf.temperature_ != clf.history_[clf.best_epoch_]["temperature"]
    losses = []
    for factor in (0.9, 1.0, 1.1):
        logits = clf.decision_function(X) / factor
        shares = ClassCodec.probabilities(logits)
        losses.append(-np.log(shares[np.arange(1200), np.searchsorted(clf.classes_, y)]).mean())
    assert losses[1] == min(losses)


@pytest.mark.parametrize("scoring", ["loss", "accuracy", "neg_log_loss"])
def test_fit__best_score__is_that_of_the_sum(make, three_classes, scoring):
    X, y = toy_texts(150, ("bad", "good", "plain"), seed=2)
    clf = unlearnable(make, scoring=scoring).fit(*three_classes, X_val=X, y_val=y)
    assert clf.bag_of_words_weight_ > 0
    name = "neg_log_loss" if scoring == "loss" else scoring
    assert clf.best_score_ == pytest.approx(get_scorer(name)(clf, X, y), abs=1e-5)
    assert clf.best_score_ > clf.history_[clf.best_epoch_]["valid_score"]


def test_fit__scorer_of_the_users__sees_the_words(make, three_classes):
    X, y = toy_texts(150, ("bad", "good", "plain"), seed=2)
    seen = []

    def score(clf, X_val, y_val):
        seen.append(clf.predict(X[:80]))  # not the texts whose answers are known
        return -len(seen)

    clf = unlearnable(make, scoring=score).fit(*three_classes, X_val=X, y_val=y)
    assert clf.best_score_ == -len(seen)
    assert np.array_equal(seen[-1], clf.predict(X[:80]))


def test_fit__rows_answered_in_folds__were_not_seen_by_the_words(make):
    # Labels have nothing to do with the texts, but a regression on all of them knows most.
    rng = np.random.default_rng(0)
    words = [f"{a} {b}" for a in PLAIN[:8] for b in PLAIN[8:16]]
    y = rng.permutation(np.repeat(["no", "yes"], 32))
    clf = make(early_stopping="auto", max_epochs=1, bag_of_words=True).fit(words, y)
    assert clf._report["n_folds"] == 2
    assert clf.bag_of_words_weight_ == 0


def test_fit__rows_for_validation_without_early_stopping__weigh_the_words(make, three_classes):
    X, y = toy_texts(90, ("bad", "good", "plain"), seed=2)
    clf = unlearnable(make).set_params(early_stopping=False)
    clf.fit(*three_classes, X_val=X, y_val=y)
    assert clf.bag_of_words_weight_ > 0


class StopAtOnce(Callback):
    def on_train_begin(self, net, **_):
        net.stop_training = True


@pytest.mark.parametrize("bag_of_words", [False, True])
def test_fit__no_epoch_runs__the_start_is_judged(make, three_classes, bag_of_words):
    X, y = toy_texts(90, ("bad", "good", "plain"), seed=2)
    clf = make(early_stopping=False, bag_of_words=bag_of_words, callbacks=[StopAtOnce()])
    clf.fit(*three_classes, X_val=X, y_val=y)
    assert clf.n_iter_ == 0
    assert (clf.bag_of_words_weight_ > 0) == bag_of_words
    assert clf.best_score_ == pytest.approx(get_scorer("neg_log_loss")(clf, X, y), abs=1e-5)


def test_fit__many_classes__leave_out_the_rarest_tokens(monkeypatch):
    data, lists = random_rows(60)
    monkeypatch.setattr(_word_regression, "MOST_COEFFICIENTS", 3 * 10)
    words = fit_words(data, 3, SPECIAL)
    assert words.weight.shape == (1 + 10, 3)
    n_texts = np.bincount(np.concatenate([np.unique(ids) for ids in lists]))
    n_texts[SPECIAL] = 0
    kept = np.flatnonzero(words.numbers.numpy())
    assert n_texts[kept].min() >= np.delete(n_texts, kept).max()


def test_deepcopy__words__are_its_own(with_words, three_classes):
    twin = copy.deepcopy(with_words)
    assert np.array_equal(
        twin.predict_proba(three_classes[0]), with_words.predict_proba(three_classes[0])
    )
    assert twin.model_.words.weight.data_ptr() != with_words.model_.words.weight.data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.gpu
def test_gpu__words__answer_as_on_the_cpu(make, three_classes):
    X = three_classes[0]
    clf = unlearnable(make, device="cuda").fit(*three_classes)
    assert clf.model_.words.weight.is_cuda
    on_cpu = object.__new__(type(clf))
    on_cpu.__setstate__(clf.__getstate__() | {"device_": "cpu"})
    np.testing.assert_allclose(on_cpu.predict_proba(X), clf.predict_proba(X), atol=1e-4)


def test_fit__nothing_held_out__has_no_words(make, binary):
    clf = unlearnable(make).set_params(early_stopping=False).fit(*binary)
    assert clf.bag_of_words_weight_ == 0
    assert clf.model_.words is None


def test_fit__head_alone__has_words_too(make, three_classes):
    clf = make(tuning="head", learning_rate=1e-9, max_epochs=1, bag_of_words=True)
    clf.fit(*three_classes)
    X = three_classes[0][:40]
    assert clf.bag_of_words_weight_ > 0
    by_vectors = clf._forward(X, "forward")
    clf.tuning_ = "full"  # the same model, read as one that was trained as a whole
    np.testing.assert_allclose(clf._forward(X, "forward"), by_vectors, atol=1e-5)
    assert clf.transform(X).shape == (40, clf.model_.width)


# --- going on, and files ---------------------------------------------------------------------


def test_partial_fit__words__stay(with_words, three_classes):
    before = with_words.model_.words.weight.clone()
    temperature = with_words.temperature_
    with_words.partial_fit(*three_classes)
    assert torch.equal(with_words.model_.words.weight, before)
    assert with_words.bag_of_words_weight_ > 0
    assert with_words.temperature_ == temperature


def test_going_on__words_no_longer_wanted__are_gone_with_the_next_held_out_rows(
    with_words, three_classes
):
    with_words.set_params(bag_of_words=False, warm_start=True).partial_fit(*three_classes)
    assert with_words.model_.words is not None  # as the temperature, which was got with them
    with_words.fit(*three_classes)
    assert with_words.model_.words is None
    assert with_words.bag_of_words_weight_ == 0
    assert with_words.temperature_ == with_words.history_[with_words.best_epoch_]["temperature"]


def test_warm_start__words__are_those_of_the_new_rows(with_words):
    before = with_words.model_.words
    X, y = toy_texts(240, ("bad", "good", "plain"), seed=5)
    with_words.set_params(warm_start=True).fit(X, y)
    assert with_words.model_.words is not before
    assert with_words.bag_of_words_weight_ > 0


def test_add_classes__labels__stay_as_they_are(with_words, three_classes):
    X = three_classes[0]
    before = with_words.predict(X)
    with_words.add_classes(["middling", "worse"])
    assert np.array_equal(with_words.predict(X), before)
    assert with_words.predict_proba(X).shape == (240, 5)
    with_words.partial_fit(["a b", "c d"], ["middling", "worse"])
    assert with_words.predict_proba(X).shape == (240, 5)


def test_pickle__words__answer_alike(with_words, three_classes):
    X = three_classes[0]
    same = pickle.loads(pickle.dumps(with_words))
    assert np.array_equal(same.predict_proba(X), with_words.predict_proba(X))
    assert same.bag_of_words_weight_ == with_words.bag_of_words_weight_
    assert not hasattr(clone(with_words), "bag_of_words_weight_")


def test_save__words__answer_alike_and_are_not_published_as_less(
    with_words, three_classes, tmp_path
):
    X = three_classes[0]
    with pytest.warns(UserWarning, match="no checkpoint of transformers.*bag_of_words=False"):
        with_words.save(tmp_path / "model")
    same = TransformerTextClassifier.load(tmp_path / "model")
    assert np.array_equal(same.predict_proba(X), with_words.predict_proba(X))
    assert same.bag_of_words_weight_ == with_words.bag_of_words_weight_
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "ForSequenceClassification" not in str(config.get("architectures"))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "chose the best epoch, the weight of the bag of words and the temperature" in card


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("numbers", torch.tensor([0, 10**6, 0], dtype=torch.int32)),
        ("numbers", torch.tensor([0, -1, 0], dtype=torch.int32)),
        ("idf", torch.ones(2)),
        ("bias", torch.ones(7)),
        ("weight", torch.ones(3, 3)),
    ],
)
def test_like__tensors_that_do_not_fit__are_refused(name, tensor):
    words = fit_words(random_rows(30)[0], 3, SPECIAL)
    with pytest.raises(ValueError, match="bag of words"):
        BagOfWords.like(words.state_dict() | {name: tensor}, 3)
    same = BagOfWords.like(words.state_dict(), 3)
    assert torch.equal(same.weight, words.weight)


def test_revive__damaged_words__are_named(with_words):
    with_words.model_.words.idf = with_words.model_.words.idf[:-1]
    with pytest.raises(SavedModelError, match="bag of words"):
        pickle.loads(pickle.dumps(with_words))


@pytest.mark.parametrize(("int8", "most"), [(False, 1e-4), (True, 0.05)])
def test_export_onnx__words__are_in_the_graph(with_words, three_classes, tmp_path, int8, most):
    X = [*three_classes[0][:60], "", "unheard-of"]
    with_words.export_onnx(tmp_path / "onnx", int8=int8)
    served = OnnxTextClassifier.load(tmp_path / "onnx")
    np.testing.assert_allclose(served.predict_proba(X), with_words.predict_proba(X), atol=most)


# --- how much of a say -----------------------------------------------------------------------


def held_out(codes):
    n_rows = len(codes)
    rows = Rows([str(i) for i in range(n_rows)], codes, np.ones(n_rows))
    held = HeldOut(rows, None, [], calibrate=True)
    texts = encoded_texts(*np.arange(n_rows)[:, None].tolist())
    held.data = LabelledTexts(texts, codes, np.ones(n_rows))
    return held


def two_views(n_rows, noise, seed=0):
    """Codes, and logits of two models that know as much and err independently."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, n_rows)
    truth = np.eye(3, dtype=np.float32)[codes]
    first, second = truth + noise * rng.normal(size=(2, n_rows, 3)).astype(np.float32)
    return codes, 2 * first, 2 * second


def test_weight_beside__models_that_err_independently__are_about_as_important():
    codes, first, second = two_views(2000, noise=1.0)
    assert 0.7 < held_out(codes).weight_beside(first, second) < 1.5


def test_weight_beside__the_other_knows_nothing__is_nothing():
    codes, first, _ = two_views(2000, noise=1.0)
    noise = np.random.default_rng(1).normal(size=(2000, 3)).astype(np.float32)
    assert held_out(codes).weight_beside(first, noise) == 0


def test_weight_beside__few_rows__never_settle_for_the_most():
    weights = []
    for seed in range(20):
        codes, first, second = two_views(20, noise=1.0, seed=seed)
        weights.append(held_out(codes).weight_beside(first, second))
    assert 0.5 < np.median(weights) < 1
    assert max(weights) < 1.55


def test_weight_beside__one_row__is_nothing():
    codes, first, second = two_views(1, noise=0.1)
    assert held_out(codes).weight_beside(first, second) == 0


def test_weight_beside__rows_of_one_class__is_nothing():
    codes, first, second = two_views(300, noise=1.0)
    own = codes == 1  # whatever speaks for this class lowers their loss
    assert held_out(codes[own]).weight_beside(first[own], second[own]) == 0
    held = held_out(codes)
    assert held.weight_beside(first, second) > 0
    held.data.weights[~own] = 0
    assert held.weight_beside(first, second) == 0


def test_weight_beside__all_rows_answered_well__is_nothing():
    codes, _, second = two_views(300, noise=0.1)
    first = 8 * np.eye(3, dtype=np.float32)[codes]
    held = held_out(codes)
    held.calibrate = False  # a temperature would make them surer yet
    assert held.measure(first)[0] > held.measure(first + second)[0]
    assert held.weight_beside(first, second) == 0
    assert held.weight_beside(first / 4, second) > 0


def test_weight_beside__new_rows__are_answered_better():
    better = []
    for seed in range(20):
        codes, first, second = two_views(1060, noise=1.0, seed=seed)
        few, new = slice(60), slice(60, None)
        weight = held_out(codes[few]).weight_beside(first[few], second[few])
        both = first + np.float32(weight) * second
        better.append(
            (both[new].argmax(axis=1) == codes[new]).mean()
            - (first[new].argmax(axis=1) == codes[new]).mean()
        )
    assert np.mean(better) > 0.05
    assert min(better) >= 0
