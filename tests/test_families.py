"""Checkpoints with a peculiarity each: shared layers, odd widths, padding that is not masked."""

import pickle

import numpy as np
import pytest
import torch
from conftest import SIZES, SPREAD, _tokenizer
from transformers import (
    AlbertConfig,
    AutoModel,
    BigBirdConfig,
    ConvBertConfig,
    FNetConfig,
    LlamaConfig,
    OPTConfig,
    SqueezeBertConfig,
    XLNetConfig,
)

LAYERS = {"intermediate_size": 64, "max_position_embeddings": 300, **SIZES, **SPREAD}

CONFIGS = {
    # One layer under many names.
    "albert": lambda **ids: AlbertConfig(embedding_size=16, **LAYERS, **ids),
    # Full attention from the first short batch on.
    "bigbird": lambda **ids: BigBirdConfig(block_size=4, num_random_blocks=1, **LAYERS, **ids),
    # A convolution over tokens sees padding in spite of the mask.
    "convbert": lambda **ids: ConvBertConfig(embedding_size=16, **LAYERS, **ids),
    # No attention, and so no mask at all.
    "fnet": lambda **ids: FNetConfig(**(LAYERS | {"num_attention_heads": None}), **ids),
    # A decoder with weights outside of its state dict.
    "llama": lambda **ids: LlamaConfig(num_key_value_heads=2, **LAYERS, **ids),
    # Hidden states that are narrower than hidden_size.
    "opt": lambda **ids: OPTConfig(ffn_dim=64, word_embed_proj_dim=16, **SIZES, **ids),
    # Cannot do without its pooler.
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


@pytest.fixture(params=CONFIGS)
def family(request, tmp_path):
    tokenizer = _tokenizer("gpt2" if request.param in ("llama", "opt") else "bert")
    config = CONFIGS[request.param](vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return request.param, tmp_path


def test_family__fitted__answers_alike_alone_in_company_and_after_a_pickle(
    family, make, three_classes
):
    name, folder = family
    X, y = three_classes
    clf = make(model=folder, max_epochs=2).fit(X[:60], y[:60])
    texts = [*X[:12], "", "bad " * 40]
    together = clf.predict_proba(texts)
    alone = np.vstack([clf.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    loaded = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(loaded.predict_proba(texts), together)
    width = 16 if name == "opt" else 32
    assert clf.transform(texts).shape == (14, width)
    assert len(clf.get_feature_names_out()) == width
    assert clf._padding["masked"] is (name not in ("convbert", "fnet"))
