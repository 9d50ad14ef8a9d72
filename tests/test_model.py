"""Our logits against a plain Hugging Face forward pass."""

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES
from torch import nn
from transformers import AutoModel, AutoTokenizer

from sklearn_transformers._model import TextClassifier, parameter_groups

TEXTS = ["the film was great", "bad", "", "we ate a dull meal and then saw a lovely book " * 3]


def plain_forward(folder, classifier, text, pooling):
    """One text, no padding, written against transformers alone."""
    tokenizer, backbone = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    backbone.load_state_dict(classifier.model_.backbone.state_dict(), strict=False)
    backbone.eval()
    ids = tokenizer(text)["input_ids"] or [tokenizer.bos_token_id]
    with torch.no_grad():
        hidden = backbone(input_ids=torch.tensor([ids])).last_hidden_state[0]
        vector = {
            "cls": hidden[0],
            "last": hidden[-1],
            "mean": hidden.mean(dim=0),
            "max": hidden.max(dim=0).values,
        }[pooling]
        return vector, classifier.model_.head(vector)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits__every_pooling__equal_plain_hugging_face(
    make, checkpoints, three_classes, architecture, pooling
):
    clf = make(architecture, pooling=pooling, calibrate=False, max_epochs=1).fit(*three_classes)
    logits, vectors = clf.decision_function(TEXTS), clf.transform(TEXTS)
    for row, text in enumerate(TEXTS):
        vector, expected = plain_forward(checkpoints[architecture], clf, text, pooling)
        np.testing.assert_allclose(logits[row], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(vectors[row], vector, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pooling__auto__follows_the_checkpoint(make, three_classes, architecture):
    clf = make(architecture, max_epochs=1).fit(*three_classes)
    assert clf.pooling_ == ("last" if architecture == "gpt2" else "cls")


@pytest.fixture
def model(checkpoints):
    return TextClassifier(AutoModel.from_pretrained(checkpoints["bert"]), 32, "mean", 3, 0.1)


def test_text_classifier__pooler_of_the_checkpoint__is_dropped(model):
    assert not [name for name, _ in model.named_parameters() if "pooler" in name]


def test_text_classifier__reduced_precision__answers_in_float32(model):
    ids = torch.ones(2, 8, dtype=torch.int64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(ids, ids).dtype == torch.float32
        assert model.embed(ids, ids).dtype == torch.float32


def test_parameter_groups__biases_and_norms__are_not_decayed(model):
    groups = parameter_groups(model, 1e-3, 1e-2, 1.0, 0.05)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(map(id, model.parameters()))
    for name, parameter in model.named_parameters():
        plain = name.endswith("bias") or "LayerNorm" in name
        assert (id(parameter) in decayed) is not plain, name


def test_parameter_groups__head__learns_faster(model):
    rates = {
        id(p): group["lr"]
        for group in parameter_groups(model, 1e-3, 1e-2, 1.0, 0.0)
        for p in group["params"]
    }
    assert {rates[id(p)] for p in model.head.parameters()} == {1e-2}
    assert {rates[id(p)] for p in model.backbone.parameters()} == {1e-3}


def test_parameter_groups__frozen_weights__are_left_out(model):
    model.backbone.requires_grad_(False)
    groups = parameter_groups(model, 1e-3, 1e-2, 1.0, 0.01)
    assert sum(len(group["params"]) for group in groups) == 2


def test_dropout__parameter__reaches_every_dropout(make, three_classes):
    clf = make(dropout=0.25, max_epochs=1).fit(*three_classes)
    rates = {m.p for m in clf.model_.modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.25}
    assert clf.model_.backbone.config.attention_probs_dropout_prob == 0.25


def test_dropout__none__keeps_the_checkpoints(fitted):
    assert {m.p for m in fitted.model_.modules() if isinstance(m, nn.Dropout)} == {0.1}
