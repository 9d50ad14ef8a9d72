"""From hidden states to one vector a text, and from that to logits."""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from sklearn_transformers._steady import SteadyLinear, product

__all__ = [
    "ACTIVATIONS",
    "AttentionPooling",
    "DenseHead",
    "MLPHead",
    "build_head",
    "output_layer",
    "pool",
]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "gelu_new": partial(nn.functional.gelu, approximate="tanh"),
}

Head = str | Callable[[int, int], nn.Module]


class MLPHead(nn.Module):
    """A hidden layer beside the vector, and a linear layer on the sum of both.

    The hidden layer starts at zero. So the head starts as the linear one, from a logistic
    regression for example, and what it learns beyond comes on top (He et al. 2016, "Deep
    Residual Learning for Image Recognition").
    """

    def __init__(self, width: int, n_classes: int) -> None:
        super().__init__()
        self.hidden = nn.utils.skip_init(SteadyLinear, width, width, dtype=torch.float32)
        self.output = nn.utils.skip_init(SteadyLinear, width, n_classes, dtype=torch.float32)
        nn.init.zeros_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of shape (b, width) -> logits of shape (b, n_classes)."""
        logits: torch.Tensor = self.output(vectors + nn.functional.gelu(self.hidden(vectors)))
        return logits


class DenseHead(nn.Module):
    """The head of transformers' own classifiers: a dense layer, its activation, and the logits.

    Models that were published with one keep it; none is made anew.
    """

    def __init__(self, width: int, n_classes: int, activation: str) -> None:
        super().__init__()
        self.dense = nn.utils.skip_init(SteadyLinear, width, width, dtype=torch.float32)
        self.output = nn.utils.skip_init(SteadyLinear, width, n_classes, dtype=torch.float32)
        self.activation = ACTIVATIONS[activation]

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors of shape (b, width) -> logits of shape (b, n_classes)."""
        logits: torch.Tensor = self.output(self.activation(self.dense(vectors)))
        return logits


class AttentionPooling(nn.Module):
    """The mean of a text's hidden states, weighted by how much each agrees with a learnt query.

    Yang et al. (2016), "Hierarchical Attention Networks for Document Classification". The query
    starts at zero, where the weighted mean is the plain one.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width, dtype=torch.float32))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Hidden states of shape (b, s, h) and mask (b, s) -> vectors of shape (b, h)."""
        scores = product(hidden.flatten(0, 1), self.query[None]).reshape(mask.shape)
        scores = scores.masked_fill(~mask.bool(), -torch.inf)
        # A softmax whose gradient is a sum: torch's own depends on the number of threads.
        powers = (scores - scores.detach().amax(dim=1, keepdim=True)).exp()
        shares = powers / powers.sum(dim=1, keepdim=True)
        return (hidden * shares[:, :, None]).sum(dim=1)


def build_head(head: Head, width: int, n_classes: int) -> nn.Module:
    """Make the head; empty where its weights are linear, so that no random numbers are drawn.

    Raises
    ------
    ValueError
        When a head of the user's does not answer with one logit for each class.
    """
    if head == "mlp":
        return MLPHead(width, n_classes)
    if isinstance(head, str) and head in ACTIVATIONS:
        return DenseHead(width, n_classes, head)
    if isinstance(head, str):
        return nn.utils.skip_init(SteadyLinear, width, n_classes, dtype=torch.float32)
    if isinstance(head, nn.Module):
        raise ValueError(
            f"head={head!r} is a module already. Pass what makes one: its class, or a function of "
            "the vectors' width and the number of classes."
        )
    module = copy.deepcopy(head(width, n_classes))
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"head={head!r} was called with ({width}, {n_classes}), for the width of the vectors "
            f"and the number of classes, and returned {module!r}. It must return a "
            "torch.nn.Module."
        )
    with torch.no_grad():
        answer = module.eval()(torch.zeros(2, width))
    module.train()
    if not torch.is_tensor(answer) or answer.shape != (2, n_classes):
        got = f"shape {tuple(answer.shape)}" if torch.is_tensor(answer) else repr(answer)
        raise ValueError(
            f"head={head!r} must turn vectors of shape (n, {width}) into logits of shape "
            f"(n, {n_classes}). For two vectors it returned {got}."
        )
    return module


def output_layer(head: nn.Module) -> nn.Linear | None:
    """The linear layer that a logistic regression can be written to, where the head has one."""
    if isinstance(head, MLPHead | DenseHead):
        return head.output
    return head if isinstance(head, SteadyLinear) else None


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Hidden states of shape (b, s, h), right-padded -> vectors of shape (b, h)."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(dim=1) - 1]
    real = mask[:, :, None].bool()
    if pooling == "max":
        return hidden.masked_fill(~real, -torch.inf).amax(dim=1)
    return hidden.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)
