"""Batches without their padding teach a model what padded ones do."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from sklearn_transformers import _attention, _packing
from sklearn_transformers._attention import attend
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._packing import FROM_PADDING, FROM_ZERO, Layout, can_be_packed
from sklearn_transformers._training_form import training_form

LENGTHS = [9, 1, 12, 5]
PAD = {"camembert": 1, "roberta": 1, "xlm-roberta": 1}


def batch(pad):
    """Token ids and mask of four texts; one has a token in its middle that also pads."""
    ids = torch.arange(4 * 12).reshape(4, 12) % 40 + 5
    mask = (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).long()
    ids[2, 4] = pad
    return torch.where(mask == 1, ids, pad), mask


# Our attention, whose way this opens, drops nothing all the same.
HARDLY = 1e-9


def tiny(kind, dropout=0.0, **parameters):
    """A backbone without dropout, unless attention is to have some, and its batch."""
    pad = PAD.get(kind, 0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=20,
        pad_token_id=pad,
        **({"hidden_dim": 64} if kind == "distilbert" else {"intermediate_size": 64}),
        **parameters,
    )
    for name in ("hidden_dropout_prob", "dropout"):
        setattr(config, name, 0.0)
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        setattr(config, name, dropout)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config)
        for weight in backbone.parameters():  # positions and biases that matter
            nn.init.normal_(weight, std=0.3)
    return backbone, *batch(pad)


def classifier(backbone, pooling="mean"):
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return TextClassifier(backbone, 32, pooling, 3, 0.0).draw_head()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(model, ids, mask):
    """Logits and gradients of a training step; embeddings of all tokens are trained."""
    logits = model.train()(ids, mask)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 1])).backward()
    return logits.detach(), gradients(model)


def table_of(found):
    return next(name for name in found if name.endswith("word_embeddings.weight"))


def assert_same(packed, padded, ids, atol=2e-5):
    """Rows of the compact table are those of the tokens that occur."""
    torch.testing.assert_close(packed[0], padded[0], rtol=0, atol=atol)
    rows = ids.unique()
    expected = dict(padded[1])
    expected[table_of(expected)] = expected[table_of(expected)][rows]
    assert packed[1].keys() == expected.keys()
    assert max(gradient.abs().max() for gradient in expected.values()) > 0.01
    for name, gradient in packed[1].items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=atol, msg=name)


@pytest.fixture
def attended(monkeypatch):
    """How often our attention was used."""
    calls = []
    monkeypatch.setattr(_attention, "attend", lambda *a: calls.append(1) or attend(*a))
    return calls


@pytest.mark.parametrize("dropout", [0.0, HARDLY])
@pytest.mark.parametrize("multiple", [1, 32])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max", "attention"])
@pytest.mark.parametrize("kind", sorted(FROM_ZERO | FROM_PADDING))
def test_packed__step__has_the_logits_and_gradients_of_the_padded_one(
    kind, pooling, multiple, dropout, monkeypatch, attended
):
    monkeypatch.setattr(_packing, "MULTIPLE", multiple)
    backbone, ids, mask = tiny(kind, dropout)
    model = classifier(backbone, pooling)
    padded = step(copy.deepcopy(model), ids, mask)
    assert not attended
    used = ids.unique()
    pad = backbone.get_input_embeddings().padding_idx  # whose embedding is not trained
    with training_form(model, backbone, used.numpy()):
        assert model.packed
        packed = step(model, ids, mask)
    assert len(attended) == (2 if dropout else 0)
    assert_same(packed, padded, used[used != pad])


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_packed__checkpointed_layers__have_the_same_gradients(kind):
    backbone, ids, mask = tiny(kind)
    model = classifier(backbone)
    plain = step(copy.deepcopy(model), ids, mask)
    used = ids[mask == 1].unique()
    pad = backbone.get_input_embeddings().padding_idx
    with training_form(model, backbone, used.numpy(), gradient_checkpointing=True):
        packed = step(model, ids, mask)
    assert_same(packed, plain, used[used != pad])


def test_packed__bfloat16__is_as_close_to_float32_as_padded_bfloat16():
    backbone, ids, mask = tiny("bert")
    model = classifier(backbone).train()
    with torch.no_grad(), training_form(model, backbone, ids.unique().numpy()):
        answers = []
        for packed, dtype in ((False, None), (False, torch.bfloat16), (True, torch.bfloat16)):
            model.packed = packed
            with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
                answers.append(model.embed(ids, mask))
    exact, padded, packed = answers
    assert (padded - exact).abs().max() > 0
    assert (packed - exact).abs().max() < 2 * (padded - exact).abs().max()


class Rows:
    """Counts the tokens that a layer sees."""

    def __init__(self, layer):
        self.seen = []
        layer.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].shape[:2]))


def test_packed__layers__see_the_tokens_and_no_padding(monkeypatch):
    backbone, ids, mask = tiny("bert")
    model = classifier(backbone)
    rows = Rows(backbone.encoder.layer[0].intermediate)
    with training_form(model, backbone, ids.unique().numpy()):
        for multiple in (1, 4, 32, 64):
            monkeypatch.setattr(_packing, "MULTIPLE", multiple)
            model.train()(ids, mask)
        model.eval()(ids, mask)
    model.train()(ids, mask)
    n_tokens = sum(LENGTHS)
    assert n_tokens == 27
    # Rounded up, but never more than there is; what predicts and what has been trained pads.
    assert rows.seen == [(1, 27), (1, 28), (1, 32), (1, 48), (4, 12), (4, 12)]


def test_layout__split_and_join__are_each_others_inverse_on_what_was_packed():
    layout = Layout.of(batch(0)[1])
    assert len(layout.places) == 32
    states = torch.randn(1, 32, 4, 8, generator=torch.Generator().manual_seed(0))
    by_text = layout.split(states)
    assert by_text.shape == (4, 4, 12, 8)
    assert torch.equal(layout.join(by_text), states)
    stands = torch.zeros(4 * 12, dtype=torch.bool)
    stands[layout.places] = True
    assert torch.equal((by_text != 0).any(dim=3).all(dim=1), stands.reshape(4, 12))


@pytest.mark.parametrize("dropout", [0.0, HARDLY])
def test_packed__padding__gets_no_gradient_through_attention(dropout):
    """Five of the 32 rows are padding, in the cells of the texts."""
    layout = Layout.of(batch(0)[1])
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 4, 32, 8, generator=generator).requires_grad_() for _ in "qkv"]
    module = nn.Module().train()
    hidden, _ = _attention._attention(module, *parts, None, dropout, is_causal=False, layout=layout)
    assert hidden.shape == (1, 32, 4, 8)
    hidden[0, :27].square().sum().backward()
    in_company = np.arange(27) != 9  # a text of one token has no choice where to look
    for part in parts:
        assert part.grad[0, :, :27][:, in_company].abs().amax(dim=(0, 2)).min() > 0
        assert not part.grad[0, :, 27:].any()


@pytest.mark.parametrize("shape", [(1, 27, 2, 3), (1, 27, 1, 5)])
def test_layout__split_and_join__have_the_gradients_of_finite_differences(shape, monkeypatch):
    monkeypatch.setattr(_packing, "MULTIPLE", 1)
    layout = Layout.of(batch(0)[1])
    packed = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layout.split, packed)
    by_text = torch.randn(4, shape[2], 12, shape[3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layout.join, by_text)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("bert", {"is_decoder": True}),
        ("bert", {"chunk_size_feed_forward": 4}),
        ("gpt2", {}),
        ("modernbert", {}),
    ],
)
def test_can_be_packed__models_that_look_where_a_token_stands__cannot(kind, parameters):
    assert can_be_packed(AutoConfig.for_model("bert"))
    assert not can_be_packed(AutoConfig.for_model(kind, **parameters))


@pytest.mark.filterwarnings("default::DeprecationWarning")  # torch's compiler imports old parts
@pytest.mark.filterwarnings("default::FutureWarning")
@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_training_form__attention_that_is_not_ours__pads(how):
    backbone, ids, mask = tiny("bert")
    model = classifier(backbone)
    if how == "eager":
        backbone.set_attn_implementation("eager")
    rows = Rows(backbone.encoder.layer[0].intermediate)
    with training_form(model, backbone, ids.unique().numpy(), compiled=how == "compiled"):
        if how == "eager":
            model.train()(ids, mask)
            assert rows.seen == [(4, 12)]
        else:
            assert not model.packed


def test_packed__attention_chosen_while_training__pads():
    """As a callback may, to look at attention: other kinds would mix the texts up."""
    backbone, ids, mask = tiny("bert")
    model = classifier(backbone).train()
    expected = model(ids, mask)
    with training_form(model, backbone, ids.unique().numpy()):
        backbone.set_attn_implementation("eager")
        torch.testing.assert_close(model(ids, mask), expected, rtol=0, atol=1e-5)


def test_deepcopy__while_training__pads():
    backbone, ids, _ = tiny("bert")
    model = classifier(backbone)
    with training_form(model, backbone, ids.unique().numpy()):
        assert not copy.deepcopy(model).packed
        assert model.packed


def test_training_form__over__batches_are_padded_again():
    backbone, ids, _ = tiny("bert")
    model = classifier(backbone)

    def fail():
        with training_form(model, backbone, ids.unique().numpy()):
            assert model.packed
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not model.packed
