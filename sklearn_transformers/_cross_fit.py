"""For few rows: each is answered by a model trained on the others."""

from dataclasses import replace

import numpy as np
from skorch import NeuralNet
from skorch.callbacks import Callback
from tqdm import tqdm

from sklearn_transformers._contrast import net_of
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._inference import run
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._recipe import Recipe
from sklearn_transformers._schedule import Schedule
from sklearn_transformers._start import start_head

__all__ = ["cross_fit"]


def cross_fit(
    model: TextClassifier,
    data: LabelledTexts,
    folds: list[np.ndarray],
    recipe: Recipe,
    rng: np.random.Generator,
    penalty: float | None,
    watched: bool,
) -> np.ndarray:
    """Train once without each fold, and answer that fold before and after.

    Parameters
    ----------
    model : TextClassifier
        What every training starts from; as it was when this returns.
    data : LabelledTexts
    folds : list of ndarray
        Rows to leave out together.
    recipe : Recipe
    rng : numpy.random.Generator
    penalty : float or None
        That of the regression on its own rows that each training starts from: the one that all
        rows choose, for few rows choose others by luck, and then the temperature of the answers
        is not that of the model that stays. None starts from the head as it is.
    watched : bool
        Whether to show a bar.

    Returns
    -------
    logits : ndarray of shape (2, n_held, n_classes), float32
        Answers to the rows of the folds, one fold after the other, before and after training.
    """
    origin = model.origin
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    answers = []

    def answer(unseen: LabelledTexts) -> np.ndarray:
        # No promise of what `predict` will say, so it may be rounded as training is.
        how = recipe.padding, recipe.device, recipe.precision, recipe.budget
        return run(model, unseen.texts, *how)

    with tqdm(
        total=len(folds) * recipe.max_epochs,
        desc="cross-validation",
        bar_format="{desc} |{bar:8}| {elapsed}<{remaining}",
        disable=not watched,
    ) as bar:
        for held in folds:
            rest = np.setdiff1d(np.arange(len(data)), held)
            train, unseen = data.take(rest), data.take(held)
            shrink = 1.0
            if penalty is not None:
                start, _ = start_head(model, train, recipe, rng, penalty)
                shrink = start.shrink
            first = answer(unseen) / np.float32(shrink)
            # As many steps in an epoch as all rows make: how sure a model is grows with them.
            # A text alone makes no pair.
            least = 2 if recipe.tuning == "contrastive" else 1
            size = max(least, round(recipe.batch_size * len(train) / len(data)))
            smaller = replace(recipe, batch_size=size)
            schedule = Schedule(recipe.schedule, recipe.warmup)
            net_of(recipe)(model, smaller, rng, [schedule, _Tick(bar)]).train(train, None)
            answers.append(np.stack([first, answer(unseen)]))
            model.load_state_dict(before)
            model.mark_origin(origin)
    return np.concatenate(answers, axis=1)


class _Tick(Callback):
    """Moves the bar on with each epoch."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def on_epoch_end(self, net: NeuralNet, **_: object) -> None:
        self.bar.update()
