"""Dropout for training on the CPU, from cheaper random numbers than torch's own.

torch draws a Bernoulli variable an entry, on one thread: of the time that a step of MiniLM takes
on two cores, a sixth. Here 64 random bits decide four entries.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = ["HIGHEST", "SwiftDropout", "draw_kept", "keep"]

# 16 bits an entry: the share that is dropped is `p` to within 1e-5.
LEVELS = 2**16

# Above, the few entries that stay would not be as many as they should.
HIGHEST = 0.99


class SwiftDropout(nn.Dropout):
    """`torch.nn.Dropout` with other random numbers; on other devices than the CPU the same."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.training or not 0 < self.p <= HIGHEST or hidden.device.type != "cpu":
            return super().forward(hidden)
        dropped: torch.Tensor = _Drop.apply(hidden, self.p)
        return dropped


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, p: float) -> torch.Tensor:
        kept = draw_kept(hidden.shape, p)
        ctx.save_for_backward(kept)
        ctx.p = p
        return keep(hidden, kept).mul_(1 / (1 - p))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return keep(gradient, kept).mul_(1 / (1 - ctx.p)), None


def draw_kept(shape: torch.Size, p: float) -> torch.Tensor:
    """1 for the entries that stay, each with probability 1 - `p`, else 0; uint8.

    Drawn from torch's generator. torch computes with bytes many at a time, with bool one by one.
    """
    n_entries = shape.numel()
    bits = torch.empty(-(-n_entries // 4), dtype=torch.int64, device="cpu")
    bits.random_(-(2**63), None)
    levels = bits.view(torch.int16)[:n_entries].view(shape)
    kept = torch.empty(shape, dtype=torch.uint8, device="cpu")
    return torch.ge(levels, round(p * LEVELS) - LEVELS // 2, out=kept)


def keep(hidden: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The entries that stay, as they are, and 0 for the others."""
    return kept.to(hidden.dtype).mul_(hidden)
