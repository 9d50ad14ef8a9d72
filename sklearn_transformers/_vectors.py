"""Texts that a frozen backbone has read once: from then on each is the number of its vector."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from sklearn_transformers._batching import Budget, Padding
from sklearn_transformers._cache import VECTORS
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._device import to_device
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._inference import run
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._recipe import Recipe

__all__ = ["frozen_vectors", "on_vectors", "reader"]

# Vectors that go through the head at once.
CHUNK = 4096


def frozen_vectors(
    model: TextClassifier,
    texts: EncodedTexts,
    padding: Padding,
    device: str,
    precision: str,
    budget: Budget | None = None,
) -> np.ndarray:
    """Read all texts, or remember what was read where the backbone is still its checkpoint's.

    All texts of a call together are one entry of the cache: what a text's vector is to the last
    bit depends on the texts beside it.

    Returns
    -------
    vectors : ndarray of shape (n_texts, width), float32
        Not to be written to.
    """
    key = None
    if model.origin is not None:
        digest = hashlib.blake2b(texts.ids.tobytes())
        digest.update(texts.lengths.tobytes())
        key = (model.origin, model.pooling, device, precision, padding, digest.digest())
        (known,) = VECTORS.get_many([key])
        if known is not None:
            return np.asarray(known)
    vectors = run(model.embed, texts, padding, device, precision=precision, budget=budget)
    if key is not None:
        VECTORS.put_many({key: vectors})
    return vectors


def reader(
    model: TextClassifier,
    method: str,
    padding: Padding,
    device: str,
    precision: str,
    is_frozen: bool,
) -> Callable[[EncodedTexts], np.ndarray]:
    """What reads texts by a method of the model, "forward" or "embed"; with `is_frozen` once."""
    budget = Budget.on(device)
    if not is_frozen or model.attention is not None:
        forward = getattr(model, method)
        return lambda texts: run(
            forward, texts, padding, device, precision=precision, budget=budget
        )

    def read(texts: EncodedTexts) -> np.ndarray:
        vectors = frozen_vectors(model, texts, padding, device, precision, budget)
        if method == "embed":
            return vectors.copy()
        logits = _logits(model, vectors, device)
        if model.words is not None:
            logits += run(model.words, texts, padding, device, budget=budget)
        return logits

    return read


def _logits(model: TextClassifier, vectors: np.ndarray, device: str) -> np.ndarray:
    """Vectors -> logits of shape (n_texts, n_classes), float32."""
    parts = [vectors[start : start + CHUNK] for start in range(0, len(vectors), CHUNK)]
    with torch.inference_mode():
        # Copies: the cache's are not to be written to, and a head of the user's may do so.
        logits = [model.decide(to_device(part.copy(), device)).cpu().numpy() for part in parts]
    return np.concatenate(logits)


def on_vectors(
    model: TextClassifier, recipe: Recipe, parts: list[LabelledTexts]
) -> tuple[TextClassifier, Recipe, list[LabelledTexts]]:
    """What trains the head of `model` without its backbone.

    Returns
    -------
    trainee : TextClassifier
        Has the head of `model` itself, and in place of the backbone a table of all vectors.
    recipe : Recipe
        Without what concerns the backbone.
    parts : list of LabelledTexts
        The given ones; each text a single token, the number of its vector.
    """
    texts = EncodedTexts.concatenate([part.texts for part in parts])
    rows, numbers = texts.distinct()
    # In an order of their own, so that the same texts, split otherwise, are the same vectors.
    contents = texts.take(rows).contents()
    order = np.array(sorted(range(len(rows)), key=contents.__getitem__))
    rows, numbers = rows[order], np.argsort(order)[numbers]
    read = texts.take(rows)
    vectors = frozen_vectors(
        model, read, recipe.padding, recipe.device, recipe.predict_precision, recipe.budget
    )
    table = VectorTable(to_device(vectors, recipe.device))
    trainee = TextClassifier(table, model.width, "cls", model.n_classes, model.dropout.p)
    trainee.head = model.head
    recipe = replace(
        recipe,
        padding=Padding(pad_id=0, longest=1),
        freeze_layers=0,
        gradient_checkpointing=False,
        compile=False,
    )
    ends = np.cumsum([len(part) for part in parts])
    numbered = [
        LabelledTexts(_single_tokens(own), part.codes, part.weights)
        for own, part in zip(np.split(numbers, ends[:-1]), parts, strict=True)
    ]
    return trainee.to(recipe.device).eval(), recipe, numbered


def _single_tokens(ids: np.ndarray) -> EncodedTexts:
    return EncodedTexts(ids.astype(np.int32), np.arange(len(ids) + 1, dtype=np.int32))


class VectorTable(PreTrainedModel):
    """In a backbone's place: answers a text's number with its vector."""

    config_class = PreTrainedConfig

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__(PreTrainedConfig())
        self.table = nn.Embedding.from_pretrained(vectors, freeze=True)

    def get_input_embeddings(self) -> nn.Module:
        """The table."""
        return self.table

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> BaseModelOutput:
        """Numbers of shape (b, 1) -> vectors of shape (b, 1, width), as hidden states."""
        return BaseModelOutput(last_hidden_state=self.table(input_ids))
