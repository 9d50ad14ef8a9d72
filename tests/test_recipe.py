from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import GOOD, toy_texts
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, make_scorer
from skorch.callbacks import Callback, EarlyStopping, LRScheduler

from sklearn_transformers import TransformerTextClassifier
from sklearn_transformers._data import LabelledTexts, Rows
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._head_start import PENALTIES, fit_head
from sklearn_transformers._held_out import HeldOut
from sklearn_transformers._losses import loss_of
from sklearn_transformers._model import parameter_groups
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._recipe import (
    are_few,
    auto_batch_size,
    auto_epochs,
    auto_learning_rate,
)
from sklearn_transformers._split import stratified_folds


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "epochs"),
    [
        (2, 8, 20),
        (48, 8, 20),
        (80, 8, 12),
        (96, 8, 10),
        (199, 8, 10),
        (300, 16, 10),
        (600, 16, 5),
        (1999, 16, 3),
        (2000, 32, 3),
        (10**6, 32, 3),
    ],
)
def test_auto__number_of_rows__decides_on_batches_and_epochs(n_rows, batch_size, epochs):
    assert auto_batch_size(n_rows) == batch_size
    assert auto_epochs(n_rows, batch_size) == epochs


@pytest.mark.parametrize(
    ("width", "rate"), [(64, 5e-4), (128, 5e-4), (384, 7.5e-5), (768, 1.9e-5), (1024, 1.05e-5)]
)
def test_auto_learning_rate__wider_models__learn_more_slowly(width, rate):
    assert auto_learning_rate(width) == pytest.approx(rate, rel=0.02)


def test_auto__values__become_fitted_attributes_and_parameters_stay(make, binary):
    clf = make(
        learning_rate="auto", batch_size="auto", max_epochs="auto", early_stopping="auto"
    ).fit(*binary)
    assert (clf.batch_size_, clf.max_epochs_, clf.early_stopping_) == (16, 10, True)
    assert clf.learning_rate_ == 5e-4  # of a model 32 wide
    assert clf.head_learning_rate_ > clf.learning_rate_
    assert {clf.batch_size, clf.max_epochs, clf.early_stopping, clf.learning_rate} == {"auto"}


def test_auto_early_stopping__enough_rows_or_given_ones__stops_early(make):
    X, y = toy_texts(300)
    few = make(early_stopping="auto", max_epochs=1)
    assert few.fit(X, y).early_stopping_
    assert "cross_fit_seconds" not in few.history_[0]
    few.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    assert few.early_stopping_
    assert "cross_fit_seconds" not in few.history_[0]
    assert few.fit(X[:299], y[:299]).early_stopping_
    assert few.history_[0]["cross_fit_seconds"] > 0
    assert few.history_[0]["n_folds"] == 2
    # Of uneven classes, rows are few beside the large one; new ones are enough to judge by.
    uneven = ["yes", *["no"] * 3] * 75
    assert few.fit(X, uneven).history_[0]["n_folds"] == 2
    new = toy_texts(300, seed=1)[0]
    assert few.set_params(warm_start=True).fit(new, uneven).early_stopping_
    assert few.fit(X[:299], y[:299]).early_stopping_ is False
    few.set_params(warm_start=False)
    # Nothing may be held out.
    few.set_params(validation_fraction=0).fit(X, y)
    assert not few.early_stopping_
    assert few.best_score_ is None


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([149, 149], True),
        ([150, 150], False),
        ([20] * 15, False),
        ([19] * 20, True),
        ([20] * 20, False),
        ([19] * 77, True),
        ([20] * 77, False),
        ([14] * 200, True),
        ([15] * 200, False),
        # Of a class that is rare, there are few however many there are of the other.
        ([149, 2000], True),
        ([150, 2000], False),
        ([99, 99, 800], True),
        ([100, 100, 800], False),
        ([10, 2989], True),
        ([10, 2990], False),
    ],
)
def test_are_few__rows_beside_the_largest_class__decide(sizes, expected):
    assert are_few(np.repeat(np.arange(len(sizes)), sizes), len(sizes)) is expected


def test_defaults__every_kind_of_size__learns(checkpoints):
    X_test, y_test = toy_texts(100, seed=9)
    for n_rows, least in ((4, 0.45), (40, 0.6), (400, 0.8)):
        X, y = toy_texts(n_rows)
        clf = TransformerTextClassifier(checkpoints["bert"], random_state=0, verbose=0)
        assert clf.fit(X, y).score(X_test, y_test) > least


