"""Batches without their padding, for training on the CPU.

But for attention, a Transformer treats each token by itself: padding costs as much as text and
teaches nothing. So only the tokens of the texts go through the model, those of a batch in one row,
and attention, which must know whose they are, gets them text by text. The idea is that of Zeng et
al. (2022), "Boosting Distributed Training Performance of the Unpadded BERT Model".
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedConfig, PreTrainedModel

__all__ = ["Layout", "can_be_packed", "read_packed"]

# Encoders in which only positions and attention depend on where a token stands, and which hand on
# to their attention what they are called with. Those of the second kind number tokens from behind
# the padding's id, and give padding that very number.
FROM_ZERO = {"bert", "distilbert", "electra"}
FROM_PADDING = {"camembert", "roberta", "xlm-roberta"}

# Rows of the matrices that are multiplied: on the CPU every new shape costs a compilation.
MULTIPLE = 32


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a packed batch stand in the padded one.

    Parameters
    ----------
    places : Tensor of shape (n,), int64
        Cells of the padded batch, row by row. The last ones may be padding.
    mask : Tensor of shape (b, s), bool
        Which cells hold tokens.
    """

    places: torch.Tensor
    mask: torch.Tensor
    _rows: dict[int, torch.Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, attention_mask: torch.Tensor) -> "Layout":
        """All tokens, and as much padding, if there is, as makes up a multiple of `MULTIPLE`."""
        mask = attention_mask.bool()
        is_padding = ~mask.numpy().ravel()
        n_packed = -(-np.count_nonzero(~is_padding) // MULTIPLE) * MULTIPLE
        places = np.argsort(is_padding, kind="stable")[:n_packed]
        return cls(torch.from_numpy(places), mask)

    def split(self, packed: torch.Tensor) -> torch.Tensor:
        """(1, n, n_heads, d) -> (b, n_heads, s, d), 0 where nothing was packed."""
        by_text: torch.Tensor = _Split.apply(packed, self)
        return by_text

    def join(self, by_text: torch.Tensor) -> torch.Tensor:
        """(b, n_heads, s, d) -> (1, n, n_heads, d)."""
        packed: torch.Tensor = _Join.apply(by_text, self)
        return packed

    def rows(self, n_heads: int) -> torch.Tensor:
        """Where in (b, n_heads, s) each token and head stands, shape (n * n_heads,)."""
        if n_heads not in self._rows:
            width = self.mask.shape[1]
            texts, columns = self.places[:, None] // width, self.places[:, None] % width
            heads = torch.arange(n_heads, device=texts.device)
            self._rows[n_heads] = ((texts * n_heads + heads) * width + columns).flatten()
        return self._rows[n_heads]


# Either is the other's gradient, for nothing is taken twice; torch could not know.


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        (n_texts, width), (n_heads, size) = layout.mask.shape, packed.shape[2:]
        by_text = packed.new_zeros(n_texts, n_heads, width, size)
        by_text.view(-1, size).index_copy_(0, layout.rows(n_heads), packed.reshape(-1, size))
        return by_text

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.layout.join(gradient), None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, by_text: torch.Tensor, layout: Layout) -> torch.Tensor:
        ctx.layout = layout
        n_heads, size = by_text.shape[1], by_text.shape[3]
        packed = by_text.reshape(-1, size).index_select(0, layout.rows(n_heads))
        return packed.view(1, -1, n_heads, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.layout.split(gradient), None


def can_be_packed(config: PreTrainedConfig) -> bool:
    """Whether tokens are treated alike wherever they stand, but for positions and attention."""
    return (
        config.model_type in FROM_ZERO | FROM_PADDING
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "chunk_size_feed_forward", 0)  # of rows that it must divide
    )


def read_packed(
    backbone: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Hidden states (b, s, width) of texts that are padded on the right, as `backbone` has them.

    Its attention must be that of `swift_attention`. What it says of padding means nothing.
    """
    layout = Layout.of(attention_mask)
    positions = _positions(input_ids, backbone.config)
    ids, positions = (x.flatten()[layout.places][None] for x in (input_ids, positions))
    hidden = backbone(input_ids=ids, position_ids=positions, layout=layout).last_hidden_state
    return layout.split(hidden[:, :, None]).squeeze(1)


def _positions(input_ids: torch.Tensor, config: PreTrainedConfig) -> torch.Tensor:
    """The positions, (b, s), that a model by itself gives the tokens of padded texts."""
    if config.model_type in FROM_ZERO:
        return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    is_token = input_ids != config.pad_token_id
    return is_token.cumsum(dim=1) * is_token + config.pad_token_id
