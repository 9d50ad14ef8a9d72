"""For few rows: each is answered by a model trained on the others, epoch by epoch."""

from dataclasses import replace

import numpy as np
from skorch import NeuralNet
from skorch.callbacks import Callback
from tqdm import tqdm

from sklearn_transformers._callbacks import LinearSchedule
from sklearn_transformers._data import LabelledTexts
from sklearn_transformers._inference import run
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._net import FineTuningNet
from sklearn_transformers._recipe import Recipe
from sklearn_transformers._start import start_head

__all__ = ["cross_fit"]


def cross_fit(
    model: TextClassifier,
    texts: list[str],
    data: LabelledTexts,
    folds: list[np.ndarray],
    recipe: Recipe,
    rng: np.random.Generator,
    with_head: bool,
    watched: bool,
) -> np.ndarray:
    """Train once without each fold, and answer that fold before and after each epoch.

    Parameters
    ----------
    model : TextClassifier
        What every training starts from; as it was when this returns.
    texts : list of str
    data : LabelledTexts
        Their tokens, codes and weights.
    folds : list of ndarray
        Rows to leave out together.
    recipe : Recipe
    rng : numpy.random.Generator
    with_head : bool
        Whether each training starts from a head fitted to its own rows.
    watched : bool
        Whether to show a bar.

    Returns
    -------
    logits : ndarray of shape (max_epochs + 1, n_held, n_classes), float32
        Answers to the rows of the folds, one fold after the other.
    """
    before = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    answers = []
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
            if with_head:
                start, _ = start_head(model, [texts[i] for i in rest], train, recipe, rng)
                shrink = start.shrink
            first = run(
                model, unseen.texts, recipe.padding, recipe.device, precision=recipe.precision
            )
            collect = _Collect(first / np.float32(shrink), bar)
            # As many steps in an epoch as all rows make: how sure a model is grows with them.
            size = max(1, round(recipe.batch_size * len(train) / len(data)))
            smaller = replace(recipe, batch_size=size)
            schedule = LinearSchedule(smaller.n_steps(len(train)), recipe.warmup)
            FineTuningNet(model, smaller, rng, [schedule, collect]).train(train, unseen)
            model.eval().load_state_dict(before)
            answers.append(np.stack(collect.logits_))
    return np.concatenate(answers, axis=1)


class _Collect(Callback):
    """Keeps what the rows left out are answered before and after each epoch."""

    def __init__(self, first: np.ndarray, bar: tqdm) -> None:
        self.logits_ = [first]
        self.bar = bar

    def on_epoch_end(self, net: NeuralNet, **_: object) -> None:
        self.logits_.append(net.valid_logits_)
        self.bar.update()