# --- the head's start ------------------------------------------------------------------------


def frozen_vectors(clf, texts):
    twin = TransformerTextClassifier(
        clf.model, head_init="random", learning_rate=1e-30, max_epochs=1, early_stopping=False
    )
    twin.set_params(weight_decay=0.0, device="cpu", precision="float32", random_state=0, verbose=0)
    labels = ["a", "b"] * (len(texts) // 2)
    return twin.fit(texts, labels[: len(texts)]).transform(texts)


def test_head_init__start__is_a_logistic_regression_on_the_frozen_vectors(make, three_classes):
    X, y = three_classes
    still = {"learning_rate": 1e-30, "head_learning_rate": 1e-30, "weight_decay": 0.0}
    clf = make(head_init="logistic", max_epochs=1, early_stopping=False, **still).fit(X, y)
    vectors = frozen_vectors(clf, X)
    np.testing.assert_allclose(clf.transform(X), vectors, atol=1e-5)
    scaled = (vectors - vectors.mean(axis=0)) / (vectors - vectors.mean(axis=0)).std()
    scores = [
        LogisticRegression(C=C, max_iter=2000).fit(scaled, y).predict(scaled) for C in (0.1, 1, 10)
    ]
    agreement = max(np.mean(labels == clf.predict(X)) for labels in scores)
    assert agreement > 0.93  # its penalty lies between these
    assert clf.history_[0]["train_loss"] < 0.8 * np.log(3)


def test_head_init__epochs_that_ruin_the_model__leave_the_start(make, three_classes):
    X, y = three_classes
    X_val, y_val = X[:60], y[:60]
    clf = make(head_init="logistic", learning_rate=1.0, max_epochs=3)
    clf.fit(X[60:], y[60:], X_val=X_val, y_val=y_val)
    assert clf.best_epoch_ == 0
    assert clf.n_iter_ == 3
    assert clf.best_score_ == clf.history_[0]["valid_score"]
    start = load_pretrained(clf.model).backbone.state_dict()
    for name, weight in clf.model_.backbone.state_dict().items():
        assert torch.equal(weight, start[name]), name
    codes = np.searchsorted(clf.classes_, y_val)
    losses = -clf.predict_log_proba(X_val)[np.arange(60), codes]
    assert -losses.mean() == pytest.approx(clf.best_score_, abs=1e-5)


def test_head_init__row_given_twice__equals_weight_two(make):
    X, y = toy_texts(60)
    full = {"head_init": "logistic", "early_stopping": False, "max_epochs": 1, "dropout": 0.0}
    full |= {"batch_size": 500, "learning_rate": 1e-6}
    weights = np.ones(60)
    weights[:20] = 2
    heavy = make(**full).fit(X, y, sample_weight=weights)
    twice = make(**full).fit(X + X[:20], y + y[:20])
    np.testing.assert_allclose(heavy.predict_proba(X), twice.predict_proba(X), atol=1e-4)


def test_head_init__more_rows_than_needed__uses_some_of_each_class(make, monkeypatch):
    from sklearn_transformers import _start

    seen = []

    def looking(vectors, codes, *others):
        seen.append(np.bincount(codes))
        return fit_head(vectors, codes, *others)

    monkeypatch.setattr(_start, "MOST_ROWS", 50)
    monkeypatch.setattr(_start, "fit_head", looking)
    X, y = toy_texts(200, classes=("bad", "good", "plain"))
    make(head_init="logistic", max_epochs=1, early_stopping=False).fit(X, y)
    assert seen[0].sum() == 50
    assert seen[0].min() >= 15


def test_partial_fit__first_call_with_one_class__is_possible(make):
    X, y = toy_texts(20)
    clf = make(head_init="auto").partial_fit(X[::2], y[::2], classes=["no", "yes"])
    assert set(clf.predict(X)) == {"no"}
    assert "head_seconds" not in clf.history_[0]


# --- few rows: cross-validation --------------------------------------------------------------


def few(make, **parameters):
    return make(**({"early_stopping": "auto", "max_epochs": 4} | parameters))


def scripted(monkeypatch, scores):
    """Let the judge give these scores, whatever the answers."""
    from sklearn_transformers._judge import Judge

    remaining = iter(scores)
    monkeypatch.setattr(Judge, "score", lambda self, *_: next(remaining))
    monkeypatch.setattr(HeldOut, "clearly_better", lambda self, *_: True)


def test_cross_fit__few_rows__all_train_to_the_end(make, monkeypatch):
    X, y = toy_texts(60)
    scripted(monkeypatch, [0.0, 1.0])
    clf = few(make).fit(X, y)
    assert (clf.n_iter_, clf.best_epoch_, clf.best_score_) == (4, 4, 1.0)
    assert [row.get("valid_score") for row in clf.history_] == [0.0, None, None, None, 1.0]
    assert clf.temperature_ == clf.history_[4]["temperature"] != 1
    plain = few(make, early_stopping=False).fit(X, y)
    assert plain.history_[4]["tokens_per_second"] > 0
    n_tokens = [row["tokens_per_second"] * row["train_seconds"] for row in clf.history_[1:]]
    expected = [row["tokens_per_second"] * row["train_seconds"] for row in plain.history_[1:]]
    assert n_tokens == pytest.approx(expected)  # every row


class StopAtTwo(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.stop_training = len(net.history) == 2


@pytest.mark.parametrize("calibrate", [False, True])
def test_cross_fit__start_better_than_the_end__trains_nothing(make, monkeypatch, calibrate):
    X, y = toy_texts(60)
    scripted(monkeypatch, [9, 8])
    clf = few(make, head_init="logistic", calibrate=calibrate).fit(X, y)
    assert (clf.n_iter_, clf.best_epoch_, clf.best_score_) == (0, 0, 9)
    start = load_pretrained(clf.model).backbone.state_dict()
    for name, weight in clf.model_.backbone.state_dict().items():
        assert torch.equal(weight, start[name]), name
    assert np.mean(clf.predict(X) == np.array(y)) > 0.6
    # The regression itself, not the shrunk one, by what training would have minimised.
    scores = clf.decision_function(X) * clf.temperature_ * np.where(np.array(y) == "yes", 1, -1)
    right, wrong = np.log1p(np.exp(-scores)).mean(), np.log1p(np.exp(scores)).mean()
    assert 0.95 * right + 0.05 * wrong == pytest.approx(clf.history_[0]["train_loss"], rel=0.02)
    assert right != pytest.approx(clf.history_[0]["train_loss"], rel=0.02)
    # What comes after it keeps its temperature.
    assert clf.partial_fit(X, y).temperature_ == clf.history_[0]["temperature"]
    assert (clf.temperature_ != 1) == calibrate


def test_cross_fit__end_worse_but_not_clearly__trains(make, monkeypatch):
    X, y = toy_texts(60)
    scripted(monkeypatch, [9, 8])
    monkeypatch.setattr(HeldOut, "clearly_better", lambda self, *_: False)
    assert few(make).fit(X, y).best_epoch_ == 4


def test_cross_fit__other_callbacks_stop_earlier__keeps_what_was_reached(make, monkeypatch):
    from sklearn_transformers import _fitting

    X, y = toy_texts(60)
    scripted(monkeypatch, [0, 1])
    # As scikit-learn's own callbacks do, which are no parameter.
    monkeypatch.setattr(_fitting, "epoch_tasks", lambda *_: [StopAtTwo()])
    clf = few(make).fit(X, y)
    # What is known of a whole training is not said of a part.
    assert (clf.n_iter_, clf.best_epoch_, clf.best_score_) == (2, 2, None)


@pytest.mark.parametrize("tuning", ["full", "contrastive"])
def test_cross_fit__answers__are_of_models_that_never_saw_the_row(make, monkeypatch, tuning):
    from sklearn_transformers import _cross_fit

    trained, answered = [], []
    original, original_net = _cross_fit.run, _cross_fit.net_of

    def texts_of(encoded):
        return [tuple(encoded.tokens(np.array([i]))) for i in range(len(encoded))]

    def looking_net(recipe):
        class Looking(original_net(recipe)):
            def train(self, train, valid):
                trained.append(set(texts_of(train.texts)))
                # As many steps as all 60 rows make in batches of 32.
                assert self.recipe.n_steps(len(train)) == 4 * 2
                return super().train(train, valid)

        return Looking

    def looking(forward, texts, *others, **named):
        answered.append(texts_of(texts))
        return original(forward, texts, *others, **named)

    monkeypatch.setattr(_cross_fit, "net_of", looking_net)
    monkeypatch.setattr(_cross_fit, "run", looking)
    X, y = toy_texts(60)
    head = {"head_init": "auto", "head_learning_rate": "auto"} if tuning == "contrastive" else {}
    few(make, tuning=tuning, **head).fit(X, y)
    assert len(trained) == 2
    before, after = answered[::2], answered[1::2]
    assert before == after
    assert sum(map(len, after)) == 60
    for train, held in zip(trained, after, strict=True):
        assert not train & set(held)


def test_cross_fit__scores__are_those_of_the_rows_left_out(make, monkeypatch):
    from sklearn_transformers import _held_out

    asked = []
    original = _held_out.Judge.score

    def looking(self, logits, *others):
        asked.append(
            (dict(zip(self.texts, self.labels, strict=True)), original(self, logits, *others))
        )
        return asked[-1][1]

    monkeypatch.setattr(_held_out.Judge, "score", looking)
    X, y = toy_texts(60)
    clf = few(make, scoring="accuracy", max_epochs=8).fit(X, y)
    rows = [row for row, score in asked if score is not None]
    assert rows[-1] == dict(zip(X, y, strict=True))
    before, after = (score for _, score in asked[-2:])
    assert clf.history_[0]["valid_score"] == before
    assert clf.best_score_ == max(before, after)
    assert clf.best_epoch_ == (8 if after >= before else 0)


def test_cross_fit__regressions_of_the_folds__have_the_penalty_of_all_rows(make, monkeypatch):
    from sklearn_transformers import _start

    calls = []

    def looking(vectors, codes, weights, n_classes, rng, penalty=None):
        start = fit_head(vectors, codes, weights, n_classes, rng, penalty)
        calls.append((len(codes), penalty, start.penalty))
        return start

    monkeypatch.setattr(_start, "fit_head", looking)
    # Half of two rows a class is one: nothing to judge a penalty by.
    X = [f"{word} {place}" for word in GOOD for place in ("film", "book")]
    clf = few(make, head_init="logistic", max_epochs=1).fit(X, np.repeat(GOOD, 2))
    (n_rows, given, chosen), *folds = calls
    assert (n_rows, given) == (16, None)
    assert folds == [(8, chosen, chosen)] * 2
    assert chosen == clf.history_[0]["penalty"] < PENALTIES[0]


def test_cross_fit__same_seed__gives_the_same_bits(make):
    X, y = toy_texts(40, classes=("bad", "good", "plain"))
    first, second = (few(make, head_init="auto").fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_cross_fit__classes_of_one_row__still_train(make):
    X, y = toy_texts(20)
    clf = few(make, head_init="auto").fit([*X, "the song"], [*y, "rare"])
    assert "rare" in clf.classes_
    every_class_once = few(make, head_init="auto").fit(["good day", "bad meal"], ["yes", "no"])
    assert every_class_once.best_score_ is None
    assert not every_class_once.early_stopping_


def test_cross_fit__going_on__does_without(make):
    X, y = toy_texts(60)
    clf = few(make, warm_start=True).fit(X, y)
    n_before, temperature = clf.n_iter_, clf.temperature_
    assert "cross_fit_seconds" in clf.history_[0]
    assert clf.fit(X, y).n_iter_ == n_before + 4
    assert not clf.early_stopping_
    assert clf.temperature_ == temperature
    assert clf.set_params(calibrate=False).fit(X, y).temperature_ == 1
    assert few(make).partial_fit(X, y, classes=["no", "yes"]).n_iter_ == 1


OWN_EYES = {
    "callback": {"callbacks": [EarlyStopping(patience=2)]},  # looks at valid_loss
    "schedule": {"callbacks": [LRScheduler("StepLR", step_size=1)]},
    "scorer": {"scoring": lambda clf, X, y: clf.score(list(X)[::-1], list(y)[::-1])},
}


@pytest.mark.parametrize("what", OWN_EYES)
def test_cross_fit__callbacks_and_own_scorers__see_one_training_and_a_part_held_out(make, what):
    X, y = toy_texts(60)
    clf = few(make, **OWN_EYES[what]).fit(X, y)
    assert clf.early_stopping_
    assert "cross_fit_seconds" not in clf.history_[0]
    assert "valid_seconds" in clf.history_[1]


def test_cross_fit__scorer_of_scikit_learn__needs_the_answers_only(make):
    X, y = toy_texts(60)
    clf = few(make, scoring=make_scorer(f1_score, pos_label="yes")).fit(X, y)
    assert "cross_fit_seconds" in clf.history_[0]
    assert 0 <= clf.best_score_ <= 1


@pytest.mark.parametrize("early_stopping", ["auto", False])
def test_weights__that_leave_one_class__start_the_head_all_the_same(make, early_stopping):
    X, y = toy_texts(60)
    weights = (np.array(y) == "no").astype(float)
    clf = make(head_init="auto", early_stopping=early_stopping).fit(X, y, weights)
    assert set(clf.predict(X)) == {"no"}
    nothing = make(head_init="auto", early_stopping=early_stopping, class_weight={"yes": 0})
    assert set(nothing.fit(X, y).predict(X)) == {"no"}


def test_early_stopping__numpys_bool__is_one(make):
    X, y = toy_texts(60)
    clf = make(early_stopping=np.False_, max_epochs=2).fit(X, y, X_val=X[:9], y_val=y[:9])
    assert not clf.early_stopping_
    assert clf.best_epoch_ == 2


# --- the one-standard-error rule -------------------------------------------------------------


def judged_rows(scoring, n_rows=40, n_copies=1, calibrate=False):
    """Held-out rows of two classes whose answers can be made up."""
    numbers = np.repeat(np.arange(n_rows), n_copies)
    codes = numbers % 2
    rows = Rows([str(number) for number in numbers], codes, np.ones(len(codes)))
    held = HeldOut(rows, SimpleNamespace(scoring=scoring), [], calibrate)
    texts = EncodedTexts(numbers.astype(np.int32), np.arange(len(codes) + 1))
    held.data = LabelledTexts(texts, codes, rows.weights)
    sure = np.where(np.arange(2) == codes[:, None], 2.0, 0.0)
    return held, sure


def test_clearly_better__beyond_its_standard_error__only():
    held, sure = judged_rows("loss")
    assert held.clearly_better(sure, 0.5 * sure)
    assert not held.clearly_better(0.5 * sure, sure)
    noise = np.random.default_rng(0).normal(size=sure.shape)
    assert not held.clearly_better(sure + noise, sure + noise[::-1])
    assert not held.clearly_better(sure, sure)


def test_clearly_better__copies__are_no_further_evidence():
    noise = np.random.default_rng(0).normal(size=(20, 16, 2))
    found = []
    for n_copies in (1, 65):
        held, sure = judged_rows("loss", 16, n_copies)
        others = np.repeat(noise, n_copies, axis=1)
        found.append([held.clearly_better(sure, sure + 0.5 * other) for other in others])
    assert found[0] == found[1]
    assert {True, False} == set(found[0])


def test_measure__spellings_that_a_model_tells_apart__are_all_heard():
    codes = np.array([0, 0, 1])
    texts = EncodedTexts(np.array([5, 6, 7], np.int32), np.arange(4))
    losses = []
    for order in ([0, 1, 2], [1, 0, 2]):
        rows = Rows([["US", "us", "x"][i] for i in order], codes, np.ones(3))
        assert rows.copies[0] == rows.copies[1]
        held = HeldOut(rows, SimpleNamespace(scoring="loss"), [], False)
        held.data = LabelledTexts(texts.take(np.array(order)), codes, rows.weights)
        losses.append(held.measure(np.array([[3.0, 0], [-3.0, 0], [0, 3.0]])[order])[0])
    assert losses[0] == pytest.approx(losses[1])


def test_measure__copies__weigh_and_tell_nothing_more():
    logits = np.random.default_rng(1).normal(size=(16, 2)) * 3
    single, _ = judged_rows("loss", 16, calibrate=True)
    many, _ = judged_rows("loss", 16, 65, calibrate=True)
    assert many.measure(np.repeat(logits, 65, axis=0)) == pytest.approx(single.measure(logits))
    uneven, _ = judged_rows("loss", 16)
    twice = np.concatenate([np.arange(16), [3]])
    uneven.rows = uneven.rows.take(twice)
    uneven.data = LabelledTexts(uneven.data.texts.take(twice), twice % 2, np.ones(17))
    losses = -np.log(softmax(logits, axis=1)[twice, twice % 2])
    assert uneven.measure(logits[twice]) == pytest.approx((losses.mean(), 1.0))


def test_clearly_better__other_scorers__are_taken_at_their_word():
    held, sure = judged_rows("accuracy")
    assert held.clearly_better(0.5 * sure, sure)


@pytest.mark.parametrize("clearly", [False, True])
def test_early_stopping__training_to_the_end__is_kept_unless_clearly_worse(
    make, monkeypatch, clearly
):
    scripted(monkeypatch, [0.0, 9.0, 1.0, 1.0])
    monkeypatch.setattr(HeldOut, "clearly_better", lambda self, *_: clearly)
    clf = make(max_epochs=3, n_iter_no_change=3).fit(*toy_texts(60))
    assert clf.best_epoch_ == (1 if clearly else 3)
    assert clf.best_score_ == clf.history_[clf.best_epoch_]["valid_score"]
    scripted(monkeypatch, [0.0, 9.0, 1.0, 1.0])
    monkeypatch.setattr(HeldOut, "clearly_better", lambda self, *_: clearly)
    cut_short = make(max_epochs=9, n_iter_no_change=2).fit(*toy_texts(60))
    assert (cut_short.best_epoch_, cut_short.n_iter_) == (1, 3)


def test_stratified_folds__parts__are_disjoint_alike_and_leave_each_class_a_row():
    codes = np.array([0] * 7 + [1] * 2 + [2] + [3] * 30)
    folds = stratified_folds(codes, 5, np.random.default_rng(0))
    rows = np.concatenate(folds)
    assert sorted(rows) == [i for i in range(40) if codes[i] != 2]
    for fold in folds:
        assert 7 <= len(fold) <= 8
        assert set(np.delete(codes, fold)) == {0, 1, 2, 3}
        assert 5 <= (codes[fold] == 3).sum() <= 7


# --- rates, layers, labels -------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "gpt2"])
def test_layer_decay__lower_layers__learn_more_slowly(make, binary, architecture):
    clf = make(architecture, max_epochs=1, early_stopping=False).fit(*binary)
    groups = parameter_groups(clf.model_, 1.0, 10.0, 0.5, 0.01)
    rate = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    named = dict(clf.model_.named_parameters())
    assert len(rate) == len(named)
    rates = {name: rate[id(weight)] for name, weight in named.items()}
    assert {rates["head.weight"], rates["head.bias"]} == {10.0}
    by_layer = {part: {r for name, r in rates.items() if part in name} for part in (".0.", ".1.")}
    assert by_layer == {".0.": {0.5}, ".1.": {1.0}}
    table = next(name for name in rates if "embeddings.weight" in name or "wte" in name)
    assert rates[table] == 0.25
    decays = {id(w): group["weight_decay"] for group in groups for w in group["params"]}
    assert {decays[id(w)] for w in named.values() if w.ndim == 1} == {0.0}


def test_label_smoothing__loss__is_that_of_the_smoothed_labels():
    logits, codes = torch.randn(7, 3), torch.arange(7) % 3
    targets = 0.8 * torch.eye(3)[codes] + 0.2 / 3
    expected = -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1)
    torch.testing.assert_close(loss_of("cross_entropy", 3, 0.2)(logits, codes), expected)


@pytest.mark.parametrize("tuning", ["full", "head", "bias"])
def test_label_smoothing__auto__is_a_tenth_of_the_cross_entropy(make, binary, tuning):
    auto, tenth, none = (
        make(label_smoothing=share, tuning=tuning).fit(*binary) for share in ("auto", 0.1, 0.0)
    )
    answers = [clf.decision_function(binary[0]) for clf in (auto, tenth, none)]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert np.abs(answers[0] - answers[2]).max() > 1e-4


@pytest.mark.parametrize("loss", ["focal", "squared_error"])
def test_label_smoothing__auto__leaves_other_losses_alone(make, binary, loss):
    auto, none = (make(label_smoothing=share, loss=loss).fit(*binary) for share in ("auto", 0.0))
    np.testing.assert_array_equal(auto.predict_proba(binary[0]), none.predict_proba(binary[0]))


def test_label_smoothing__trained_model__is_less_sure(make, binary):
    fit = {"calibrate": False, "early_stopping": False, "max_epochs": 12}
    sure, smooth = (make(label_smoothing=s, **fit).fit(*binary) for s in (0.0, 0.3))
    margins = [np.abs(clf.decision_function(binary[0])).mean() for clf in (sure, smooth)]
    assert margins[1] < 0.7 * margins[0]
