"""Operations that give the same bits on the CPU with any number of threads.

The workers of a search have fewer threads than a single fit and must not answer otherwise. Of
the operations of the usual Transformers in float32, torch lets two depend on the number of
threads: the gradients of layer norm's weight and bias, which it adds up in one part for each
thread, and products of small matrices such as the head's. A sum with one thread for each of its
results does not.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = ["SteadyLayerNorm", "SteadyLinear", "product"]

# Products that are held at once: bounds the memory for many texts and classes.
CHUNK = 2**22


class SteadyLinear(nn.Linear):
    """A linear layer that is small beside the model, (..., width) -> (..., n_outputs)."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Answer as `nn.Linear`, on the CPU by sums."""
        if inputs.device.type != "cpu":
            return super().forward(inputs)
        answers = product(inputs.reshape(-1, self.in_features), self.weight) + self.bias
        return answers.reshape(*inputs.shape[:-1], self.out_features)


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n, k) and (m, k) -> left @ right.T of shape (n, m), for small matrices."""
    # What torch exports knows neither how many rows there will be nor operations of ours.
    if left.device.type != "cpu" or torch.compiler.is_compiling():
        return left @ right.T
    answers: torch.Tensor = _Product.apply(left, right)
    return answers


class _Product(torch.autograd.Function):
    """`product`, by one sum for each entry."""

    @staticmethod
    def forward(ctx: Any, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(left, right)
        n_rows = max(1, CHUNK // right.numel())
        parts = [(rows[:, None, :] * right).sum(dim=2) for rows in left.split(n_rows)]
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        left, right = ctx.saved_tensors
        wants_left, wants_right = ctx.needs_input_grad
        return (
            product(gradient, right.T) if wants_left else None,
            product(gradient.T, left.T) if wants_right else None,
        )


class SteadyLayerNorm(nn.LayerNorm):
    """A layer norm whose weight and bias, on the CPU, have steady gradients."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.device.type != "cpu" or self.weight is None:
            return super().forward(hidden)
        normalised: torch.Tensor = _Normalise.apply(
            hidden, self.weight, self.bias, self.normalized_shape, self.eps
        )
        return normalised


class _Normalise(torch.autograd.Function):
    """torch's own layer norm, but for the gradients of weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        shape: tuple[int, ...],
        eps: float,
    ) -> torch.Tensor:
        normalised, mean, scale = torch.native_layer_norm(hidden, shape, weight, bias, eps)
        ctx.save_for_backward(hidden, weight, bias, mean, scale)
        ctx.shape = shape
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, mean, scale = ctx.saved_tensors
        _, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        for_hidden, _, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, hidden, ctx.shape, mean, scale, weight, bias, [True, False, False]
        )
        by_row = gradient.float().reshape(-1, weight.numel())
        for_weight = for_bias = None
        if wants_weight:
            terms = (hidden - mean).mul_(scale).reshape(by_row.shape).mul_(by_row)
            for_weight = terms.sum(dim=0).reshape(weight.shape)
        if wants_bias:
            for_bias = by_row.sum(dim=0).reshape(weight.shape)
        return for_hidden, for_weight, for_bias, None, None
