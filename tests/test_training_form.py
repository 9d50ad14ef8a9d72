"""The form that a model trains in does the same as torch's own modules, and leaves no trace."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    FalconConfig,
    FalconModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
)

from sklearn_transformers import _attention
from sklearn_transformers._attention import attend, swift_attention
from sklearn_transformers._dropout import SwiftDropout, draw_kept
from sklearn_transformers._training_form import replaced_layers, training_form
from sklearn_transformers._vocabulary import compact_vocabulary


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def backbone(checkpoints):
    return AutoModel.from_pretrained(checkpoints["bert"], dtype=torch.float32)


@pytest.fixture
def seeded():
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        yield


# --- dropout ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_dropout__share_of_zeros_and_scale__are_those_that_were_asked_for(p):
    layer, hidden = SwiftDropout(p).train(), torch.ones(400, 1000)
    dropped = layer(hidden)
    share = float((dropped == 0).double().mean())
    assert abs(share - p) < 5 * (p * (1 - p) / hidden.numel()) ** 0.5
    torch.testing.assert_close(dropped.unique(), torch.tensor([0, 1 / (1 - p)]))


@pytest.mark.usefixtures("seeded")
def test_dropout__entries__are_dropped_independently_of_their_neighbours():
    kept = draw_kept(torch.Size([400_000]), 0.5).double() - 0.5
    # Four entries share a draw of 64 bits: neighbours up to the draw after it.
    for distance in range(1, 9):
        correlation = float((kept[distance:] * kept[:-distance]).mean() / 0.25)
        assert abs(correlation) < 5 / len(kept) ** 0.5


@pytest.mark.usefixtures("seeded")
def test_dropout__gradient__passes_where_the_entry_stayed():
    hidden = draw(7, 13).requires_grad_()  # no multiple of four
    dropped = SwiftDropout(0.3).train()(hidden)
    dropped.backward(torch.ones(7, 13))
    torch.testing.assert_close(dropped, hidden * hidden.grad)
    assert set(hidden.grad.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}


def test_dropout__same_seed__same_entries_and_another_seed_others():
    def drop(seed):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return SwiftDropout(0.5).train()(torch.ones(1000))

    assert torch.equal(drop(1), drop(1))
    assert not torch.equal(drop(1), drop(2))


@pytest.mark.parametrize("p", [0.0, 0.999999, 1.0])
def test_dropout__of_nothing_or_all__is_torchs(p):
    hidden = draw(5, 8)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        ours = SwiftDropout(p).train()(hidden)
        torch.manual_seed(0)
        assert torch.equal(ours, nn.Dropout(p).train()(hidden))
    assert torch.equal(SwiftDropout(p).eval()(hidden), hidden)


# --- attention -------------------------------------------------------------------------------


def plain_attention(query, key, value, mask, scale, kept, dropout):
    scores = query @ key.mT * scale
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return (torch.softmax(scores, -1) * kept / (1 - dropout)) @ value


@pytest.mark.parametrize("dropout", [0.25, 0.0])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("chunk", [1, 2**19])
def test_attend__answer_and_gradients__are_those_of_the_formula(
    monkeypatch, masked, chunk, dropout
):
    monkeypatch.setattr(_attention, "CHUNK", chunk)
    shape, scale = (5, 3, 11, 8), 0.4
    parts = [draw(*shape, n)[..., 0].double().requires_grad_() for n in (1, 2, 3)]
    mask = None
    if masked:
        mask = torch.ones(5, 1, 11, 11, dtype=torch.bool)
        mask[0, ..., -4:] = False
    upstream = draw(*shape).double()
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        hidden = attend(*parts, mask, scale, dropout)
        torch.manual_seed(3)
        kept = draw_kept(torch.Size([5, 3, 11, 11]), dropout)
    hidden.backward(upstream)
    gradients = [part.grad.clone() for part in parts]
    for part in parts:
        part.grad = None
    expected = plain_attention(*parts, mask, scale, kept, dropout)
    expected.backward(upstream)
    torch.testing.assert_close(hidden, expected)
    for part, gradient in zip(parts, gradients, strict=True):
        torch.testing.assert_close(gradient, part.grad)


def test_attend__token_that_sees_nothing__stays_finite():
    parts = [draw(1, 2, 4, 8).requires_grad_() for _ in "qkv"]
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 2] = False
    hidden = attend(*parts, mask, 0.3, 0.1)
    hidden.sum().backward()
    assert hidden.isfinite().all()
    assert all(part.grad.isfinite().all() for part in parts)


FAMILIES = {
    # The last token of a decoder sees all, the first only itself.
    "gpt2": GPT2Model(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)),
    "llama": LlamaModel(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_dropout=0.1,
        )
    ),
}


@pytest.fixture(params=["bert", "distilbert", "roberta", *FAMILIES])
def family(request, checkpoints):
    if request.param in FAMILIES:
        return copy.deepcopy(FAMILIES[request.param])
    return AutoModel.from_pretrained(checkpoints[request.param], dtype=torch.float32)


@pytest.mark.parametrize("n_padding", [0, 3])
def test_swift_attention__almost_no_dropout__answers_as_torch(family, n_padding, monkeypatch):
    """A dropout of 1e-9 takes our path and drops nothing: only the attention itself is left."""
    for module in family.modules():
        for name in ("dropout", "attn_dropout"):
            if isinstance(getattr(module, name, None), nn.Dropout):
                getattr(module, name).p = 0.0
    ids = torch.arange(27).reshape(3, 9) % 20 + 3
    mask = torch.ones_like(ids)
    mask[1, 9 - n_padding :] = 0
    expected = family.train(False)(input_ids=ids, attention_mask=mask).last_hidden_state
    used = []
    monkeypatch.setattr(_attention, "attend", lambda *a: used.append(1) or attend(*a))
    ours = _attention._attention

    def without_dropout(*arguments, **named):
        return ours(*arguments, **(named | {"dropout": 1e-9}))

    monkeypatch.setitem(
        _attention.AttentionInterface._global_mapping, _attention.NAME, without_dropout
    )
    with swift_attention(family):
        answer = family(input_ids=ids, attention_mask=mask).last_hidden_state
    assert len(used) == 2
    torch.testing.assert_close(answer[mask == 1], expected[mask == 1], rtol=1e-5, atol=1e-5)


@pytest.fixture
def ours_or_torchs(monkeypatch):
    """Whose attention was taken: "ours", "torch's"."""
    taken = []

    def watch(name, whose):
        original = getattr(_attention, name)
        monkeypatch.setattr(
            _attention, name, lambda *a, **k: taken.append(whose) or original(*a, **k)
        )

    watch("attend", "ours")
    watch("sdpa_attention_forward", "torch's")
    return taken


@pytest.mark.parametrize(
    ("length", "dtype", "trained", "whose"),
    [
        (20, torch.bfloat16, "qkv", "ours"),
        (20, torch.bfloat16, "v", "ours"),  # LoRA on the values only
        (20, torch.bfloat16, "", "torch's"),
        (20, torch.float32, "qkv", "torch's"),
        (_attention.LONGEST, torch.bfloat16, "qkv", "ours"),
        (_attention.LONGEST + 1, torch.bfloat16, "qkv", "torch's"),
    ],
)
@pytest.mark.parametrize("autocast", [True, False])
def test_attention__without_dropout__is_ours_where_torch_is_slow(
    ours_or_torchs, length, dtype, trained, whose, autocast
):
    stored = torch.float32 if autocast else dtype
    parts = [draw(2, 3, length, 8).to(stored).requires_grad_(name in trained) for name in "qkv"]
    with torch.autocast("cpu", dtype, enabled=autocast and dtype != torch.float32):
        _attention._attention(nn.Identity(), *parts, None, is_causal=False)
    assert ours_or_torchs == [whose]


def test_attention__shared_keys__lies_in_memory_as_torchs():
    query, key = draw(2, 4, 9, 8).bfloat16().requires_grad_(), draw(2, 2, 9, 8).bfloat16()
    module = nn.Identity()
    module.num_key_value_groups = 2
    hidden, _ = _attention._attention(module, query, key, key, None, is_causal=False)
    assert hidden.is_contiguous()


def test_attend__bfloat16_and_large_scores__are_told_apart():
    """Scores that all keys have in common, as where keys have a bias, cancel in the softmax."""
    query, key, value = (draw(2, 3, 40, 8 + n)[..., :8].bfloat16() for n in range(3))
    key = key + 50
    exact = plain_attention(query.double(), key.double(), value.double(), None, 0.4, 1, 0)
    ours = attend(query, key, value, None, 0.4, 0.0).double()
    assert (ours - exact).norm() < 0.005 * exact.norm()


@pytest.mark.parametrize("n_padding", [0, 3])
def test_swift_attention__bfloat16_without_dropout__gradients_are_torchs(
    family, n_padding, ours_or_torchs
):
    for module in family.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    ids = torch.arange(27).reshape(3, 9) % 20 + 3
    mask = torch.ones_like(ids)
    mask[1, 9 - n_padding :] = 0
    upstream = draw(3, 9, family.config.hidden_size) * mask[:, :, None]

    def gradients(precision):
        family.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            hidden = family.train()(input_ids=ids, attention_mask=mask).last_hidden_state
        (hidden * upstream).sum().backward()
        return torch.cat([w.grad.flatten() for w in family.parameters() if w.grad is not None])

    exact, torchs = gradients("float32"), gradients("bfloat16")
    del ours_or_torchs[:]
    with swift_attention(family):
        ours = gradients("bfloat16")
    assert set(ours_or_torchs) == {"ours"}
    # About as far from float32's as torch's own in bfloat16.
    assert (ours - exact).norm() < 1.5 * (torchs - exact).norm() < 0.03 * exact.norm()


def test_swift_attention__model_that_asks_for_its_name__keeps_its_own():
    """Falcon compares the name with "sdpa", and would take another for eager attention."""
    config = FalconConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    falcon = FalconModel(config).eval()
    ids = torch.arange(18).reshape(2, 9)
    expected = falcon(input_ids=ids).last_hidden_state
    with swift_attention(falcon):
        assert falcon.config._attn_implementation == "sdpa"
        torch.testing.assert_close(falcon(input_ids=ids).last_hidden_state, expected)


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_swift_attention__rotary_model_under_autocast__trains(dtype):
    llama = copy.deepcopy(FAMILIES["llama"]).train()
    ids = torch.arange(18).reshape(2, 9)
    with swift_attention(llama), torch.autocast("cpu", dtype=dtype):
        hidden = llama(input_ids=ids).last_hidden_state
    hidden.float().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in llama.parameters())


def test_attend__values_of_another_width__keep_it():
    query, key = draw(2, 3, 5, 8).requires_grad_(), draw(2, 3, 5, 8)
    value = draw(2, 3, 5, 6).requires_grad_()
    hidden = attend(query, key, value, None, 0.3, 0.1)
    hidden.sum().backward()
    assert hidden.shape == value.grad.shape == (2, 3, 5, 6)


def test_swift_attention__over__the_configuration_is_what_it_was(backbone):
    assert backbone.config._attn_implementation == "sdpa"
    with swift_attention(backbone):
        assert backbone.config._attn_implementation == "sklearn_transformers"
    assert backbone.config._attn_implementation == "sdpa"


# --- the vocabulary --------------------------------------------------------------------------

IDS = torch.tensor([[0, 7, 9, 9, 2, 1, 1], [0, 11, 7, 2, 1, 1, 1]])  # 1 pads
MASK = (IDS != 1).long()


def train_steps(backbone, weight_decay, n_steps=5):
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-2, weight_decay=weight_decay)
    losses = []
    for _ in range(n_steps):
        hidden = backbone.train()(input_ids=IDS, attention_mask=MASK).last_hidden_state
        loss = (hidden[:, 0] ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_compact_vocabulary__training__is_that_of_the_whole_table(backbone, weight_decay):
    whole, compact = backbone, copy.deepcopy(backbone)
    before = backbone.get_input_embeddings().weight.detach().clone()
    expected = train_steps(whole, weight_decay)
    occurring = np.unique(IDS)
    with compact_vocabulary(compact, occurring):
        # The configuration says that token 0 pads: its embedding is not trained.
        assert compact.get_input_embeddings().weight.shape == (len(occurring) - 1, 32)
        assert train_steps(compact, weight_decay) == pytest.approx(expected, abs=1e-6)
    for (name, one), two in zip(compact.named_parameters(), whole.parameters(), strict=True):
        if one is not compact.get_input_embeddings().weight:
            torch.testing.assert_close(one, two, rtol=0, atol=1e-6, msg=name)
    after, table = compact.get_input_embeddings().weight, whole.get_input_embeddings().weight
    torch.testing.assert_close(after[occurring], table[occurring], rtol=0, atol=1e-6)
    others = np.setdiff1d(np.arange(len(after)), occurring)
    assert torch.equal(after[others], before[others])  # not even decayed
    if weight_decay == 0:
        torch.testing.assert_close(after, table, rtol=0, atol=1e-6)
    assert not torch.equal(after[occurring], before[occurring])


@pytest.mark.usefixtures("seeded")
def test_compact_vocabulary__evaluation__knows_every_token_and_the_trained_ones_as_trained(
    backbone,
):
    everything = torch.arange(20).reshape(2, 10)
    with compact_vocabulary(backbone, np.unique(IDS)):
        train_steps(backbone, 0.0)
        inside = backbone.eval()(input_ids=everything).last_hidden_state
    assert torch.equal(inside, backbone(input_ids=everything).last_hidden_state)


def test_compact_vocabulary__token_that_was_not_announced__is_read_and_not_trained(backbone):
    expected = backbone.eval()(input_ids=IDS).last_hidden_state
    with compact_vocabulary(backbone, np.array([2, 7])):
        answer = backbone(input_ids=IDS).last_hidden_state
        answer.sum().backward()
        assert backbone.get_input_embeddings().weight.grad.shape == (2, 32)
    assert torch.equal(answer, expected)


def test_compact_vocabulary__weights_changed_in_evaluation_mode__count_at_once(backbone):
    with compact_vocabulary(backbone, np.unique(IDS)), torch.no_grad():
        before = backbone.eval()(input_ids=IDS).last_hidden_state
        backbone.get_input_embeddings().weight.mul_(2)
        assert not torch.equal(backbone(input_ids=IDS).last_hidden_state, before)


@pytest.mark.usefixtures("seeded")
def test_compact_vocabulary__state__is_saved_and_loaded_whole(backbone):
    shapes = {name: weight.shape for name, weight in backbone.state_dict().items()}
    with compact_vocabulary(backbone, np.unique(IDS)):
        start = backbone.state_dict()
        assert {name: weight.shape for name, weight in start.items()} == shapes
        train_steps(backbone, 0.0)
        trained = backbone.state_dict()
        backbone.load_state_dict(start)
        for name, weight in backbone.state_dict().items():
            assert torch.equal(weight, start[name])
        backbone.load_state_dict(trained)
        backbone.load_state_dict({}, strict=False)
        with pytest.raises(RuntimeError, match="Missing key"):
            backbone.load_state_dict({})
    for name, weight in backbone.state_dict().items():
        assert torch.equal(weight, trained[name])


def test_compact_vocabulary__table_that_is_frozen_or_no_plain_one__stays(backbone):
    table = backbone.get_input_embeddings()
    table.weight.requires_grad_(False)
    with compact_vocabulary(backbone, np.array([1])):
        assert type(table) is nn.Embedding
        assert len(table.weight) == table.num_embeddings
    table.weight.requires_grad_(True)
    backbone.tied = nn.Linear(32, table.num_embeddings)
    backbone.tied.weight = table.weight
    with compact_vocabulary(backbone, np.array([1])):
        assert type(table) is nn.Embedding


# --- the whole form --------------------------------------------------------------------------


def test_training_form__over__every_module_is_torchs_again(backbone):
    kinds = {name: type(module) for name, module in backbone.named_modules()}
    names = [name for name, _ in backbone.named_parameters()]

    def fail():
        with training_form(backbone, backbone, np.array([1])):
            assert any(type(module) is SwiftDropout for module in backbone.modules())
            assert backbone.config._attn_implementation == "sklearn_transformers"
            assert len(backbone.get_input_embeddings().weight) == 1
            assert [name for name, _ in backbone.named_parameters()] == names
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert backbone.config._attn_implementation == "sdpa"
    assert {name: type(module) for name, module in backbone.named_modules()} == kinds
    assert "whole" not in vars(backbone.get_input_embeddings())


def test_replaced_layers__subclass_of_torchs__is_left_alone():
    class Own(nn.Dropout):
        pass

    layer = Own(0.1)
    with replaced_layers(nn.Sequential(layer)):
        assert type(layer) is Own


def test_fit__embeddings_of_words_without_a_training_text__are_the_pretrained_ones(
    make, binary, checkpoints
):
    texts = [text.replace("day", "meal") for text in binary[0]]
    clf = make(max_epochs=2, weight_decay=0.1, early_stopping=False).fit(texts, binary[1])
    before = AutoModel.from_pretrained(checkpoints["bert"]).get_input_embeddings().weight
    after = clf.model_.backbone.get_input_embeddings().weight
    vocabulary = clf.tokenizer_.get_vocab()
    assert torch.equal(after[vocabulary["day"]], before[vocabulary["day"]])
    assert not torch.equal(after[vocabulary["meal"]], before[vocabulary["meal"]])
