"""Heads, losses, optimisers and schedules, and what does not go together."""

import dataclasses
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_transformers._heads import AttentionPooling, MLPHead, build_head, pool
from sklearn_transformers._losses import loss_of
from sklearn_transformers._optimizers import build_optimizer
from sklearn_transformers._schedule import Schedule

# --- heads -----------------------------------------------------------------------------------


def test_mlp_head__untrained__is_its_linear_output():
    head = MLPHead(6, 3)
    nn.init.normal_(head.output.weight)
    nn.init.zeros_(head.output.bias)
    vectors = torch.randn(5, 6)
    torch.testing.assert_close(head(vectors), vectors @ head.output.weight.T)
    nn.init.normal_(head.hidden.weight)
    expected = (vectors + nn.functional.gelu(vectors @ head.hidden.weight.T)) @ head.output.weight.T
    torch.testing.assert_close(head(vectors), expected)


def test_attention_pooling__untrained__is_the_mean_of_what_is_not_padding():
    hidden, mask = torch.randn(2, 4, 6), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    pooling = AttentionPooling(6)
    torch.testing.assert_close(pooling(hidden, mask), pool(hidden, mask, "mean"))
    nn.init.normal_(pooling.query)
    scores = hidden[0, :3] @ pooling.query
    torch.testing.assert_close(pooling(hidden, mask)[0], scores.softmax(dim=0) @ hidden[0, :3])


