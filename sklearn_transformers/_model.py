"""Prompt + backbone + pooling + head, and which of their weights train how."""

import copy
import inspect
import re
from collections.abc import Hashable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedModel

from sklearn_transformers._attention import NAME as ATTENTION
from sklearn_transformers._bag_of_words import BagOfWords
from sklearn_transformers._device import autocast
from sklearn_transformers._heads import AttentionPooling, build_head, output_layer, pool
from sklearn_transformers._packing import read_packed

__all__ = ["TextClassifier", "depths", "head_dropout", "parameter_groups"]

# Where architectures keep the dropout in front of their own classification head.
_HEAD_DROPOUTS = (
    "classifier_dropout",
    "seq_classif_dropout",
    "classifier_dropout_prob",
    "hidden_dropout_prob",
)


class TextClassifier(nn.Module):
    """A Transformer that reads token ids and answers with one logit per class.

    Parameters
    ----------
    backbone : transformers.PreTrainedModel
        Gives a hidden state per token.
    width : int
        Entries of a hidden state.
    pooling : {"cls", "mean", "max", "last", "attention"}
        How the hidden states of a text become one vector.
    n_classes : int
    dropout : float
        Share of the pooled vector's entries dropped while training.
    head : str or callable, default="linear"
        From vectors to logits; see `build_head`.
    """

    prompt: nn.Parameter | None
    # Added to the answers, but not while anything trains.
    words: BagOfWords | None
    # Whether batches may go through the backbone without their padding while it trains.
    packed = False

    def __init__(
        self,
        backbone: PreTrainedModel,
        width: int,
        pooling: str,
        n_classes: int,
        dropout: float,
        head: Any = "linear",
    ) -> None:
        super().__init__()
        # The pooler is a head of its own that no pooling here uses: without it nothing is
        # trained, stored or computed in vain. Models that know this switch can do without.
        if "add_pooling_layer" in inspect.signature(type(backbone).__init__).parameters:
            backbone.pooler = None
        self.backbone = backbone
        self.width, self.n_classes = width, n_classes
        self.pooling, self.head_kind = pooling, head
        self.register_parameter("prompt", None)
        self.attention = AttentionPooling(width) if pooling == "attention" else None
        self.dropout = nn.Dropout(dropout)
        self.head = build_head(head, width, n_classes)
        self.words = None
        self._origin: tuple[Hashable, list[tuple[int, int]]] = (None, [])

    @property
    def origin(self) -> Hashable:
        """What the backbone was read from, as long as nothing has changed in it; else None."""
        source, state = self._origin
        return source if state == self._state() and self.prompt is None else None

    def mark_origin(self, source: Hashable) -> None:
        """The backbone has its checkpoint's weights, and is where it stays; None forgets that."""
        self._origin = source, [] if source is None else self._state()

    def __deepcopy__(self, memo: dict[int, Any]) -> "TextClassifier":
        """A copy lies elsewhere, and nothing is known of what will be written there."""
        twin = object.__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        twin.mark_origin(None)
        twin.packed = False
        return twin

    def _state(self) -> list[tuple[int, int]]:
        """Where each weight lies and how often it was written to."""
        return [(weight.data_ptr(), weight._version) for weight in self.backbone.parameters()]

    def draw_head(self) -> "TextClassifier":
        """Give a linear output its first weights: small random numbers and no bias."""
        output = output_layer(self.head)
        if output is not None:
            nn.init.normal_(output.weight, std=0.02)
            nn.init.zeros_(output.bias)
        return self

    def set_prompt(self, vectors: torch.Tensor) -> None:
        """Put vectors of shape (n_prompt_tokens, embedding_size) in front of every text."""
        self.prompt = nn.Parameter(vectors.detach().clone())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask of shape (b, s) -> logits of shape (b, n_classes), float32."""
        logits = self.decide(self.embed(input_ids, attention_mask))
        if self.words is None:
            return logits
        with autocast(logits.device.type, "float32"):
            return logits + self.words(input_ids, attention_mask)

    def decide(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of shape (b, hidden_size) -> logits of shape (b, n_classes), float32."""
        # The head costs nothing, and bfloat16 logits would have two or three digits.
        with autocast(vectors.device.type, "float32"):
            logits: torch.Tensor = self.head(self.dropout(vectors))
        return logits

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask of shape (b, s) -> vectors of shape (b, hidden_size), float32."""
        hidden = self._read(input_ids, attention_mask)
        if self.attention is not None:
            pooled: torch.Tensor = self.attention(hidden, attention_mask)
            return pooled
        return pool(hidden, attention_mask, self.pooling)

    def _packs(self) -> bool:
        """Whether a batch goes through the backbone without its padding now."""
        may = self.packed and self.training and self.prompt is None
        # Callbacks may choose another attention, which would not know the texts of a row apart.
        return may and self.backbone.config._attn_implementation == ATTENTION

    def _read(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Hidden states of the texts' tokens, shape (b, s, hidden_size), float32."""
        if self._packs():
            return read_packed(self.backbone, input_ids, attention_mask).float()
        if self.prompt is None:
            hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
            return hidden.last_hidden_state.float()
        n_texts, n_prompt = len(input_ids), len(self.prompt)
        words = self.backbone.get_input_embeddings()(input_ids)
        prompts = self.prompt.to(words.dtype).expand(n_texts, -1, -1)
        hidden = self.backbone(
            inputs_embeds=torch.cat([prompts, words], dim=1),
            attention_mask=nn.functional.pad(attention_mask, (n_prompt, 0), value=1),
        )
        return hidden.last_hidden_state[:, n_prompt:].float()


