import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import n_texts, toy_texts
from skorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, BertModel

from sklearn_transformers import TrainingDivergedError, _batching
from sklearn_transformers._optimizers import step_unless
from sklearn_transformers._training_form import training_form

# One step over all rows, without dropout, decay or a split: the gradient alone decides.
FULL_BATCH = {
    "batch_size": 1000,
    "dropout": 0.0,
    "weight_decay": 0.0,
    "max_epochs": 1,
    "warmup": 0.0,
    "label_smoothing": 0.0,
    "early_stopping": False,
}


class Gradients(Callback):
    """Keeps a copy of the gradients of the first step."""

    def on_grad_computed(self, net, named_parameters, **kwargs):
        if not hasattr(self, "gradients"):
            self.gradients = {
                name: weight.grad.clone()
                for name, weight in named_parameters
                if weight.grad is not None
            }


def gradients_of(make, X, y, sample_weight=None, **parameters):
    callback = Gradients()
    clf = make(callbacks=[callback], **(FULL_BATCH | parameters)).fit(X, y, sample_weight)
    return callback.gradients, clf


def assert_close(actual, expected, atol=1e-6):
    assert actual.keys() == expected.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=atol)


def test_step__gradient__equals_plain_autograd_over_single_texts(make, three_classes):
    X, y = [part[:24] for part in three_classes]
    gradients, clf = gradients_of(make, X, y, learning_rate=1e-30)
    model, tokenizer = clf.model_, clf.tokenizer_
    codes = np.searchsorted(clf.classes_, y)
    model.zero_grad()
    for text, code in zip(X, codes, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        hidden = model.backbone(input_ids=ids).last_hidden_state[:, 0]
        loss = torch.nn.functional.cross_entropy(model.head(hidden), torch.tensor([code]))
        (loss / len(X)).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    # The embeddings of tokens that no text has are not trained: their gradient is zero anyway.
    (table,) = (name for name in expected if name.endswith("word_embeddings.weight"))
    ids = np.unique(np.concatenate(tokenizer(X)["input_ids"]))
    ids = ids[ids != model.backbone.get_input_embeddings().padding_idx]
    assert not np.delete(expected[table].numpy(), ids, axis=0).any()
    expected[table] = expected[table][ids]
    assert_close(gradients, expected)


def test_step__micro_batches__add_up_to_the_whole(make, three_classes, monkeypatch):
    X, y = three_classes
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 16_384)
    whole, _ = gradients_of(make, X, y)
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 100)
    parts, _ = gradients_of(make, X, y)
    assert_close(parts, whole)


def test_step__sample_weight_two__equals_row_twice(make, binary):
    X, y = [part[:40] for part in binary]
    weights = np.ones(40)
    weights[:7] = 2
    weighted, _ = gradients_of(make, X, y, weights)
    repeated, _ = gradients_of(make, X + X[:7], y + y[:7])
    assert_close(weighted, repeated)


def test_step__sample_weight_zero__equals_row_absent(make, binary):
    X, y = [part[:40] for part in binary]
    weights = np.ones(40)
    weights[:7] = 0
    zeroed, clf = gradients_of(make, X, y, weights)
    absent, other = gradients_of(make, X[7:], y[7:])
    assert_close(zeroed, absent, atol=0)
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))


def test_step__class_weight__equals_sample_weight(make, binary):
    X, y = [part[:40] for part in binary]
    by_class, _ = gradients_of(make, X, y, class_weight={"yes": 3.0})
    by_row, _ = gradients_of(make, X, y, np.where(np.array(y) == "yes", 3.0, 1.0))
    assert_close(by_class, by_row)


def test_step__class_weight__is_multiplied_with_sample_weight(make, binary):
    X, y = [part[:40] for part in binary]
    weights = np.linspace(0.5, 2, 40)
    both, _ = gradients_of(make, X, y, weights, class_weight={"yes": 3.0})
    by_row, _ = gradients_of(make, X, y, weights * np.where(np.array(y) == "yes", 3.0, 1.0))
    assert_close(both, by_row)


def test_step__clipping__bounds_the_update(make, binary):
    X, y = binary
    free = make(**(FULL_BATCH | {"max_grad_norm": None})).fit(X, y)
    tight = make(**(FULL_BATCH | {"max_grad_norm": 1e-9})).fit(X, y)
    start = make(**(FULL_BATCH | {"learning_rate": 1e-30})).fit(X, y)

    def moved(clf):
        pairs = zip(clf.model_.parameters(), start.model_.parameters(), strict=True)
        return max(float((a - b).detach().abs().max()) for a, b in pairs)

    assert moved(tight) < 0.5 * moved(free)


