"""Backbone + pooling + head, and which of their weights train how."""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedModel

from sklearn_transformers._device import autocast
from sklearn_transformers._steady import SteadyLinear

__all__ = ["TextClassifier", "head_dropout", "parameter_groups"]

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
    pooling : {"cls", "mean", "max", "last"}
        How the hidden states of a text become one vector.
    n_classes : int
    dropout : float
        Share of the pooled vector's entries dropped while training.
    """

    def __init__(
        self, backbone: PreTrainedModel, width: int, pooling: str, n_classes: int, dropout: float
    ) -> None:
        super().__init__()
        # The pooler is a head of its own that no pooling here uses: without it nothing is
        # trained, stored or computed in vain. Models that know this switch can do without.
        if "add_pooling_layer" in inspect.signature(type(backbone).__init__).parameters:
            backbone.pooler = None
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        # Left empty, so that rebuilding a stored model draws no random numbers.
        self.head = nn.utils.skip_init(SteadyLinear, width, n_classes, dtype=torch.float32)

    def draw_head(self) -> "TextClassifier":
        """Give the head its first weights: small random numbers and no bias."""
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        return self

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask of shape (b, s) -> logits of shape (b, n_classes), float32."""
        vectors = self.embed(input_ids, attention_mask)
        # The head costs nothing, and bfloat16 logits would have two or three digits.
        with autocast(vectors.device.type, "float32"):
            logits: torch.Tensor = self.head(self.dropout(vectors))
        return logits

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask of shape (b, s) -> vectors of shape (b, hidden_size), float32."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask)
        return _pool(hidden.last_hidden_state.float(), attention_mask, self.pooling)


def _pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Hidden states of shape (b, s, h), right-padded -> vectors of shape (b, h)."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
    real = mask[:, :, None].bool()
    if pooling == "max":
        return hidden.masked_fill(~real, -torch.inf).amax(dim=1)
    return hidden.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)


def head_dropout(config: Config, dropout: float | None) -> float:
    """The dropout in front of the head: the user's, else the one the checkpoint states, else 0."""
    if dropout is not None:
        return dropout
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

    Biases and the weights of norms, which are the one-dimensional parameters, are not decayed.
    With `layer_decay` below 1, each layer further from the head learns that much slower than
    the one above it, embeddings slowest.
    """
    by_rate: dict[tuple[float, float], list[nn.Parameter]] = {}
    depth = _depths(model.backbone)
    rates = [
        (weight, learning_rate * layer_decay ** depth[name])
        for name, weight in model.backbone.named_parameters()
    ]
    rates += [(weight, head_learning_rate) for weight in model.head.parameters()]
    for weight, rate in rates:
        if weight.requires_grad:
            decay = weight_decay if weight.ndim > 1 else 0.0
            by_rate.setdefault((rate, decay), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": decay}
        for (rate, decay), weights in by_rate.items()
    ]


def _depths(backbone: nn.Module) -> dict[str, int]:
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
    inside = [name for name in names if name.startswith(f"{path}.")]
    first = names.index(inside[0])
    depths = {
        name: int(name.removeprefix(f"{path}.").split(".")[0]) for name in inside
    }  # from below
    return {
        name: len(stack) - 1 - depths[name]
        if name in depths
        else (len(stack) if names.index(name) < first else 0)
        for name in names
    }
