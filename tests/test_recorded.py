"""Steps that are recorded as CUDA graphs do what unrecorded ones do."""

import gc
import warnings

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn
from transformers import AutoConfig

from sklearn_transformers import TransformerTextClassifier, _net, _recorded
from sklearn_transformers._recorded import (
    MODEL_TYPES,
    RecordedSteps,
    Steps,
    is_recordable,
    launcher,
)

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


# --- which steps are recorded ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, True),
        ({"loss": "focal"}, True),
        ({"callbacks": [Callback()]}, False),
        ({"loss": nn.CrossEntropyLoss(reduction="none")}, False),
        ({"head": lambda width, n_classes: nn.Linear(width, n_classes)}, False),
        ({"optimizer": torch.optim.AdamW}, False),
        ({"compile": True}, False),
        ({"gradient_checkpointing": True}, False),
    ],
)
def test_is_recordable__what_users_write__decides_anew_in_each_step(
    checkpoints, parameters, expected
):
    config = AutoConfig.from_pretrained(checkpoints["bert"])
    clf = TransformerTextClassifier(**parameters)
    assert is_recordable(clf, config, "full", "cuda", "bfloat16") == expected


def test_is_recordable__depends_on_model_device_tuning_and_precision(checkpoints):
    clf = TransformerTextClassifier()
    bert, gpt2 = (AutoConfig.from_pretrained(checkpoints[kind]) for kind in ("bert", "gpt2"))
    assert is_recordable(clf, bert, "lora", "cuda:1", "float32")
    assert not is_recordable(clf, bert, "full", "cpu", "bfloat16")
    assert not is_recordable(clf, bert, "contrastive", "cuda", "bfloat16")
    assert not is_recordable(clf, bert, "full", "cuda", "float16")
    assert not is_recordable(clf, gpt2, "full", "cuda", "bfloat16")


def test_is_recordable__torch_looks_for_anomalies__is_not(checkpoints):
    config = AutoConfig.from_pretrained(checkpoints["bert"])
    with torch.autograd.set_detect_anomaly(True):
        assert not is_recordable(TransformerTextClassifier(), config, "full", "cuda", "bfloat16")


# --- without a GPU ---------------------------------------------------------------------------