def test_train_loss__recorded__is_the_weighted_mean(make, binary):
    X, y = binary
    clf = make(**(FULL_BATCH | {"learning_rate": 1e-30})).fit(X, y)
    log_proba = clf.predict_log_proba(X)[np.arange(len(X)), np.searchsorted(clf.classes_, y)]
    assert clf.history_[1]["train_loss"] == pytest.approx(-log_proba.mean(), abs=1e-6)


def test_valid_loss__class_weight__is_applied(make, binary):
    X, y = binary
    X_val, y_val = toy_texts(31, seed=5)
    clf = make(max_epochs=1, class_weight={"yes": 5.0}).fit(X, y, X_val=X_val, y_val=y_val)
    codes = np.searchsorted(clf.classes_, y_val)
    losses = -clf.predict_log_proba(X_val)[np.arange(31), codes]
    expected = np.average(losses, weights=np.where(codes == 1, 5.0, 1.0))
    assert clf.history_[1]["valid_loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_precision__reduced__learns_and_keeps_float32_weights(make, three_classes, precision):
    X, y = three_classes
    clf = make(precision=precision, max_epochs=8).fit(X, y)
    assert clf.precision_ == precision
    assert {p.dtype for p in clf.model_.parameters()} == {torch.float32}
    assert clf.score(X, y) > 0.7


def test_fit__diverging__says_where_and_leaves_unfitted(make, binary):
    clf = make(learning_rate=1e30, max_grad_norm=None)
    with pytest.raises(TrainingDivergedError, match=r"epoch \d.*learning_rate=1e\+30"):
        clf.fit(*binary)
    assert not hasattr(clf, "model_")


@pytest.mark.parametrize("early_stopping", [False, True])
def test_fit__diverging_in_the_last_step__is_not_returned(make, binary, early_stopping):
    clf = make(learning_rate=1e30, max_epochs=1, batch_size=1000, early_stopping=early_stopping)
    with pytest.raises(TrainingDivergedError, match="epoch 1"):
        clf.fit(*binary)
    with pytest.raises(TrainingDivergedError, match="epoch 1"):
        clf.partial_fit(*binary, classes=["no", "yes"])
    assert not hasattr(clf, "model_")


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_fit__inside_a_no_grad_block__equals_outside(make, binary, block):
    outside = make(max_epochs=2).fit(*binary).predict_proba(binary[0])
    with block():
        inside = make(max_epochs=2).fit(*binary).predict_proba(binary[0])
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize("block", [torch.no_grad, torch.inference_mode])
def test_fit__own_loss_and_new_classes_inside_a_block__equal_outside(make, binary, block):
    def answers():
        clf = make(max_epochs=1, loss=torch.nn.CrossEntropyLoss(reduction="none")).fit(*binary)
        clf.add_classes(["maybe"]).partial_fit(*binary)
        return clf.predict_proba(binary[0])

    outside = answers()
    with block():
        inside = answers()
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.parametrize("head", ["linear", "mlp", "attention"])
def test_fit__default_dtype_of_the_user__does_not_matter(make, binary, head):
    expected = make(max_epochs=1, head=head).fit(*binary).predict_proba(binary[0])
    torch.set_default_dtype(torch.float64)
    try:
        clf = make(max_epochs=1, head=head).fit(*binary)
        assert {p.dtype for p in clf.model_.parameters()} == {torch.float32}
        np.testing.assert_allclose(clf.predict_proba(binary[0]), expected, atol=1e-3)
    finally:
        torch.set_default_dtype(torch.float32)


class LostOnMps:
    """Stands for a bool on a device that is not here."""

    device = torch.device("mps")

    def __init__(self, value):
        self.value = value

    def __bool__(self):
        return self.value


@pytest.mark.parametrize("lost", [False, True])
def test_step_unless__kernels_that_do_not_look__are_not_asked(lost):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.full((3,), torch.nan if lost else 1.0)
    step_unless(LostOnMps(lost), optimizer)
    assert bool((weight == 1).all()) == lost
    assert bool(weight.isfinite().all())


class Interrupt(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_fit__ctrl_c__reaches_the_caller_and_leaves_unfitted(make, binary):
    clf = make(callbacks=[Interrupt()])
    with pytest.raises(KeyboardInterrupt):
        clf.fit(*binary)
    assert not hasattr(clf, "model_")
    assert not [name for name in vars(clf) if name.endswith("_")]


# --- memory ----------------------------------------------------------------------------------


class Scarce(Callback):
    """Lets the backbone run out of memory above a number of rows, as a small GPU would."""

    def __init__(self, most_rows, said="CUDA out of memory."):
        self.most_rows = most_rows
        self.said = said

    def on_train_begin(self, net, **kwargs):
        self.sizes, self.n_failed, self.losses = [], 0, []
        net.module_.backbone.register_forward_pre_hook(self.read, with_kwargs=True)

    def read(self, module, args, kwargs):
        self.sizes.append(n_texts(**kwargs))
        if self.sizes[-1] > self.most_rows:
            self.n_failed += 1
            raise (torch.OutOfMemoryError if "CUDA" in self.said else RuntimeError)(self.said)

    def on_epoch_end(self, net, **kwargs):
        batches = net.history[-1, "batches"]
        self.n_recorded = sum(batch["train_batch_size"] for batch in batches)
        assert net.n_seen_ == self.n_recorded


@pytest.mark.parametrize("said", ["CUDA out of memory.", "[enforce fail] can't allocate memory"])
def test_out_of_memory__step__is_repeated_in_smaller_parts_with_the_same_gradients(
    make, three_classes, monkeypatch, said
):
    X, y = three_classes
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 16_384)
    whole, plain = gradients_of(make, X, y)
    scarce, gradients = Scarce(50, said), Gradients()
    with pytest.warns(UserWarning, match="Memory ran out with 240 texts of") as caught:
        clf = make(callbacks=[scarce, gradients], **(FULL_BATCH | {"max_epochs": 2})).fit(X, y)
    assert_close(gradients.gradients, whole)
    assert sum("Memory ran out" in str(w.message) for w in caught) == 1
    assert scarce.n_recorded == 240
    # Once found, the size is kept: only the first epoch runs out.
    last_failure = max(i for i, size in enumerate(scarce.sizes) if size > 50)
    assert sum(scarce.sizes[last_failure + 1 :]) >= 240 + len(X)
    assert clf.history_[1]["train_loss"] == pytest.approx(plain.history_[1]["train_loss"])


def test_out_of_memory__in_the_midst_of_a_step__counts_no_gradient_twice(
    make, three_classes, monkeypatch
):
    X, y = three_classes
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 16_384)
    whole, plain = gradients_of(make, X, y)
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 1000)
    scarce, gradients = Scarce(1000), Gradients()

    def fail_once_in_the_third(module, args, kwargs):
        scarce.sizes.append(0)
        if len(scarce.sizes) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    scarce.read = fail_once_in_the_third
    with pytest.warns(UserWarning, match="Memory ran out"):
        clf = make(callbacks=[scarce, gradients], **FULL_BATCH).fit(X, y)
    assert_close(gradients.gradients, whole)
    assert clf.history_[1]["train_loss"] == pytest.approx(plain.history_[1]["train_loss"])
    assert scarce.n_recorded == 240


