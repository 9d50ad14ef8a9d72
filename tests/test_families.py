"""Every family of backbones, some with a peculiarity: parity, padding, every tuning, pickles."""

import pickle

import numpy as np
import pytest
import torch
from conftest import SIZES, SPREAD, _tokenizer, toy_texts
from transformers import (
    AlbertConfig,
    AutoModel,
    BartConfig,
    BertConfig,
    BertForSequenceClassification,
    BigBirdConfig,
    ConvBertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    FNetConfig,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    SqueezeBertConfig,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLNetConfig,
)

from sklearn_transformers import PretrainedModelError

LAYERS = {"intermediate_size": 64, "max_position_embeddings": 300, **SIZES, **SPREAD}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}

CONFIGS = {
    "bert": lambda **ids: BertConfig(**LAYERS, **ids),
    "distilbert": lambda **ids: DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=300, **SPREAD, **ids
    ),
    "roberta": lambda **ids: RobertaConfig(**LAYERS, **ids),
    "xlm-roberta": lambda **ids: XLMRobertaConfig(**LAYERS, **ids),
    # One layer under many names, and embeddings that are narrower than hidden states.
    "albert": lambda **ids: AlbertConfig(embedding_size=16, **LAYERS, **ids),
    "electra": lambda **ids: ElectraConfig(embedding_size=16, **LAYERS, **ids),
    # Positions relative to each other.
    "mpnet": lambda **ids: MPNetConfig(**LAYERS, **ids),
    "deberta-v2": lambda **ids: DebertaV2Config(
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        **LAYERS,
        **ids,
    ),
    "modernbert": lambda **ids: ModernBertConfig(**LAYERS, **ids),
    # Decoders.
    "gpt2": lambda **ids: GPT2Config(
        n_embd=32, n_layer=2, n_head=4, n_positions=300, **SPREAD, **ids
    ),
    # With weights outside of its state dict.
    "llama": lambda **ids: LlamaConfig(num_key_value_heads=2, **LAYERS, **ids),
    "qwen2": lambda **ids: Qwen2Config(num_key_value_heads=2, **LAYERS, **ids),
    "qwen3": lambda **ids: Qwen3Config(**GROUPED, **LAYERS, **ids),
    # Embeddings are scaled on their way into the model.
    "gemma": lambda **ids: GemmaConfig(**GROUPED, **LAYERS, **ids),
    "gemma3": lambda **ids: Gemma3TextConfig(**GROUPED, **LAYERS, **ids),
    # Hidden states that are narrower than hidden_size.
    "opt": lambda **ids: OPTConfig(ffn_dim=64, word_embed_proj_dim=16, **SIZES, **ids),
    # The encoder of an encoder-decoder.
    "t5": lambda **ids: T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, **ids
    ),
    # Full attention from the first short batch on.
    "bigbird": lambda **ids: BigBirdConfig(block_size=4, num_random_blocks=1, **LAYERS, **ids),
    # A convolution over tokens sees padding in spite of the mask.
    "convbert": lambda **ids: ConvBertConfig(embedding_size=16, **LAYERS, **ids),
    # No attention, and so no mask at all.
    "fnet": lambda **ids: FNetConfig(**(LAYERS | {"num_attention_heads": None}), **ids),
    # Cannot do without its pooler; linear layers are convolutions.
    "squeezebert": lambda **ids: SqueezeBertConfig(
        embedding_size=32,
        **dict.fromkeys(("q_groups", "k_groups", "v_groups", "output_groups"), 1),
        **dict.fromkeys(("post_attention_groups", "intermediate_groups"), 1),
        **LAYERS,
        **ids,
    ),
    # Pads on the left by itself, and has no positions.
    "xlnet": lambda **ids: XLNetConfig(d_model=32, n_layer=2, n_head=4, d_inner=64, **ids),
}
DECODERS = {"gpt2", "llama", "qwen2", "qwen3", "gemma", "gemma3", "opt"}
WITHOUT_BIASES = {"llama", "qwen3", "gemma", "gemma3", "t5", "modernbert"}
TEXTS = [*toy_texts(12)[0], "", "bad " * 40]


