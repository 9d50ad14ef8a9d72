"""Dropout for training on the CPU, from cheaper random numbers than torch's own.

torch draws a Bernoulli variable an entry, on one thread: of the time that a step of MiniLM takes
on two cores, a sixth. Here 64 random bits decide four entries.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable

__all__ = ["HIGHEST", "SwiftDropout", "draw_kept", "is_ours", "keep"]

# 16 bits an entry: the share that is dropped is `p` to within 1e-5.
LEVELS = 2**16

# Above, the few entries that stay would not be as many as they should.
HIGHEST = 0.99


class SwiftDropout(nn.Dropout):
    """`torch.nn.Dropout` with other random numbers; on other devices than the CPU the same."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.training or not 0 < self.p <= HIGHEST or not is_ours(hidden):
            return super().forward(hidden)
        dropped: torch.Tensor = _Drop.apply(hidden, self.p)
        return dropped


def is_ours(hidden: torch.Tensor) -> bool:
    """Whether something is computed here: on the CPU; what torch compiles is torch's alone."""
    return hidden.device.type == "cpu" and not torch.compiler.is_compiling()


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

    Torch's generator draws the seed. Unlike bool, bytes are computed with many at a time.
    """
    n_entries = shape.numel()
    # Twice as quick as torch's own generator, for which all threads would wait.
    seed = torch.empty(1, dtype=torch.int64, device="cpu").random_().numpy()
    bits = np.random.SFC64(seed).random_raw(-(-n_entries // 4)).view(np.int16)[:n_entries]
    levels = torch.from_numpy(bits).view(shape)
    kept = torch.empty(shape, dtype=torch.uint8, device="cpu")
    return torch.ge(levels, round(p * LEVELS) - LEVELS // 2, out=kept)


def keep(hidden: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The entries that stay, as they are, and 0 for the others."""
    return kept.to(hidden.dtype).mul_(hidden)