@pytest.mark.parametrize("early_stopping", [True, "auto"])
def test_out_of_memory__held_out_rows_too__size_is_remembered_for_the_whole_fit(
    make, three_classes, monkeypatch, early_stopping
):
    monkeypatch.setattr(_batching, "TOKEN_BUDGET_ON_CPU", 16_384)
    forward, sizes = BertModel.forward, []

    def scarce(self, input_ids, **inputs):
        sizes.append(n_texts(input_ids, **inputs))
        if sizes[-1] > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, input_ids, **inputs)

    monkeypatch.setattr(BertModel, "forward", scarce)
    X, y = three_classes
    X = [" ".join((text.split() * 6)[:6]) for text in X]  # the budget counts tokens
    clf = make(early_stopping=early_stopping, max_epochs=2, batch_size=24)
    with pytest.warns(UserWarning, match="Memory ran out") as caught:
        clf.fit(X, y)
    assert sum("Memory ran out" in str(w.message) for w in caught) == 1
    failures = [i for i, size in enumerate(sizes) if size > 20]
    assert failures == list(range(failures[0], failures[0] + len(failures)))
    assert failures[-1] < 10
    assert ("cross_fit_seconds" in clf.history_[0]) == (early_stopping == "auto")


def test_out_of_memory__single_text__says_what_to_do(make, binary):
    clf = make(callbacks=[Scarce(0)], **FULL_BATCH)
    with (
        pytest.raises(torch.OutOfMemoryError, match=r"single text of .* Lower max_length"),
        pytest.warns(UserWarning, match="Memory ran out"),
    ):
        clf.fit(*binary)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_gradient_checkpointing__gradients__are_the_same_and_less_is_kept(
    make, three_classes, dropout
):
    X, y = three_classes
    plain, _ = gradients_of(make, X, y, dropout=dropout)
    kept = []

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    sums = []
    for checkpointing in (False, True):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            actual, clf = gradients_of(
                make, X, y, dropout=dropout, gradient_checkpointing=checkpointing
            )
        assert_close(actual, plain)
        sums.append(sum(kept))
    assert not any(getattr(m, "gradient_checkpointing", False) for m in clf.model_.modules())
    assert sums[1] < sums[0] / 2