@pytest.mark.parametrize("head", ["mlp", "attention"])
def test_head__logistic_start__answers_as_the_linear_head(make, three_classes, head):
    X, y = three_classes
    start = {"head_init": "logistic", "learning_rate": 1e-12, "head_learning_rate": 1e-12}
    linear = make(pooling="mean", **start).fit(X, y)
    other = make(head=head, **start).fit(X, y)
    assert other.pooling_ == ("attention" if head == "attention" else "cls")
    if head == "mlp":
        other = make(head=head, pooling="mean", **start).fit(X, y)
    np.testing.assert_allclose(other.predict_proba(X), linear.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("head", ["mlp", "attention"])
def test_head__trained__is_not_linear_any_more(make, three_classes, head):
    clf = make(head=head).fit(*three_classes)
    new = clf.model_.head.hidden.weight if head == "mlp" else clf.model_.attention.query
    assert new.abs().max() > 1e-3
    assert clf.score(*three_classes) > 0.6


class WideHead(nn.Module):
    """A head of the user's, with a buffer and random first weights."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(n_features)
        self.layers = nn.Sequential(nn.Linear(n_features, 50), nn.Tanh(), nn.Linear(50, n_classes))

    def forward(self, vectors):
        return self.layers(self.norm(vectors))


@pytest.mark.parametrize("head", [nn.Linear, WideHead, partial(nn.Linear, bias=False)])
def test_head__of_the_users__trains_and_keeps(make, three_classes, head):
    import pickle

    X, y = three_classes
    clf = make(head=head).fit(X, y)
    assert clf.score(X, y) > 0.6
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    loaded = pickle.loads(pickle.dumps(clf))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(loaded.predict_proba(X), clf.predict_proba(X))
    again = make(head=head).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    loaded.partial_fit(X, y)


def test_head__with_buffers__goes_back_to_those_of_the_best_epoch(make, three_classes):
    X, y = three_classes
    parameters = {"head": WideHead, "learning_rate": 0.03, "n_iter_no_change": 2, "max_epochs": 30}
    clf = make(scoring="neg_log_loss", calibrate=False, **parameters)
    clf.fit(X[60:], y[60:], X_val=X[:60], y_val=y[:60])
    assert clf.best_epoch_ < clf.n_iter_
    codes = np.searchsorted(clf.classes_, y[:60])
    score = clf.predict_log_proba(X[:60])[np.arange(60), codes].mean()
    assert score == pytest.approx(clf.best_score_, abs=1e-9)


def test_build_head__no_module__is_refused():
    with pytest.raises(ValueError, match=r"called with \(4, 3\).*must return a torch.nn.Module"):
        build_head(lambda width, n_classes: None, 4, 3)


def test_build_head__module__is_refused():
    with pytest.raises(ValueError, match="is a module already"):
        build_head(nn.Linear(4, 3), 4, 3)


def test_build_head__wrong_shape__is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"shape \(n, 3\). For two vectors it returned.*\(2, 5\)"):
        build_head(lambda width, n_classes: nn.Linear(width, 5), 4, 3)


# --- losses ----------------------------------------------------------------------------------


def by_hand(name, p):
    """Loss of a row whose right class, the first of three, has probability p[0]."""
    return {
        "cross_entropy": -math.log(p[0]),
        "focal": -((1 - p[0]) ** 2) * math.log(p[0]),
        "squared_error": (1 - p[0]) ** 2 + p[1] ** 2 + p[2] ** 2,
    }[name]


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "squared_error"])
def test_loss__value_and_gradient__equal_those_by_hand(name):
    logits = torch.tensor([[0.3, -1.0, 0.7], [4.0, 1.0, 1.0]], requires_grad=True)
    found = loss_of(name, 3)(logits, torch.tensor([0, 0]))
    probabilities = logits.detach().double().softmax(dim=1).tolist()
    np.testing.assert_allclose(found.tolist(), [by_hand(name, p) for p in probabilities], rtol=1e-5)
    found.sum().backward()
    step = 1e-6
    for column in range(3):
        moved = logits.detach().double()
        moved[0, column] += step
        slope = (
            by_hand(name, moved[0].softmax(0).tolist()) - by_hand(name, probabilities[0])
        ) / step
        assert logits.grad[0, column] == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "squared_error"])
def test_loss__reduced_precision_logits__are_computed_in_float32(name):
    logits = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    loss = loss_of(name, 2)(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    p = 1 / (1 + math.e)
    assert loss.item() == pytest.approx(by_hand(name, [p, 1 - p, 0]), rel=1e-6)


LOSSES = ["focal", "squared_error", nn.CrossEntropyLoss(reduction="none")]


@pytest.mark.parametrize("loss", LOSSES)
def test_loss__rows_of_weight_two_and_zero__are_rows_given_twice_and_absent(
    make, three_classes, loss
):
    X, y = [list(part[:60]) for part in three_classes]
    same = {"batch_size": 1000, "max_epochs": 3, "dropout": 0.0, "early_stopping": False}
    weights = np.ones(60)
    weights[:10], weights[10:20] = 2, 0
    weighted = make(loss=loss, **same).fit(X, y, weights)
    given = make(loss=loss, **same).fit(X[:10] + X[:10] + X[20:], y[:10] + y[:10] + y[20:])
    np.testing.assert_allclose(weighted.predict_proba(X), given.predict_proba(X), atol=1e-4)
    plain = make(loss=loss, **same).fit(X, y)
    assert np.abs(plain.predict_proba(X) - weighted.predict_proba(X)).max() > 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_loss__any__gives_probabilities_that_sum_to_one(make, three_classes, loss):
    X, y = three_classes
    clf = make(loss=loss).fit(X, y)
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1, atol=1e-12)
    assert clf.score(X, y) > 0.6


def test_loss__of_the_users__gets_what_training_minimises(make, three_classes):
    X, y = three_classes
    name = make(early_stopping=False, label_smoothing=0.0).fit(X, y)
    own = make(early_stopping=False, loss=nn.CrossEntropyLoss(reduction="none")).fit(X, y)
    np.testing.assert_array_equal(own.predict_proba(X), name.predict_proba(X))
    assert own.history_ != name.history_  # times differ, so this compares something
    assert [row.get("train_loss") for row in own.history_] == [
        row.get("train_loss") for row in name.history_
    ]


def test_loss__of_the_users__is_for_training_alone(make, three_classes):
    asked = []

    def loss(logits, codes):
        asked.append((len(codes), logits.requires_grad))
        return nn.functional.cross_entropy(logits, codes, reduction="none")

    X, y = [part[:60] for part in three_classes]
    clf = make(early_stopping="auto", loss=loss, max_epochs=2, batch_size=20).fit(X, y)
    assert clf.history_[0]["n_folds"] == 2
    assert "train_loss" not in clf.history_[0]
    assert all(with_gradient for _, with_gradient in asked)
    assert max(n_rows for n_rows, _ in asked) == 20


BAD_LOSSES = {
    "a mean": (nn.CrossEntropyLoss(), r"for two rows of shape \(2,\). It returned \(\).*'none'"),
    "a number": (lambda logits, codes: 3.0, r"It returned '?3\.0"),
    "no gradient": (
        lambda logits, codes: logits.detach()[:, 0],
        "returned losses without a gradient",
    ),
}


@pytest.mark.parametrize("kind", BAD_LOSSES)
def test_loss__unfit__is_refused_before_anything_is_loaded(make, binary, kind):
    loss, message = BAD_LOSSES[kind]
    with pytest.raises(ValueError, match=message):
        make(loss=loss, model="/no/such/folder").fit(*binary)


# --- optimisers and schedules ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "params", "kind", "settings"),
    [
        ("adamw", None, torch.optim.AdamW, {"fused": True, "lr": 0.1}),
        ("adamw", {"betas": (0.5, 0.6)}, torch.optim.AdamW, {"betas": (0.5, 0.6)}),
        ("sgd", None, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", {"momentum": 0, "nesterov": False}, torch.optim.SGD, {"momentum": 0}),
        ("adafactor", {"d": 2.0}, torch.optim.Adafactor, {"d": 2.0}),
        (torch.optim.RMSprop, {"alpha": 0.5}, torch.optim.RMSprop, {"alpha": 0.5}),
        (partial(torch.optim.NAdam, eps=1e-3), None, torch.optim.NAdam, {"eps": 1e-3}),
    ],
)
def test_build_optimizer__name_or_class__has_its_settings(optimizer, params, kind, settings):
    groups = [{"params": [torch.zeros(2, requires_grad=True)], "lr": 0.2, "weight_decay": 0.3}]
    made = build_optimizer(optimizer, params, groups, 0.1)
    assert type(made) is kind
    assert {name: made.defaults[name] for name in settings} == settings
    assert (made.param_groups[0]["lr"], made.param_groups[0]["weight_decay"]) == (0.2, 0.3)


@dataclasses.dataclass  # which makes them equal by value, so that they cannot be hashed
class OwnOptimizer:
    momentum: float = 0.5

    def __call__(self, groups, lr):
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum)


@dataclasses.dataclass
class OwnLoss:
    factor: float = 2.0

    def __call__(self, logits, codes):
        return self.factor * nn.functional.cross_entropy(logits, codes, reduction="none")


def test_own_loss_and_optimizer__that_cannot_be_hashed__are_taken(make, binary):
    clf = make(loss=OwnLoss(), optimizer=OwnOptimizer(), learning_rate="auto", max_epochs=1)
    clf.fit(*binary)
    plain = make(
        loss=lambda logits, codes: OwnLoss()(logits, codes),
        optimizer=lambda groups, lr: OwnOptimizer()(groups, lr),
        learning_rate="auto",
        max_epochs=1,
    ).fit(*binary)
    np.testing.assert_array_equal(clf.predict_proba(binary[0]), plain.predict_proba(binary[0]))


@pytest.mark.parametrize(
    ("optimizer", "parameters"),
    [
        ("sgd", {"learning_rate": 0.3, "head_learning_rate": 0.3}),
        ("adafactor", {"learning_rate": 0.05}),
        (torch.optim.NAdam, {}),
    ],
)
def test_optimizer__toy_texts__are_learnt(make, three_classes, optimizer, parameters):
    clf = make(optimizer=optimizer, max_epochs=15, **parameters).fit(*three_classes)
    assert clf.score(*three_classes) > 0.6


def schedule_of(shape, n_steps, warmup=0.0):
    schedule = Schedule(shape, warmup)
    schedule.on_train_begin(
        SimpleNamespace(n_steps_=n_steps, optimizer_=SimpleNamespace(param_groups=[]))
    )
    return schedule


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant", "plateau"])
def test_schedule__after_warm_up__has_its_shape(shape):
    schedule = schedule_of(shape, 100, warmup=0.2)
    factors = [schedule.factor(step) for step in range(100)]
    np.testing.assert_allclose(factors[:20], np.arange(1, 21) / 21)
    way = np.arange(80) / 80
    expected = {"linear": 1 - way, "cosine": (1 + np.cos(np.pi * way)) / 2}
    np.testing.assert_allclose(factors[20:], expected.get(shape, np.ones(80)))
    assert min(factors) > 0


def test_plateau__stalled_epochs__halve_the_rate(make, three_classes):
    fit = {"schedule": "plateau", "warmup": 0, "learning_rate": 0.05, "max_epochs": 12}
    clf = make(n_iter_no_change=12, **fit).fit(*three_classes)
    scores = [row["valid_score"] for row in clf.history_[1:]]
    expected, height, best = [], 0.05, -math.inf
    for score in scores:
        expected.append(height)
        if score <= best:
            height /= 2
        best = max(best, score)
    assert height < 0.05
    np.testing.assert_allclose([row["learning_rate"] for row in clf.history_[1:]], expected)


def test_plateau__few_rows__holds_some_out_instead_of_cross_validating(make, three_classes):
    clf = make(schedule="plateau", early_stopping="auto").fit(*three_classes)
    assert "n_folds" not in clf.history_[0]
    assert all("valid_score" in row for row in clf.history_)


def test_schedule__cosine__is_that_of_the_history(make, three_classes):
    clf = make(schedule="cosine", warmup=0, early_stopping=False, max_epochs=4, learning_rate=0.01)
    clf.fit(*three_classes)
    n_steps = 4 * 8
    ends = [(1 + math.cos(math.pi * (8 * epoch - 1) / n_steps)) / 200 for epoch in (1, 2, 3, 4)]
    np.testing.assert_allclose([row["learning_rate"] for row in clf.history_[1:]], ends)


# --- what does not go together ---------------------------------------------------------------

CONFLICTS = {
    "smoothed focal loss": (
        {"loss": "focal", "label_smoothing": 0.1},
        r"label_smoothing=0\.1 spreads.*no meaning with loss='focal'",
    ),
    "attention and pooling": (
        {"head": "attention", "pooling": "mean"},
        "head='attention' learns how to pool.*but pooling='mean'",
    ),
    "regression for a head of one's own": (
        {"head": nn.Linear, "head_init": "logistic"},
        "head_init='logistic' writes a logistic regression into the head",
    ),
    "plateau without validation": (
        {"schedule": "plateau", "early_stopping": False},
        "early_stopping=False leaves no rows to validate on",
    ),
    "plateau without a part": (
        {"schedule": "plateau", "validation_fraction": 0, "early_stopping": "auto"},
        "validation_fraction=0 leaves no rows to validate on",
    ),
    "pairs and another head": (
        {"tuning": "contrastive", "head": "mlp"},
        "tuning='contrastive' the head is a logistic regression, for which head='mlp'",
    ),
    "pairs and another loss": (
        {"tuning": "contrastive", "loss": "focal", "head_init": "auto"},
        "for which.*has no meaning",
    ),
    "unknown setting of an optimiser": (
        {"optimizer_params": {"speed": 3}},
        "optimizer='adamw' with optimizer_params={'speed': 3} could not be made: .*speed",
    ),
    "value out of an optimiser's range": (
        {"optimizer": "sgd", "optimizer_params": {"momentum": -1}},
        "could not be made: Invalid momentum",
    ),
    "a rate among the optimiser's settings": (
        {"optimizer_params": {"lr": 1.0}},
        "holds 'lr', which differs between parts of the model. Use the parameter learning_rate",
    ),
    "settings that exclude each other": (
        {"optimizer_params": {"foreach": True}},
        "could not be made: .*foreach",
    ),
    "a loss that was not made": (
        {"loss": nn.CrossEntropyLoss},
        "is a class. Pass an instance",
    ),
    "an optimiser of one group": (
        {"optimizer": torch.optim.LBFGS},
        "LBFGS.* could not be made",
    ),
    "no optimiser at all": (
        {"optimizer": lambda groups, lr: None},
        "made None, which is no torch.optim.Optimizer",
    ),
}


@pytest.mark.parametrize("kind", CONFLICTS)
def test_fit__choices_in_conflict__are_named_before_anything_is_loaded(make, binary, kind):
    parameters, message = CONFLICTS[kind]
    clf = make(**({"model": "/no/such/folder"} | parameters))
    with pytest.raises(ValueError, match=message):
        clf.fit(*binary)


def test_plateau__partial_fit__keeps_the_rate(make, binary):
    clf = make(schedule="plateau", warmup=0, learning_rate=0.01)
    clf.partial_fit(*binary, classes=["no", "yes"])
    assert clf.history_[-1]["learning_rate"] == 0.01
