"""Rows that are held out to judge epochs by: given ones, a part, or in folds each row once."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sklearn_transformers._calibration import (
    calibration_error,
    cross_entropies,
    fit_temperature,
    mean_and_error,
    shares_of_say,
)
from sklearn_transformers._data import LabelledTexts, Rows, split_rows
from sklearn_transformers._diagnosis import (
    warn_of_known_rows,
    warn_of_rare_classes,
    warn_of_useless_fit,
)
from sklearn_transformers._judge import Judge
from sklearn_transformers._recipe import FEW_ROWS, FOLDS, are_few
from sklearn_transformers._split import stratified_folds
from sklearn_transformers._stopping import KeepBest, TrainOrNot
from sklearn_transformers._targets import ClassCodec
from sklearn_transformers.exceptions import TrainingDivergedError

__all__ = ["HeldOut", "choose_rows", "first_report"]

# How much a bag of words may count beside the Transformer, whose logits count once.
TIMES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6)

# What a tenth of it must take from the loss at least: who answers all rows well needs none.
LEAST_GAIN = 1e-3


class HeldOut:
    """Held-out rows and what is thought of the answers to them.

    Parameters
    ----------
    rows : Rows
    judge : Judge
        Made for these rows.
    folds : list of ndarray
        Where each is held out from a training of its own: their numbers among the training
        rows, as they follow each other in `rows`. Empty where they are held out from all.
    calibrate : bool
        Whether answers are judged by the probabilities that they would be calibrated to.
    """

    def __init__(self, rows: Rows, judge: Judge, folds: list[np.ndarray], calibrate: bool) -> None:
        self.rows = rows
        self.judge = judge
        self.folds = folds
        self.calibrate = calibrate
        self.data: LabelledTexts

    def measure(self, logits: np.ndarray) -> tuple[float, float]:
        """Mean cross-entropy of the answers, and the temperature that they are divided by."""
        losses, weights, temperature = self._losses(logits)
        return float(np.average(losses, weights=weights)), temperature

    def _losses(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Loss and weight of each distinct row, and the temperature of all answers."""
        logits, codes, weights = self._distinct(logits)
        temperature = fit_temperature(logits, codes, weights) if self.calibrate else 1.0
        if not _of_several_classes(codes, weights):
            temperature = max(1.0, temperature)  # they know nothing of the others' being rarer
        return cross_entropies(logits, codes, temperature), weights, temperature

    def _distinct(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Answers, codes and weights, each row once: its copies tell nothing more, but weigh."""
        firsts = np.unique(self.data.copies, return_index=True)[1]
        weights = np.bincount(self.data.copies, self.data.weights)
        return logits[firsts], self.data.codes[firsts], weights

    def checks(
        self, answers: Iterable[np.ndarray], fitted: dict[str, Any]
    ) -> list[dict[str, float]]:
        """What the history says of answers; scorers see the attributes `fitted`."""
        self.judge.meet(fitted)
        found = []
        moments = ("before training", "after the training of the cross-validation")
        for moment, logits in zip(moments, answers, strict=False):
            loss, temperature = self.measure(logits)
            if not np.isfinite(loss):
                raise TrainingDivergedError(
                    f"The validation loss is {loss} {moment}, because the model gives answers "
                    "that are not finite. Try precision='float32', a lower learning_rate, or "
                    "another model."
                )
            score = self.judge.score(logits, loss, temperature)
            found.append({"valid_loss": loss, "valid_score": score, "temperature": temperature})
        return found

    def stopper(
        self, estimator: Any, answers: np.ndarray, checks: list[dict[str, float]]
    ) -> KeepBest | TrainOrNot | None:
        """What ends training: its best epoch, or that it is known to be no use.

        Parameters
        ----------
        estimator : TransformerTextClassifier
        answers : ndarray of shape (n_known, n_held, n_classes)
            To these rows before the first epoch and, where that is known, after the last.
        checks : list of dict
            What is thought of these.
        """
        if not estimator.early_stopping:
            return None
        scores = [check["valid_score"] for check in checks]
        if not self.folds:
            patience, tol = estimator.n_iter_no_change, estimator.tol
            return KeepBest(patience, tol, scores[0], answers[0], self.clearly_better)
        worse = scores[0] > scores[1] and self.clearly_better(answers[0], answers[1])
        return TrainOrNot(not worse, answers, checks[1]["temperature"])

    def clearly_better(self, logits: np.ndarray, others: np.ndarray) -> bool:
        """Whether the loss of some answers is lower by more than the difference's standard error.

        The one-standard-error rule of Breiman et al. (1984), "Classification and Regression
        Trees". Scorers other than the loss are taken at their word.
        """
        if self.judge.scoring != "loss":
            return True
        ours, weights, _ = self._losses(logits)
        theirs, _, _ = self._losses(others)
        gain, error = mean_and_error(theirs - ours, weights)
        return gain > error

    def weight_beside(self, logits: np.ndarray, others: np.ndarray) -> float:
        """How many times other logits are to be added: not at all unless a little of them helps.

        That is, lowers the loss by more than its standard error, on rows of several classes. Then
        each of `TIMES` has a say, as much as it makes the labels likely, and the mean is taken;
        Hoeting et al. (1999), "Bayesian Model Averaging: A Tutorial", Statistical Science 14.
        """
        _, codes, weights = self._distinct(logits)
        if not _of_several_classes(codes, weights):
            return 0.0
        sums = (logits + np.float32(times) * others for times in TIMES)
        losses = [self._losses(answers)[0] for answers in sums]
        gain, error = mean_and_error(losses[0] - losses[1], weights)
        if gain <= max(error, LEAST_GAIN):
            return 0.0
        return float(shares_of_say(losses, weights) @ TIMES)

    def conclude(self, fitted: dict[str, Any], logits: np.ndarray, train: LabelledTexts) -> None:
        """Have the attributes tell of the final answers, which may be more than the Transformer's.

        Parameters
        ----------
        fitted : dict
            The fitted attributes.
        logits : ndarray of shape (n_held, n_classes)
        train : LabelledTexts
            Without these rows, or with them where they are held out in folds.
        """
        loss, fitted["temperature_"] = self.measure(logits)
        if fitted["bag_of_words_weight_"]:
            self.judge.meet(fitted)
            fitted["best_score_"] = self.judge.score(logits, loss, fitted["temperature_"])
        fitted["_report"] |= self._look_at_result(logits, fitted["temperature_"], train)

    def _look_at_result(
        self, logits: np.ndarray, temperature: float, train: LabelledTexts
    ) -> dict[str, float | bool]:
        """Figures of the final answers; warn when they are no better than each class's share."""
        logits, codes, weights = self._distinct(logits)
        probabilities = ClassCodec.probabilities(logits, temperature)
        # Without those of the classes; of the largest, so that their sum stays finite.
        of_rows = np.bincount(self.data.copies, self.rows.weights / self.rows.weights.max())
        calibrated = temperature if self.calibrate else fit_temperature(logits, codes, weights)
        # One row more for each class: one that no training row has is unlikely, not impossible.
        mass = np.bincount(train.codes, train.weights, minlength=logits.shape[1]) + 1
        warn_of_useless_fit(
            cross_entropies(logits, codes, calibrated),
            -np.log(mass / mass.sum())[codes],
            weights,
            in_folds=bool(self.folds),
        )
        return {
            "accuracy": float(np.average(logits.argmax(axis=1) == codes, weights=of_rows)),
            "log_loss": float(
                np.average(cross_entropies(logits, codes, temperature), weights=of_rows)
            ),
            "calibration_error": calibration_error(probabilities, codes, of_rows),
            "calibrated": self.calibrate,
        }


def _of_several_classes(codes: np.ndarray, weights: np.ndarray) -> bool:
    return len(np.unique(codes[weights > 0])) > 1


def choose_rows(
    estimator: Any,
    rows: Rows,
    valid: Rows | None,
    classes: np.ndarray,
    rng: np.random.Generator,
    *,
    weigh_scores: bool,
    proceed: bool,
    looked_at: bool,
    known: Sequence[str] = (),
) -> tuple[Rows, HeldOut | None]:
    """Rows to train on and rows to judge by.

    Parameters
    ----------
    estimator : TransformerTextClassifier
        Its `early_stopping` and `validation_fraction` decide.
    rows : Rows
        All that could be trained on.
    valid : Rows or None
        Those that the user gave.
    classes : ndarray of shape (n_classes,)
    rng : numpy.random.Generator
    weigh_scores : bool
        Whether scorers get the weights of the rows.
    proceed : bool
        Whether training goes on from a model that may know the rows already.
    looked_at : bool
        Whether callbacks, or a schedule, want to see the scores of the training itself.
    known : sequence of str, default=()
        Digests of rows that earlier fits trained on, all of them.
    """
    train, folds = rows, []
    early_stopping, fraction = estimator.early_stopping, estimator.validation_fraction
    distinct = rows.distinct()
    knows_all = valid is None and bool(known) and rows.digest in known
    if valid is None and early_stopping == "auto":
        few = are_few(distinct.codes, len(classes)) and fraction > 0
        if few and not (proceed or looked_at or _may_ask_the_model(estimator.scoring)):
            folds = stratified_folds(rows.codes, FOLDS, rng, rows.copies)
        none_to_spare = knows_all or (proceed and len(distinct) < FEW_ROWS)
        early_stopping = fraction > 0 and not folds and not none_to_spare
    if valid is None and (early_stopping or folds):
        if folds:
            valid = rows.take(np.concatenate(folds))
        else:
            train, valid = split_rows(rows, fraction, rng)
            if knows_all and valid is not None:
                warn_of_known_rows(len(rows))
        warn_of_rare_classes(distinct.codes, classes, valid is None)
    if valid is None:
        return train, None
    weights = valid.weights if weigh_scores else None
    judge = Judge(estimator, classes, valid.texts, classes[valid.codes], weights)
    return train, HeldOut(valid, judge, folds, bool(estimator.calibrate))


def first_report(
    rows: Rows, train: Rows, held: HeldOut | None, past: dict[str, Any], one_epoch: bool
) -> dict[str, Any]:
    """What is to be remembered of the rows, before anything is known of the answers."""
    known = list(past["known"])
    if not one_epoch and len(train) == len(rows) and rows.digest not in known:
        known.append(rows.digest)
    return past | {
        "n_train": len(train),
        "n_held_out": 0 if held is None else len(held.rows),
        "n_folds": 0 if held is None else len(held.folds),
        "known": known,
    }


def _may_ask_the_model(scoring: Any) -> bool:
    """Whether a scorer is a function of the user's, which may look at anything.

    Those of scikit-learn need the answers only. In a cross-validation there is no one model.
    """
    return callable(scoring) and not hasattr(scoring, "_score_func")