def test_gradient_checkpointing__model_that_cannot__is_refused_by_name(make, binary, monkeypatch):
    monkeypatch.setattr("transformers.BertModel.supports_gradient_checkpointing", False)
    with pytest.raises(ValueError, match="gradient_checkpointing=True, but BertModel does not"):
        make(gradient_checkpointing=True).fit(*binary)


class Waits(TorchDispatchMode):
    """Counts the operations for which a host waits until a GPU has answered."""

    WAIT = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
    )

    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func in self.WAIT
        return func(*args, **(kwargs or {}))


def test_training__host__waits_once_an_epoch_however_many_steps(make, three_classes, monkeypatch):
    # transformers itself looks whether a mask masks anything, once a forward pass.
    name = "transformers.masking_utils._ignore_bidirectional_mask_sdpa"
    monkeypatch.setattr(name, lambda *args, **kwargs: False, raising=False)
    X, y = three_classes
    counts = []
    for batch_size in (len(X), len(X), 2):  # the first reads the checkpoint
        clf = make(batch_size=batch_size, max_epochs=2, early_stopping=False, head_init="random")
        with Waits() as waits:
            clf.fit(X, y)
        counts.append(waits.n)
    assert counts[1:] == [2, 2]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("default::DeprecationWarning")  # torch's compiler imports old parts
@pytest.mark.filterwarnings("default::FutureWarning")
def test_compile__fit__gives_the_same_model_and_leaves_torchs_own(make, binary):
    X, y = binary
    still = {"max_epochs": 2, "dropout": 0.0}
    plain, compiled = (make(compile=wanted, **still).fit(X, y) for wanted in (False, True))
    np.testing.assert_allclose(compiled.predict_proba(X), plain.predict_proba(X), atol=1e-3)
    assert compiled.model_.backbone._compiled_call_impl is None
    again = pickle.loads(pickle.dumps(compiled))
    np.testing.assert_array_equal(again.predict_proba(X), compiled.predict_proba(X))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
def test_compile__dropout__drops_others_each_time(checkpoints):
    backbone = AutoModel.from_pretrained(checkpoints["bert"], dtype=torch.float32)
    ids = torch.arange(1, 25).reshape(3, 8)
    with training_form(backbone, backbone, np.arange(30), compiled=True):
        one, two = (
            backbone.train()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            for _ in range(2)
        )
    assert not torch.allclose(one, two, atol=0.01)


def test_compile__training__compiles_for_changing_lengths_and_only_meanwhile(
    make, binary, monkeypatch
):
    asked = []

    def pretended(backbone, **options):
        asked.append(options)
        backbone._compiled_call_impl = backbone._call_impl

    class Looking(Callback):
        def on_batch_begin(self, net, **kwargs):
            self.seen_ = net.module_.backbone._compiled_call_impl is not None

    monkeypatch.setattr(torch.nn.Module, "compile", pretended)
    looking = Looking()
    clf = make(compile=True, max_epochs=1, callbacks=[looking]).fit(*binary)
    assert asked == [{"dynamic": True}]
    assert looking.seen_
    assert clf.model_.backbone._compiled_call_impl is None
    make(max_epochs=1, callbacks=[looking]).fit(*binary)
    assert not looking.seen_
    assert len(asked) == 1
