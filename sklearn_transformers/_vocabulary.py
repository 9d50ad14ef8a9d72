"""For the time of training, the embedding table has only the rows that training reads.

Half the weights of a small model, and more of a multilingual one, embed tokens of which most never
occur in the training texts. Their gradient is zero, yet a step of Adam goes over all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["compact_vocabulary"]


@contextmanager
def compact_vocabulary(backbone: nn.Module, token_ids: np.ndarray) -> Iterator[None]:
    """Train the embeddings of these tokens only; all others stay bit for bit as they are.

    The result is that of training the whole table, but for the weight decay, which would move
    the embeddings of tokens that no training text has towards zero for no reason.

    Parameters
    ----------
    backbone : transformers.PreTrainedModel
        Left as it is where its embeddings are not a plain table of its own.
    token_ids : ndarray of shape (n_tokens,)
        The tokens of the training texts, each once.
    """
    table = _plain_table(backbone)
    if table is None:
        yield
        return
    whole = table.weight
    # The padding's embedding is not trained.
    token_ids = token_ids[token_ids != (-1 if table.padding_idx is None else table.padding_idx)]
    rows = torch.from_numpy(token_ids.astype(np.int64)).to(whole.device)
    numbers = torch.full((len(whole),), -1, device=whole.device)
    numbers[rows] = torch.arange(len(rows), device=whole.device)
    table.__class__ = _CompactEmbedding
    table.whole, table.rows, table.numbers = whole.detach(), rows, numbers
    table.weight = nn.Parameter(whole.detach()[rows])
    try:
        yield
    finally:
        table.write_back()
        del table.whole, table.rows, table.numbers
        table.weight, table.__class__ = whole, nn.Embedding


def _plain_table(backbone: nn.Module) -> Any:
    """The module that embeds the tokens, if it is one that can be replaced by some of its rows."""
    try:
        table = backbone.get_input_embeddings()  # type: ignore[operator]
    except NotImplementedError:  # models that hash their input have no table
        return None
    is_plain = (
        type(table) is nn.Embedding
        and table.weight.requires_grad
        and table.max_norm is None
        and not (table.scale_grad_by_freq or table.sparse)
    )
    if not is_plain:
        return None
    holders = [
        m for m in backbone.modules() if any(w is table.weight for w in m._parameters.values())
    ]
    return table if holders == [table] else None


class _CompactEmbedding(nn.Embedding):
    """Trains some rows of the table `whole`, and takes the others from there."""

    whole: torch.Tensor
    rows: torch.Tensor
    numbers: torch.Tensor

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        numbers = self.numbers[input_ids]
        trained = nn.functional.embedding(numbers.clamp(min=0), self.weight)
        others = nn.functional.embedding(input_ids, self.whole)
        return torch.where((numbers >= 0)[..., None], trained, others)

    def write_back(self) -> None:
        """Bring the whole table up to date."""
        with torch.no_grad():
            self.whole[self.rows] = self.weight

    # Whoever saves or loads a state while training, as some callbacks do, means the whole table.

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.write_back()
        destination[f"{prefix}weight"] = self.whole.clone()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *others: Any) -> None:
        _, strict, missing_keys, *_ = others
        name = f"{prefix}weight"
        if name in state_dict:
            with torch.no_grad():
                self.whole.copy_(state_dict[name])
                self.weight.copy_(self.whole[self.rows])
        elif strict:
            missing_keys.append(name)
