"""Attention for training on the CPU.

torch has a fused attention for the CPU, but not with dropout: what it falls back to draws slow
random numbers, goes over the memory many times, and its softmax has gradients that depend on
the number of threads (on CPUs with AVX-512). In bfloat16 the fused one's gradient is several times
as slow as the formula. This one takes a few texts at a time, whose scores stay in the cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sklearn_transformers._dropout import HIGHEST, draw_kept, is_ours, keep
from sklearn_transformers._packing import Layout

__all__ = ["NAME", "attend", "swift_attention"]

# What a configuration calls this attention.
NAME = "sklearn_transformers"

# Scores that are computed at once: 2 MB in float32.
CHUNK = 2**19

# What the widest instructions take of float32 at once.
VECTOR = 16

# In longer texts the scores, which torch computes again where ours keeps them, take too much memory
# for the time that is left to win.
LONGEST = 256


@contextmanager
def swift_attention(backbone: PreTrainedModel) -> Iterator[None]:
    """Let a model on the CPU, where it asks torch for attention that it is slow at, get ours.

    Models that do not look their attention up by name, as Falcon, keep what they have.
    """
    ours: list[Any] = []
    if next(backbone.parameters()).device.type == "cpu" and backbone._can_set_attn_implementation():
        configs: dict[int, Any] = {
            id(m.config): m.config for m in backbone.modules() if hasattr(m, "config")
        }
        ours = [config for config in configs.values() if config._attn_implementation == "sdpa"]
    for config in ours:
        config._attn_implementation = NAME
    try:
        yield
    finally:
        for config in ours:
            config._attn_implementation = "sdpa"


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls; where texts are packed, `layout` tells them apart, not the mask."""
    if layout is None:
        # Some models, as JetMoe, rely on it that torch's lies in memory in this order.
        hidden = _quicker(module, query, key, value, attention_mask, dropout, scaling, **others)
        return hidden.contiguous(), None
    query, key, value = (layout.split(x.transpose(1, 2)) for x in (query, key, value))
    mask = layout.mask[:, None, None, :]
    hidden = _quicker(module, query, key, value, mask, dropout, scaling, **others)
    return layout.join(hidden.transpose(1, 2)), None


def _quicker(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float,
    scaling: float | None,
    **others: Any,
) -> torch.Tensor:
    """(b, n_heads, s, d) -> (b, s, n_heads, d), by ours where torch is slow and ours knows how."""
    is_plain = (
        _is_slow(query, key, value, dropout)
        and others.get("position_bias") is None
        and others.get("softcap") is None
        and (attention_mask is None or attention_mask.dtype == torch.bool)
    )
    if not is_plain:
        hidden, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **others
        )
        return hidden
    # Rotary positions leave queries and keys in float32, and autocast would not see backward.
    dtype = _number_format(value)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    n_sharing = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, n_sharing), repeat_kv(value, n_sharing)
    causal = others.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is None and causal:
        n_query, n_key = query.shape[2], key.shape[2]
        sees = torch.ones(n_query, n_key, dtype=torch.bool, device=query.device)
        attention_mask = sees.tril()[None, None]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, attention_mask, scale, dropout).transpose(1, 2)


def _is_slow(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float) -> bool:
    """Whether torch is slow at it: at dropout, and at the gradient of short texts in bfloat16."""
    if not is_ours(query):
        return False
    if dropout:
        return dropout <= HIGHEST
    is_trained = any(x.requires_grad for x in (query, key, value))
    is_short = query.shape[2] == key.shape[2] <= LONGEST
    return is_trained and is_short and _number_format(value) == torch.bfloat16


def _number_format(hidden: torch.Tensor) -> torch.dtype:
    """What products are computed in."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    return hidden.dtype


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    dropout: float,
) -> torch.Tensor:
    """softmax(query @ key.T * scale), dropped out, @ value.

    Parameters
    ----------
    query, key : Tensor of shape (b, n_heads, s, d)
    value : Tensor of shape (b, n_heads, s, d_value)
    mask : Tensor of shape (b or 1, 1 or n_heads, s, s), bool, or None
        Which tokens (last axis) each token sees.
    scale : float
    dropout : float
        Share of the attention weights that is dropped, below 1.

    Returns
    -------
    hidden : Tensor of shape (b, n_heads, s, d_value)
    """
    hidden: torch.Tensor = _Attend.apply(query, key, value, mask, scale, dropout)
    return hidden


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scale: float,
        dropout: float,
    ) -> torch.Tensor:
        n_texts, n_heads, length, _ = query.shape
        shares = query.new_empty(n_texts, n_heads, length, key.shape[2])
        kept = draw_kept(shares.shape, dropout) if dropout else None
        # Laid out as the values: so does the next layer read it.
        hidden = torch.empty_like(value)
        precise = torch.promote_types(query.dtype, torch.float32)
        unseen = None if mask is None else _unseen(mask, precise).expand(n_texts, -1, -1, -1)
        for part in _parts(shares):
            # Scores can be large, and what counts are their differences: not in bfloat16.
            scores = torch.matmul(query[part].to(precise) * scale, key[part].to(precise).mT)
            if unseen is not None:
                scores.add_(unseen[part])
            shares[part] = _softmax(scores)
            some = torch.matmul(_keep(shares[part], kept, part), value[part])
            hidden[part] = some.mul_(1 / (1 - dropout))
        ctx.save_for_backward(query, key, value, shares, kept)
        ctx.scale, ctx.dropout = scale, dropout
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, shares, kept = ctx.saved_tensors
        for_query, for_key, for_value = (torch.empty_like(x) for x in (query, key, value))
        for part in _parts(shares):
            # What scales the shares or the scores scales these instead, which are fewer.
            some, left = shares[part], gradient[part] * (1 / (1 - ctx.dropout))
            for_value[part] = torch.matmul(_keep(some, kept, part).mT, left)
            for_shares = torch.matmul(left.mul_(ctx.scale), value[part].mT)
            for_shares = _keep(for_shares, kept, part)
            # The softmax: torch's own gradient depends on the number of threads, sums do not.
            for_scores = for_shares.mul_(some)
            for_scores = for_scores.sub_(some * for_scores.sum(dim=-1, keepdim=True))
            for_query[part] = torch.matmul(for_scores, key[part])
            for_key[part] = torch.matmul(for_scores.mT, query[part])
        return for_query, for_key, for_value, None, None, None


def _keep(some: torch.Tensor, kept: torch.Tensor | None, part: slice) -> torch.Tensor:
    """What dropout leaves of a part."""
    return some if kept is None else keep(some, kept[part])


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the last axis; rows of less than a vector, at which torch is slow, are filled up."""
    width = scores.shape[-1]
    if width < VECTOR:
        scores = nn.functional.pad(scores, (0, VECTOR - width), value=-torch.inf)
    return torch.softmax(scores, dim=-1)[..., :width]


def _unseen(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What scores get that must not count; all else 0."""
    # Not minus infinity: a token that sees nothing would answer with NaN.
    lowest = torch.finfo(dtype).min / 2
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, lowest)


def _parts(scores: torch.Tensor) -> list[slice]:
    """As many texts at a time as have `CHUNK` scores, at least one."""
    n_texts = max(1, CHUNK // scores[0].numel())
    return [slice(start, start + n_texts) for start in range(0, len(scores), n_texts)]


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
