"""Contrastive fine-tuning: texts of one class are drawn together, those of others apart."""

import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sklearn_transformers._batching import sorted_batches
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._device import autocast, check_out_of_memory
from sklearn_transformers._net import FineTuningNet
from sklearn_transformers._recipe import Recipe
from sklearn_transformers._start import set_head, start_head
from sklearn_transformers._steady import product

__all__ = ["ContrastiveNet", "net_of", "pair_loss"]


class ContrastiveNet(FineTuningNet):
    """Trains the backbone on pairs of texts; the head is a regression on its vectors.

    Pairs from the labels, and a logistic regression on what they make of the vectors: Tunstall
    et al. (2022), "Efficient Few-Shot Learning Without Prompts" (SetFit). There each pair is read
    by itself; here the texts of an optimiser step are read once and make all the pairs that they
    can, so memory grows with the texts of a step and nothing grows with the pairs of the rows.

    The head is fitted before each validation and at the end. A step is one batch for skorch's
    callbacks however few of its texts go through the model at once. The graph of all of them
    stays in memory until the pairs are known; where that is too much, each part's is computed
    again when its gradient is wanted (Chen et al. 2016).
    """

    def train(self, train: LabelledTexts, valid: LabelledTexts | None) -> "ContrastiveNet":
        rows = train.distinct()  # equal texts make no pair
        self.rows_ = LabelledTexts(rows.texts, rows.codes, rows.weights / rows.weights.mean())
        # Of its own, so that looking at the model between epochs changes no order of batches.
        self.head_seed_ = int(self.rng.integers(2**63))
        self.sparing_ = False
        super().train(self.rows_, valid)
        return self

    def fit_loop(self, X: Any, y: Any = None, epochs: int | None = None, **_: Any) -> Any:
        super().fit_loop(X)
        if self.measure is None and len(self.history) > 0:
            self._fit_head()
        return self

    def settle(self) -> None:
        super().settle()
        if self.measure is None:
            self._fit_head()

    def _validate(self, data: LabelledTexts) -> None:
        self._fit_head()
        super()._validate(data)

    def _fit_head(self) -> None:
        start = time.perf_counter()
        self._set_training(False)
        rng = np.random.default_rng(self.head_seed_)
        head, _ = start_head(self.module_, self.rows_, self.recipe, rng)
        set_head(self.module_, head, 1.0)
        self.history.record("head_seconds", time.perf_counter() - start)

    def _steps(self, data: LabelledTexts) -> list[np.ndarray]:
        """Steps of about equal size, and not by length: each text is to meet all others."""
        n_steps = -(-len(data) // self.recipe.batch_size)
        return np.array_split(self.rng.permutation(len(data)), n_steps)

    def _add_up_gradients(self, data: LabelledTexts, step: np.ndarray) -> None:
        recipe, budget = self.recipe, self.recipe.budget
        parts = list(sorted_batches(data.texts.lengths, step, recipe.padding, budget))
        batch = inputs, codes = self._batch(data, np.concatenate(parts), 1)
        self.notify("on_batch_begin", batch=batch, training=True)
        self.history.record_batch("train_batch_size", len(step))
        try:
            result = self._learn_pairs(data, parts, codes, inputs["weights"])
        except RuntimeError as error:
            n_together = len(parts[0]) if self.sparing_ else len(step)
            check_out_of_memory(error, n_together, inputs["input_ids"].shape[1])
        else:
            self.loss_sum_ = self.loss_sum_ + result["loss"] * len(step)
            self.n_seen_ += len(step)
            self.notify("on_batch_end", batch=batch, training=True, **result)
            return
        # Some gradients may have been added already: the whole step is made again.
        self.optimizer_.zero_grad(set_to_none=True)
        del self.history[-1]["batches"][-1]
        self.sparing_ = True
        budget.halve(len(parts[0]), inputs["input_ids"].shape[1])
        self._add_up_gradients(data, step)

    def _learn_pairs(
        self,
        data: LabelledTexts,
        parts: list[np.ndarray],
        codes: torch.Tensor,
        weights: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Forward and backward: a function, so that what it holds is gone also when it fails."""
        vectors = torch.cat([self._embed(data, rows) for rows in parts])
        loss = pair_loss(vectors, codes, weights)
        self.scaler_.scale(loss).backward()
        with torch.no_grad():
            logits = self.module_.head(vectors)
        return {"loss": loss.detach(), "y_pred": logits}

    def _embed(self, data: LabelledTexts, rows: np.ndarray) -> torch.Tensor:
        inputs, _ = self._batch(data, rows, 1)

        def embed() -> torch.Tensor:
            with autocast(self.device, self.precision):
                return self.module_.embed(inputs["input_ids"], inputs["attention_mask"])

        return checkpoint(embed, use_reentrant=False) if self.sparing_ else embed()


def pair_loss(vectors: torch.Tensor, codes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """How far cosines are from 1 where texts share a class, and from 0 where they do not.

    The mean square of either, and the mean of the two: pairs of the first kind are few where
    classes are many. Means are over the pairs, not over their weights, so that rows which weigh
    little have little say also where they meet in one step.

    Parameters
    ----------
    vectors : Tensor of shape (n, width), float32
    codes : Tensor of shape (n,), int64
    weights : Tensor of shape (n,), float32
        A pair weighs as much as the product of its texts.
    """
    directions = functional.normalize(vectors, dim=1)
    same = codes[:, None] == codes
    misses = (product(directions, directions) - same.float()) ** 2
    pairs = weights[:, None] * weights
    other = ~torch.eye(len(codes), dtype=torch.bool, device=codes.device)
    means = [
        (misses * pairs * kind).sum() / kind.sum().clamp(min=1) for kind in (same & other, ~same)
    ]
    return (means[0] + means[1]) / 2


def net_of(recipe: Recipe) -> type[FineTuningNet]:
    """The training loop that the recipe asks for."""
    return ContrastiveNet if recipe.tuning == "contrastive" else FineTuningNet