def head_dropout(config: Config, dropout: float | None) -> float:
    """The dropout in front of the head: the user's, else the one the checkpoint states, else 0."""
    if dropout is not None:
        return float(dropout)
    stated = (getattr(config, field, None) for field in _HEAD_DROPOUTS)
    return next((float(value) for value in stated if value is not None), 0.0)


def parameter_groups(
    model: TextClassifier,
    learning_rate: float,
    head_learning_rate: float,
    layer_decay: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Parameters for the optimiser, by learning rate and weight decay.

    Biases and the weights of norms, which are the one-dimensional parameters, and prompts are not
    decayed.
    With `layer_decay` below 1, each layer further from the head learns that much slower than
    the one above it, embeddings slowest.
    """
    by_rate: dict[tuple[float, float], list[nn.Parameter]] = {}
    depth = depths(model.backbone)
    for name, weight in model.named_parameters():
        part, _, own_name = name.partition(".")
        if part == "backbone":
            rate = learning_rate * layer_decay ** depth[own_name]
        else:
            rate = learning_rate if part == "prompt" else head_learning_rate
        if weight.requires_grad:
            decay = weight_decay if weight.ndim > 1 and part != "prompt" else 0.0
            by_rate.setdefault((rate, decay), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay}
        for (rate, decay), weights in by_rate.items()
    ]


def depths(backbone: nn.Module) -> dict[str, int]:
    """How many layers each parameter is away from the topmost one."""
    names = [name for name, _ in backbone.named_parameters()]
    stacks = [
        (path, module)
        for path, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) > 1
    ]
    if not stacks:  # one layer, or one that is repeated
        return dict.fromkeys(names, 0)
    path, stack = max(stacks, key=lambda item: sum(p.numel() for p in item[1].parameters()))
    in_layer = re.compile(rf"{re.escape(path)}\.(\d+)\.")
    found, is_below = {}, True
    for name in names:
        layer = in_layer.match(name)
        is_below = is_below and layer is None
        if layer is not None:
            found[name] = len(stack) - 1 - int(layer[1])
        else:
            found[name] = len(stack) if is_below else 0
    return found
