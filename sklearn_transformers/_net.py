"""The training loop: a skorch net with precision, accumulation and length-sorted batches."""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import EarlyStopping
from torch import nn

from sklearn_transformers._batching import pad, sorted_batches, training_steps
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._device import autocast, check_out_of_memory, to_device
from sklearn_transformers._divergence import check_finite, diverged_in_step
from sklearn_transformers._inference import run
from sklearn_transformers._model import TextClassifier, parameter_groups
from sklearn_transformers._optimizers import build_optimizer, step_unless
from sklearn_transformers._recipe import Recipe
from sklearn_transformers._recorded import Batch, Steps, launcher
from sklearn_transformers._snapshot import NoSnapshots, Snapshots
from sklearn_transformers._training_form import training_form
from sklearn_transformers._tuned_part import tuned_part

__all__ = ["FineTuningNet"]


class FineTuningNet(NeuralNetClassifier):
    """Trains a `TextClassifier` in place; lives only as long as `fit` runs.

    Each optimiser step sees `batch_size` rows, in as many micro-batches as the budget asks for.
    Losses stay on the device until the epoch ends; then steps that were not finite are made up for.
    skorch's callbacks see each micro-batch as a batch; on validation, labels and logits, no inputs.

    Parameters
    ----------
    module : TextClassifier
    recipe : Recipe
    rng : numpy.random.Generator
        Orders the batches.
    callbacks : list of skorch.callbacks.Callback
    measure : callable, default=None
        Logits of the validation rows -> their loss, and the temperature that it was got at.
        Needed where there are such rows.
    verbose : int, default=0
        Whether callbacks such as skorch's PrintLog may print.
    snapshots : Snapshots, default=None
        Where to go on from, and to leave what a later call may go on from.
    """

    def __init__(
        self,
        module: TextClassifier,
        recipe: Recipe,
        rng: np.random.Generator,
        callbacks: list[Any],
        measure: Callable[[np.ndarray], tuple[float, float]] | None = None,
        verbose: int = 0,
        snapshots: Snapshots | NoSnapshots | None = None,
    ) -> None:
        super().__init__(
            module,
            criterion=nn.CrossEntropyLoss,  # get_loss does the work; scoring callbacks look at it
            classes=list(range(module.n_classes)),
            lr=recipe.learning_rate,
            max_epochs=recipe.max_epochs,
            batch_size=recipe.batch_size,
            train_split=None,
            callbacks=callbacks,
            device=recipe.device,
            verbose=verbose,
        )
        self.recipe = recipe
        self.precision = recipe.precision  # of the step that is being made
        self.rng = rng
        self.measure = measure
        self.snapshots = snapshots or NoSnapshots()
        self.stop_training = False
        self.temperature_ = 1.0

    def get_default_callbacks(self) -> list[Any]:
        return []

    def initialize_optimizer(self, triggered_directly: Any = None) -> "FineTuningNet":
        recipe = self.recipe
        rates = recipe.learning_rate, recipe.head_learning_rate
        groups = parameter_groups(self.module_, *rates, recipe.layer_decay, recipe.weight_decay)
        name, params = recipe.optimizer, recipe.optimizer_params
        self.optimizer_ = build_optimizer(name, params, groups, recipe.learning_rate)
        kind, enabled = torch.device(recipe.device).type, recipe.precision == "float16"
        self.scaler_ = torch.amp.GradScaler(kind, enabled=enabled)
        return self

    def train(self, train: LabelledTexts, valid: LabelledTexts | None) -> "FineTuningNet":
        """Run all epochs. Unlike skorch's `fit`, lets Ctrl-C through to the caller."""
        with (
            tuned_part(self.module, self.recipe),
            training_form(
                self.module,
                self.module.backbone,
                np.unique(train.texts.ids),
                gradient_checkpointing=self.recipe.gradient_checkpointing,
                compiled=self.recipe.compile,
            ),
            launcher(recorded=self.recipe.recorded) as self.launch_,
        ):
            self.initialize()
            self.n_trainable_ = sum(w.numel() for w in self.module_.parameters() if w.requires_grad)
            self.n_steps_ = self.recipe.n_steps(len(train))
            self.notify("on_train_begin", X=None, y=None)
            self.fit_loop((train, valid))
            self.notify("on_train_end", X=None, y=None)
        # Losses are seen before the step that follows them: look at what the last one left.
        self._set_training(False)
        logits = run(self.module_, train.texts.head(1), self.recipe.padding, self.recipe.device)
        check_finite("sum of the logits", float(logits.sum()), len(self.history), self.recipe)
        return self

    def settle(self) -> None:
        """Let the model answer, between epochs, as it would if training ended here."""
        self._set_training(False)

    def record(self, name: str, value: float, *, lower_is_better: bool = True) -> None:
        """Write to the history, with the mark `<name>_best` that skorch's callbacks read."""
        earlier = [row[name] for row in self.history[:-1]]
        sign = 1 if lower_is_better else -1
        self.history.record(name, value)
        self.history.record(f"{name}_best", all(sign * value < sign * e for e in earlier))

    def fit_loop(self, X: Any, y: Any = None, epochs: int | None = None, **_: Any) -> Any:
        train, valid = X
        self._open_epoch()
        self.snapshots.resume(self)
        while len(self.history) < self.max_epochs and not self.stop_training:
            start = time.perf_counter()
            self.notify("on_epoch_begin", dataset_train=train, dataset_valid=valid)
            self._train_epoch(train)
            if valid is not None:
                self._validate(valid)
                seconds = time.perf_counter() - start - self.train_seconds_
                self.history.record("valid_seconds", seconds)
            self.history.record("train_seconds", self.train_seconds_)
            self.history.record("seconds", time.perf_counter() - start)
            self.notify("on_epoch_end", dataset_train=train, dataset_valid=valid)
            self._open_epoch()
            self.snapshots.save(self)
        return self

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Tell the callbacks, and take the one stop sign that skorch's own callback gives."""
        for listener in [self, *(callback for _, callback in self.callbacks_)]:
            try:
                getattr(listener, method_name)(self, **cb_kwargs)
            except KeyboardInterrupt:
                stops = isinstance(listener, EarlyStopping) and method_name == "on_epoch_end"
                if not stops or listener.misses_ != listener.patience:
                    raise
                self.stop_training = True

    def _open_epoch(self) -> None:
        """Nothing has been done of the epoch that comes."""
        self.order_ = self.rng.bit_generator.state  # decides on the steps
        # Both stay on the device: `.item()` would wait for the GPU every step.
        self.loss_sum_, self.n_seen_ = torch.zeros((), device=self.device), 0
        n_steps = self.n_steps_ // self.max_epochs
        self.lost_ = torch.zeros(n_steps, dtype=torch.bool, device=self.device)
        self.rates_: list[float] = []  # one for each step that is made

    def _train_epoch(self, data: LabelledTexts) -> None:
        start = time.perf_counter()
        self._set_training(True)
        if not any(weight.requires_grad for weight in self.module_.parameters()):
            raise ValueError("callbacks froze every weight: nothing is left to train.")
        steps = self._steps(data)
        for number in range(len(self.rates_), len(steps)):
            self.lost_[number] = self._make_step(data, steps, number)
            self.rates_.append(self.optimizer_.param_groups[0]["lr"])
            self.snapshots.step_made(self)
        loss_sum = float(self.loss_sum_.masked_fill(self.lost_.any(), math.nan))
        if math.isnan(loss_sum):
            self._make_up(data, steps)
            loss_sum = float(self.loss_sum_)
        self.train_seconds_ = seconds = time.perf_counter() - start
        self.record("train_loss", loss_sum / len(data))
        self.history.record("learning_rate", self.rates_[-1])
        self.history.record("examples_per_second", len(data) / seconds)
        self.history.record("tokens_per_second", len(data.texts.ids) / seconds)

    def _steps(self, data: LabelledTexts) -> list[np.ndarray]:
        """One epoch: every row once, in optimiser steps."""
        return training_steps(data.texts.lengths, self.recipe.batch_size, self.rng)

    def _make_step(self, data: LabelledTexts, steps: list[np.ndarray], number: int) -> torch.Tensor:
        """One optimiser step; says whether it is lost, because something in it is not finite."""
        self.step_ = (len(self.history) - 1) * len(steps) + number
        before = self.loss_sum_
        self._add_up_gradients(data, steps[number])
        norm = self._clip_gradients()
        lost = ~torch.isfinite(self.loss_sum_ + norm)
        self.loss_sum_ = torch.where(lost, before, self.loss_sum_)
        step_unless(lost, self.optimizer_)
        self.scaler_.update()
        self.optimizer_.zero_grad(set_to_none=not self.recipe.recorded)
        return lost

    def _make_up(self, data: LabelledTexts, steps: list[np.ndarray]) -> None:
        """Make the lost steps once more, in float32, each at its own learning rate."""
        launch, self.launch_, self.precision = self.launch_, Steps(), "float32"
        for number in self.lost_.nonzero().flatten().tolist():
            self.n_seen_ -= len(steps[number])
            if self.recipe.precision == "float32" or self._make_step(data, steps, number):
                where = f"step {number + 1} of {len(steps)} of epoch {len(self.history)}"
                raise diverged_in_step(where, self.rates_[number], self.recipe)
        self.launch_, self.precision = launch, self.recipe.precision

    def _add_up_gradients(self, data: LabelledTexts, step: np.ndarray) -> None:
        """Gradients of one step, in micro-batches that the memory bears."""
        padding, budget = self.recipe.padding, self.recipe.budget
        before = self.loss_sum_, self.n_seen_, len(self.history[-1, "batches"])
        for rows in sorted_batches(data.texts.lengths, step, padding, budget):
            batch = self._batch(data, rows, len(step))
            self.notify("on_batch_begin", batch=batch, training=True)
            self.history.record_batch("train_batch_size", len(rows))
            shape = batch[0]["input_ids"].shape
            try:
                result = self.launch_(self.train_step_single, batch)
            except RuntimeError as error:
                check_out_of_memory(error, *shape)
                break
            self.loss_sum_ = self.loss_sum_ + result["loss"] * len(step)
            self.n_seen_ += len(rows)
            self.notify("on_batch_end", batch=batch, training=True, **result)
        else:
            return
        # Some gradients may have been added already: the whole step is made again.
        self.optimizer_.zero_grad(set_to_none=not self.recipe.recorded)
        self.loss_sum_, self.n_seen_, n_batches = before
        del self.history[-1]["batches"][n_batches:]
        self.launch_.forget()
        budget.halve(*shape)
        self._add_up_gradients(data, step)

    def _batch(self, data: LabelledTexts, rows: np.ndarray, step_size: int) -> Batch:
        """One micro-batch; its weights make the losses of a step's micro-batches add up."""
        input_ids, mask = pad(data.texts, rows, self.recipe.padding, self.recipe.budget)
        weights = (data.weights[rows] / step_size).astype(np.float32)
        inputs = {"input_ids": input_ids, "attention_mask": mask, "weights": weights}
        on_device = {name: to_device(array, self.device) for name, array in inputs.items()}
        return on_device, to_device(data.codes[rows], self.device)

    def infer(self, x: dict[str, torch.Tensor], **fit_params: Any) -> torch.Tensor:
        logits: torch.Tensor = self.module_(x["input_ids"], x["attention_mask"])
        return logits

    def get_loss(self, y_pred: Any, y_true: Any, X: Any = None, **kwargs: Any) -> torch.Tensor:
        losses = self.recipe.loss(y_pred, y_true).float()
        return (losses * X["weights"]).sum()

    def train_step_single(self, batch: Batch, **fit_params: Any) -> dict[str, torch.Tensor]:
        inputs, codes = batch
        with autocast(self.device, self.precision):
            logits = self.infer(inputs)
        loss = self.get_loss(logits, codes, X=inputs)
        self.scaler_.scale(loss).backward()
        return {"loss": loss.detach(), "y_pred": logits.detach()}

    def _clip_gradients(self) -> torch.Tensor:
        """Scale gradients down where they are too large; their norm before that."""
        self.scaler_.unscale_(self.optimizer_)
        named = list(self.get_all_learnable_params())
        self.notify("on_grad_computed", named_parameters=named, training=True)
        highest = self.recipe.max_grad_norm or math.inf
        return nn.utils.clip_grad_norm_(self.module_.parameters(), highest)

    def _validate(self, data: LabelledTexts) -> None:
        """Logits of the validation rows, exactly as `predict` has them, and their loss."""
        self._set_training(False)

        def observe(rows: np.ndarray, logits: torch.Tensor) -> None:
            batch: Batch = ({}, to_device(data.codes[rows], self.device))
            self.notify("on_batch_begin", batch=batch, training=False)
            self.history.record_batch("valid_batch_size", len(rows))
            self.notify("on_batch_end", batch=batch, training=False, y_pred=logits)

        assert self.measure is not None
        self.valid_logits_ = run(
            self.module_,
            data.texts,
            self.recipe.padding,
            self.recipe.device,
            precision=self.recipe.predict_precision,
            budget=self.recipe.budget,
            observe=observe,
        )
        loss, self.temperature_ = self.measure(self.valid_logits_)
        check_finite("validation loss", loss, len(self.history), self.recipe)
        self.record("valid_loss", loss)
        self.history.record("temperature", self.temperature_)
