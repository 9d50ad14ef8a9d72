"""Steps whose loss or gradient is not finite: made up for in float32, or named."""

from functools import partial

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sklearn_transformers import TrainingDivergedError

# One step an epoch over all rows, without dropout: bits depend on nothing else.
ONE_STEP = {"batch_size": 1000, "dropout": 0.0, "warmup": 0.0, "early_stopping": False}
PAIRS = {"tuning": "contrastive", "head_init": "auto", "head_learning_rate": "auto"}


class Overflowing(Callback):
    """Lets the backbone answer NaN while it trains, where `when` says so.

    Parameters
    ----------
    when : callable
        This callback -> bool; `rows_` are the token ids of the batch, `n_passes_` counts them.
    """

    def __init__(self, when):
        self.when = when

    def on_train_begin(self, net, **kwargs):
        self.n_passes_, self.n_failed_, self.rates_, self.seen_ = 0, 0, [], []
        net.module_.backbone.register_forward_hook(self.answer, with_kwargs=True)

    def answer(self, module, args, kwargs, output):
        if not module.training:
            return
        self.rows_ = kwargs["input_ids"]
        self.n_passes_ += 1
        if self.when(self):
            self.n_failed_ += 1
            output.last_hidden_state = output.last_hidden_state * torch.nan

    def on_grad_computed(self, net, **kwargs):
        self.rates_.append(net.optimizer_.param_groups[0]["lr"])

    def on_epoch_end(self, net, **kwargs):
        self.seen_.append(net.n_seen_)


def is_reduced(_=None):  # in bfloat16 or float16
    return torch.is_autocast_enabled("cpu")


def weights_of(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


OPTIMIZERS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd"},
    "adafactor": {"optimizer": "adafactor"},
    "fused sgd": {
        "optimizer": torch.optim.SGD,
        "optimizer_params": {"momentum": 0.9, "fused": True},
    },
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_step__not_finite_in_bfloat16__is_that_of_float32(make, binary, optimizer):
    X, y = binary
    how = ONE_STEP | OPTIMIZERS[optimizer] | {"max_epochs": 3}
    overflowing = Overflowing(is_reduced)
    clf = make(precision="bfloat16", callbacks=[overflowing], **how).fit(X, y)
    expected = make(precision="float32", **how).fit(X, y)
    assert overflowing.n_failed_ > 0
    assert torch.equal(weights_of(clf.model_), weights_of(expected.model_))
    for ours, theirs in zip(clf.history_[1:], expected.history_[1:], strict=True):
        assert ours["train_loss"] == theirs["train_loss"]
    assert clf.precision_ == "bfloat16"


def test_step__of_pairs_not_finite_in_bfloat16__is_that_of_float32(make, binary):
    X, y = binary
    how = ONE_STEP | PAIRS | {"max_epochs": 2}
    overflowing = Overflowing(is_reduced)
    clf = make(precision="bfloat16", callbacks=[overflowing], **how).fit(X, y)
    expected = make(precision="float32", **how).fit(X, y)
    assert overflowing.n_failed_ > 0
    assert torch.equal(weights_of(clf.model_.backbone), weights_of(expected.model_.backbone))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_steps__some_not_finite__are_made_up_at_their_own_rates(make, three_classes, precision):
    X, y = three_classes
    overflowing = Overflowing(lambda self: is_reduced() and self.n_passes_ in (2, 15))
    clf = make(
        precision=precision, callbacks=[overflowing], batch_size=20, max_epochs=3, dropout=0.0
    ).fit(X, y, X_val=X, y_val=y)
    # Twelve steps an epoch, the second of the first and of the second epoch are lost.
    rates, seen = overflowing.rates_, overflowing.seen_
    assert overflowing.n_failed_ == 2
    assert len(rates) == 3 * 12 + 2
    assert (rates[12], rates[25]) == (rates[1], rates[14])
    assert len(set(rates)) == 3 * 12
    assert seen == [len(X)] * 3
    assert np.isfinite([row["train_loss"] for row in clf.history_[1:]]).all()
    assert clf.score(X, y) > 0.7
    assert torch.isfinite(weights_of(clf.model_)).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_step__not_finite_in_float32_either__is_named_and_the_estimator_stays(
    make, three_classes, precision
):
    X, y = three_classes
    clf = make(warm_start=True, batch_size=20, max_epochs=1, early_stopping=False).fit(X, y)
    before = dict(vars(clf))
    answers = clf.predict_proba(X)
    overflowing = Overflowing(lambda self: self.n_passes_ >= 12 + 3)
    clf.set_params(precision=precision, max_epochs=2, schedule="constant", warmup=0.5)
    clf.set_params(callbacks=[overflowing])
    with pytest.raises(TrainingDivergedError) as caught:
        clf.fit(X, y)
    said = str(caught.value)
    # The rate rises in half of the steps: it has arrived.
    assert "in step 3 of 12 of epoch 2, at a learning rate of 0.005 (peak" in said
    assert f"learning_rate=0.005, precision={precision!r})" in said
    assert ("made in float32" in said) == (precision != "float32")
    assert said.endswith("Lower learning_rate, raise warmup, or take another model.")
    assert {name: vars(clf)[name] for name in before if name.endswith("_")} == {
        name: value for name, value in before.items() if name.endswith("_")
    }
    np.testing.assert_array_equal(clf.predict_proba(X), answers)


def test_step__gradient_alone_not_finite__is_named(make, binary):
    def steep(logits, codes):
        # The root of 0 is 0, and as steep as can be.
        return torch.nn.functional.cross_entropy(logits, codes, reduction="none") + torch.sqrt(
            (logits * 0).sum(dim=1)
        )

    clf = make(loss=steep, batch_size=1000, early_stopping=False)
    with pytest.raises(TrainingDivergedError, match="step 1 of 1 of epoch 1, at a learning rate"):
        clf.fit(*binary)
    assert not hasattr(clf, "model_")


def test_float16__scale_far_too_high__is_looked_for_and_no_row_is_lost(
    make, three_classes, monkeypatch
):
    X, y = three_classes
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**24))
    watching = Overflowing(lambda self: False)
    scales = []
    watching.on_batch_begin = lambda net, **kwargs: scales.append(net.scaler_.get_scale())
    clf = make(precision="float16", batch_size=20, max_epochs=4, callbacks=[watching])
    clf.set_params(early_stopping=False).fit(X, y)
    assert scales[-1] < 2.0**24
    assert len(watching.rates_) > 4 * 12  # some were made twice
    assert watching.seen_ == [len(X)] * 4
    assert np.isfinite(clf.predict_proba(X)).all()
