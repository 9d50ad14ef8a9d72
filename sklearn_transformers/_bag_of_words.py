"""Logits from which words a text has, wherever they stand: what is added to a Transformer's."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

__all__ = ["BagOfWords"]


class BagOfWords(nn.Module):
    """TF-IDF weights of a text's tokens, and a linear model on them; nothing of it is trained.

    A token that occurs n times counts ``(1 + log(n)) * idf``, tokens that no training text had
    count nothing, and the weights of a text are brought to a Euclidean length of 1, as
    scikit-learn's ``TfidfTransformer(sublinear_tf=True)`` does.

    Parameters
    ----------
    numbers : Tensor of shape (n_tokens,), int32
        Token id -> its row in the next two; 0 for a token that counts nothing, as the last one
        and all beyond do.
    idf : Tensor of shape (1 + n_known,), float32
        Its first entry is 0.
    weight : Tensor of shape (1 + n_known, n_classes), float32
    bias : Tensor of shape (n_classes,), float32
    """

    numbers: torch.Tensor
    idf: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(
        self, numbers: torch.Tensor, idf: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("numbers", numbers)
        self.register_buffer("idf", idf)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @classmethod
    def of(
        cls, known: np.ndarray, idf: np.ndarray, coef: np.ndarray, bias: np.ndarray
    ) -> "BagOfWords":
        """From the ids of the known tokens, sorted, and `coef` of shape (n_classes, n_known)."""
        numbers = np.zeros(known.max(initial=0) + 2, np.int32)
        numbers[known] = np.arange(1, 1 + len(known))
        floats = np.append(0, idf), np.vstack([0 * bias, coef.T]), bias
        return cls(*map(torch.from_numpy, (numbers, *(a.astype(np.float32) for a in floats))))

    @classmethod
    def like(cls, tensors: Mapping[str, torch.Tensor], n_classes: int) -> "BagOfWords":
        """From stored tensors, whoever stored them.

        Raises
        ------
        ValueError
            When they do not fit each other.
        """
        bag = cls(*(tensors[name] for name in ("numbers", "idf", "weight", "bias")))
        n_known = len(bag.idf)
        shapes = [tuple(tensor.shape) for tensor in bag.buffers()]
        wanted = [(len(bag.numbers),), (n_known,), (n_known, n_classes), (n_classes,)]
        if shapes != wanted or not 0 <= int(bag.numbers.min()) <= int(bag.numbers.max()) < n_known:
            raise ValueError(f"the bag of words has tensors of shapes {shapes}, not {wanted}")
        return bag

    def times(self, factor: float) -> "BagOfWords":
        """The one whose logits are so many times as large."""
        return type(self)(self.numbers, self.idf, factor * self.weight, factor * self.bias)

    def widened(self, n_classes: int, columns: torch.Tensor) -> "BagOfWords":
        """The one for more classes, the old ones in these columns: new ones are as their mean."""
        weight, bias = (
            old.mean(dim=-1, keepdim=True).repeat_interleave(n_classes, dim=-1)
            for old in (self.weight, self.bias)
        )
        weight[:, columns], bias[columns] = self.weight, self.bias
        return type(self)(self.numbers, self.idf, weight, bias)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids and mask of shape (b, s) -> logits of shape (b, n_classes), float32."""
        ids = input_ids.clamp(max=len(self.numbers) - 1)
        numbers = self.numbers[ids].long() * attention_mask
        counts = (numbers[:, :, None] == numbers[:, None, :]).sum(dim=2).float()
        values = (1 + counts.log()) * self.idf[numbers]
        # Each of the n places at which a token stands has a share of 1/n in it.
        lengths = (values.square() / counts).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        shares = values / counts / lengths
        return torch.bmm(shares[:, None], self.weight[numbers])[:, 0] + self.bias