def save(folder, kind, build):
    """A tiny random model of a kind, with its tokenizer."""
    of_kind = "gpt2" if kind in DECODERS else "roberta" if "roberta" in kind else "bert"
    tokenizer = _tokenizer(of_kind)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        build(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id).save_pretrained(
            folder
        )
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folder of each family."""
    return {
        kind: save(
            tmp_path_factory.mktemp(kind),
            kind,
            lambda make=make, **i: AutoModel.from_config(make(**i)),
        )
        for kind, make in CONFIGS.items()
    }


@pytest.fixture
def fit(make, folders):
    """Fit a family on a few texts."""

    def fit(kind, tuning, **parameters):
        X, y = toy_texts(36, classes=("bad", "good", "plain"))
        defaults = {"learning_rate": 0.02, "batch_size": 12, "early_stopping": False}
        return make(
            model=folders[kind], tuning=tuning, max_epochs=2, **(defaults | parameters)
        ).fit(X, y)

    return fit


@pytest.mark.parametrize("kind", CONFIGS)
def test_family__frozen__gives_the_hidden_states_of_hugging_face(fit, folders, kind):
    clf = fit(kind, "head")
    vectors = clf.transform(TEXTS)
    width = 16 if kind == "opt" else 32
    assert vectors.shape == (len(TEXTS), width)
    assert len(clf.get_feature_names_out()) == width
    assert clf._padding["masked"] is (kind not in ("convbert", "fnet"))
    model = AutoModel.from_pretrained(folders[kind], dtype=torch.float32).eval()
    model = model.encoder if kind == "t5" else model
    for text, vector in zip(TEXTS, vectors, strict=True):
        if text == "" and kind in DECODERS:
            continue  # no token at all: there is nothing to compare
        ids = torch.tensor([clf.tokenizer_(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(input_ids=ids).last_hidden_state[0]
        expected = hidden[-1] if clf.pooling_ == "last" else hidden[0]
        np.testing.assert_allclose(vector, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("tuning", ["full", "lora", "prompt"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_family__tuned__answers_alike_alone_in_company_and_after_a_pickle(fit, kind, tuning):
    untrained = fit(kind, tuning, learning_rate=1e-12)
    clf = fit(kind, tuning)
    together = clf.predict_proba(TEXTS)
    assert np.abs(untrained.transform(TEXTS) - clf.transform(TEXTS)).max() > 1e-4
    alone = np.vstack([clf.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    loaded = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), together)


@pytest.mark.parametrize("kind", CONFIGS)
def test_family__bias__trains_those_there_are_or_says_that_there_are_none(fit, kind):
    if kind in WITHOUT_BIASES:
        with pytest.raises(ValueError, match=r"tuning='bias', but \w+ has no biases"):
            fit(kind, "bias")
    else:
        assert fit(kind, "bias").n_trainable_ > 99


def test_checkpoint__fine_tuned_for_classification__keeps_its_backbone_only(tmp_path, make):
    folder = save(
        tmp_path,
        "bert",
        lambda **ids: BertForSequenceClassification(BertConfig(num_labels=7, **LAYERS, **ids)),
    )
    X, y = toy_texts(30)
    clf = make(model=folder, tuning="head", early_stopping=False).fit(X, y)
    assert clf.model_.head.weight.shape == (2, 32)
    stored = BertForSequenceClassification.from_pretrained(folder).bert.state_dict()
    own = clf.model_.backbone.state_dict()
    assert all(torch.equal(own[name], stored[name]) for name in own)


def test_checkpoint__encoder_of_t5_alone__is_read_like_the_whole(tmp_path, make, folders):
    whole = AutoModel.from_pretrained(folders["t5"], dtype=torch.float32)
    alone = T5EncoderModel(whole.config)
    alone.load_state_dict(whole.state_dict(), strict=False)
    alone.save_pretrained(tmp_path)
    _tokenizer("bert").save_pretrained(tmp_path)
    X, y = toy_texts(30)
    models = (folders["t5"], str(tmp_path))
    first, second = (
        make(model=model, tuning="head", early_stopping=False).fit(X, y) for model in models
    )
    np.testing.assert_array_equal(first.transform(X), second.transform(X))


def test_encoder_decoder__other_than_t5__is_refused_by_name(tmp_path, make, binary):
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32}
    folder = save(tmp_path, "bert", lambda **ids: AutoModel.from_config(BartConfig(**sizes, **ids)))
    with pytest.raises(PretrainedModelError, match="only T5 and its kin can be used, not bart"):
        make(model=folder).fit(*binary)