def batch_of(n_rows, width):
    ids = torch.ones(n_rows, width, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": ids, "weights": torch.ones(n_rows)}
    return inputs, torch.zeros(n_rows, dtype=torch.int64)


def answer_one(batch):
    return {"loss": torch.tensor(1.0)}


class Tape(RecordedSteps):
    """Records by writing down the shape; a replay answers -1."""

    def __init__(self):
        super().__init__()
        self.recorded = []

    def _record(self, step, batch):
        self.recorded.append(tuple(batch[0]["input_ids"].shape))
        return self, batch, {"loss": torch.tensor(-1.0)}

    def replay(self):
        pass


def test_recorded_steps__shape_that_comes_again__is_recorded_once(monkeypatch):
    monkeypatch.setattr(_recorded, "WARM_UP", 1)
    stepped = []

    def step(batch):
        stepped.append(tuple(batch[0]["input_ids"].shape))
        return {"loss": torch.tensor(1.0)}

    steps = Tape()
    shapes = [(4, 8), (4, 16), (4, 8), (4, 8), (2, 8)]
    losses = [float(steps(step, batch_of(*shape))["loss"]) for shape in shapes]
    assert stepped == [(4, 8), (4, 16), (2, 8)]
    assert steps.recorded == [(4, 8)]
    assert losses == [1.0, 1.0, -1.0, -1.0, 1.0]


def test_recorded_steps__more_shapes_than_bearable__are_run_as_they_are(monkeypatch):
    monkeypatch.setattr(_recorded, "MOST", 2)
    monkeypatch.setattr(_recorded, "WARM_UP", 1)
    steps = Tape()
    for _ in range(3):
        for width in (8, 16, 24):
            steps(answer_one, batch_of(4, width))
    assert steps.recorded == [(4, 8), (4, 16)]


def test_recorded_steps__cannot_be_recorded__warns_once_and_goes_on(monkeypatch):
    monkeypatch.setattr(_recorded, "WARM_UP", 1)

    class Broken(RecordedSteps):
        def _record(self, step, batch):
            raise RuntimeError("operation not permitted when stream is capturing")

    steps = Broken()
    steps(answer_one, batch_of(4, 8))
    with pytest.warns(UserWarning, match="not permitted when stream is capturing"):
        assert float(steps(answer_one, batch_of(4, 8))["loss"]) == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(steps(answer_one, batch_of(4, 8))["loss"]) == 1.0


def test_launcher__training_ends__recordings_end_too():
    with launcher(recorded=True) as steps:
        steps.recordings[torch.Size([4, 8])] = object()
    assert not steps.recordings
    with launcher(recorded=False) as steps:
        assert type(steps) is Steps


@pytest.fixture
def as_if_recorded(monkeypatch):
    """The loop as recordings need it, with steps launched one by one."""
    monkeypatch.setattr("sklearn_transformers._start.is_recordable", lambda *_: True)
    monkeypatch.setattr(_recorded, "RecordedSteps", Unrecorded)


class Unrecorded(RecordedSteps):
    __call__ = Steps.__call__


def test_net__gradients_kept_from_step_to_step__train_the_same(make, binary, request):
    """What recordings need of the loop does not change its result."""
    plain = make(max_epochs=3).fit(*binary)
    request.getfixturevalue("as_if_recorded")
    kept = make(max_epochs=3).fit(*binary)
    for before, now in zip(plain.model_.parameters(), kept.model_.parameters(), strict=True):
        assert torch.equal(before, now)


def test_fit__gradients_kept_from_step_to_step__are_gone_afterwards(make, binary, as_if_recorded):
    clf = make(max_epochs=1).fit(*binary)
    assert all(weight.grad is None for weight in clf.model_.parameters())


def test_net__lost_step__is_made_up_for_and_recordings_stay(make, binary, as_if_recorded):
    launches = []

    class Once(_net.FineTuningNet):
        def get_loss(self, y_pred, y_true, X=None, **kwargs):
            launches.append(self.launch_)
            loss = super().get_loss(y_pred, y_true, X=X, **kwargs)
            return loss * float("nan") if len(launches) == 2 else loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn_transformers._fitting.net_of", lambda _: Once)
        make(max_epochs=2, precision="bfloat16", early_stopping=False).fit(*binary)
    kinds = [isinstance(launch, RecordedSteps) for launch in launches]
    assert kinds.count(False) == 1
    assert kinds[-1]


# --- on a GPU --------------------------------------------------------------------------------


@pytest.fixture
def families(tmp_path, checkpoints):
    """A function: a model type -> folder with a tiny random model of it."""
    from transformers import AutoModel, AutoTokenizer

    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 302,
        "embedding_size": 32,
        "global_attn_every_n_layers": 2,
        "initializer_range": 0.2,
    }

    def family(kind):
        if kind in checkpoints:
            return checkpoints[kind]
        donor = "roberta" if kind in {"camembert", "xlm-roberta"} else "bert"
        tokenizer = AutoTokenizer.from_pretrained(checkpoints[donor])
        config = AutoConfig.for_model(
            kind,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=0,
            eos_token_id=2,
            cls_token_id=0,
            sep_token_id=2,
            **small,
        )
        tokenizer.save_pretrained(tmp_path)
        AutoModel.from_config(config).save_pretrained(tmp_path)
        return str(tmp_path)

    return family


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("kind", sorted(MODEL_TYPES))
def test_gpu__recorded_training__has_the_weights_of_an_unrecorded_one(
    families, make, three_classes, monkeypatch, kind
):
    replays = []
    own = _recorded._replay
    monkeypatch.setattr(_recorded, "_replay", lambda *args: replays.append(1) or own(*args))
    parameters = {
        "model": families(kind),
        "device": "cuda",
        "max_epochs": 6,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "early_stopping": False,
        "dropout": 0.1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        recorded = make(**parameters).fit(*three_classes)
    assert len(replays) > 10
    monkeypatch.setattr("sklearn_transformers._start.is_recordable", lambda *_: False)
    plain = make(**parameters).fit(*three_classes)
    names = [name for name, _ in plain.model_.named_parameters()]
    pairs = zip(names, plain.model_.parameters(), recorded.model_.parameters(), strict=True)
    for name, before, now in pairs:
        # The order in which a GPU adds up is not fixed, and Adam makes much of small gradients.
        torch.testing.assert_close(now, before, rtol=0, atol=5e-3, msg=name)
    np.testing.assert_allclose(
        recorded.history_[-1]["train_loss"], plain.history_[-1]["train_loss"], rtol=0.02
    )


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("tuning", ["lora", "bias", "prompt"])
def test_gpu__recorded_part_of_the_weights__trains_like_an_unrecorded_one(
    make, three_classes, monkeypatch, tuning
):
    parameters = {"device": "cuda", "tuning": tuning, "max_epochs": 6, "early_stopping": False}
    parameters |= {"batch_size": 8, "precision": "bfloat16"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        recorded = make(**parameters).fit(*three_classes)
    monkeypatch.setattr("sklearn_transformers._start.is_recordable", lambda *_: False)
    plain = make(**parameters).fit(*three_classes)
    losses = [[row["train_loss"] for row in clf.history_[1:]] for clf in (recorded, plain)]
    np.testing.assert_allclose(*losses, rtol=0.05)


@gpu
@pytest.mark.gpu
def test_gpu__steps__do_not_wait_for_the_gpu(make, three_classes):
    """Twice as many steps make the host wait no more often, once their shapes are recorded."""

    def waits(max_epochs):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                parameters = {"device": "cuda", "early_stopping": False, "batch_size": 8}
                make(max_epochs=max_epochs, schedule="constant", **parameters).fit(*three_classes)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [w.filename for w in seen if "synchroniz" in str(w.message)]
        return sum("masking_utils" in place for place in places), len(places)

    waits(2)
    (in_masks, few), (in_masks_later, many) = waits(12), waits(16)
    assert in_masks_later == in_masks
    assert many - few <= 4 * 2  # the epoch's loss is read once


@gpu
@pytest.mark.gpu
def test_gpu__recordings__give_their_memory_back(make, three_classes):
    parameters = {"device": "cuda", "max_epochs": 6, "batch_size": 8, "early_stopping": False}
    make(**parameters).fit(*three_classes)  # libraries keep workspaces for good
    gc.collect()
    before = torch.cuda.memory_allocated()
    make(**parameters).fit(*three_classes)
    gc.collect()
    assert torch.cuda.memory_allocated() == before
