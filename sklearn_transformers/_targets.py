"""Labels <-> codes, and logits -> answers."""

from collections.abc import Iterator, Mapping, Set, Sized
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from sklearn_transformers._compat import check_y
from sklearn_transformers._validation import is_missing, renamed, shown

__all__ = ["ClassCodec", "check_finite"]

# Kind of dtype -> what JSON has for such labels.
PLAIN_LABELS: dict[str, Any] = {
    "b": bool,
    "i": int,
    "u": int,
    "f": float,
    "U": str,
    "T": str,
    "O": str | int | float,
}


class ClassCodec:
    """One label per text, out of a fixed set of classes.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The labels, sorted, as scikit-learn's `classes_`.
    """

    def __init__(self, classes: np.ndarray) -> None:
        self.classes = classes

    @staticmethod
    def read(y: Any, *, name: str = "y") -> np.ndarray:
        """Check labels as `LogisticRegression` does and return them as 1-D array."""
        if y is None:
            raise ValueError(
                f"TransformerTextClassifier requires {name} to be passed, but the target {name} "
                "is None."
            )
        if np.ma.is_masked(y):
            raise ValueError(f"{name} is masked in part. Drop rows without a label first.")
        if isinstance(y, str | bytes | Set | Mapping | Iterator):
            raise ValueError(f"{name} should be a 1d array, or a list of labels. Got {shown(y)}.")
        if getattr(getattr(y, "dtype", None), "kind", None) == "T":
            y = np.asarray(y).astype(object)  # which scikit-learn knows
        if isinstance(y, list | tuple):
            # Members of an Enum that are strings: NumPy would take their names, and cut them.
            y = [str.__str__(label) if isinstance(label, str) else label for label in y]
        given = np.asarray(y, dtype=object)
        if given.size == 0:
            raise ValueError(f"{name} is empty (shape={given.shape}): at least 1 label is needed.")
        if given.ndim == 1:
            _check_each(given.tolist(), name)
        try:
            labels = np.asarray(check_y(y))
            # Each twice: where labels hardly repeat, scikit-learn warns that they could be numbers.
            check_classification_targets(np.repeat(labels, 2))
        except (TypeError, ValueError) as error:
            # scikit-learn would speak of regression.
            if "Unknown label type: unknown" in str(error):
                raise ValueError(_of_no_type(given.ravel()[0], name)) from error
            raise renamed(error, r"\by\b", name) from error
        return labels

    @classmethod
    def learn(cls, y: Any, *, name: str = "y") -> "ClassCodec":
        """Read the classes off the labels `y`.

        Raises
        ------
        ValueError
            For labels that are missing, continuous, or of fewer than two classes.
        """
        classes = np.unique(cls.read(y, name=name))
        if len(classes) < 2:
            raise ValueError(
                "TransformerTextClassifier needs samples of at least 2 classes in the data, but "
                f"the data contains only one class: {classes.tolist()[0]!r}."
            )
        return cls(classes)

    @classmethod
    def from_record(cls, dtype: str, labels: list[Any]) -> "ClassCodec":
        """The codec that `record` described, be the record from whom it may.

        Raises
        ------
        ValueError
            When no classifier could have had these labels.
        """
        kind = PLAIN_LABELS.get(np.dtype(dtype).kind)
        if kind is None or not all(isinstance(label, kind) for label in labels):
            raise ValueError(f"labels {labels} are not of dtype {dtype!r}")
        # The longest label says how long they are: what the record says could ask for any memory.
        classes = np.array(labels, "U" if kind is str and dtype != "T" else dtype)
        if classes.shape != (len(labels),) or len(set(labels)) < max(2, len(labels)):
            raise ValueError(f"labels {labels} are not two or more different ones")
        return cls(classes)

    def record(self) -> dict[str, Any]:
        """The classes as JSON can hold them.

        Raises
        ------
        ValueError
            When it cannot.
        """
        labels = self.classes.tolist()
        for label in labels:
            if type(label) not in (str, int, float, bool):
                raise ValueError(
                    "Labels must be str, int, float or bool to be kept outside a pickle. Got "
                    f"{label!r} of type {type(label).__name__}."
                )
        dtype = self.classes.dtype
        return {"dtype": "T" if dtype.kind == "T" else dtype.str, "labels": labels}

    def extended(self, classes: Any) -> "ClassCodec":
        """The codec of these classes and new ones.

        Raises
        ------
        ValueError
            When one is known already, or is no label of the same kind.
        """
        new = np.unique(self.read(classes, name="classes"))
        known = sorted(set(new.tolist()) & set(self.classes.tolist()), key=repr)
        if known:
            raise ValueError(f"The classes {known} are known already: {self.classes.tolist()}.")
        alike = {"T": "U", "O": "U", "u": "i"}  # texts of any dtype, integers of any sign
        kinds = {alike.get(c.dtype.kind, c.dtype.kind) for c in (new, self.classes)}
        if len(kinds) > 1:
            raise ValueError(
                f"New classes must be of the same kind as {self.classes.tolist()}. Got "
                f"{new.tolist()} instead."
            )
        return ClassCodec(np.unique(np.concatenate([self.classes, new])))

    def encode(self, y: Any, *, name: str = "y") -> np.ndarray:
        """Labels -> codes of shape (n_samples,), int64.

        Raises
        ------
        ValueError
            When `y` holds a label that is not among the classes.
        """
        code_of = {label: code for code, label in enumerate(self.classes.tolist())}
        labels = self.read(y, name=name).tolist()
        unknown = sorted({label for label in labels if label not in code_of}, key=repr)
        if unknown:
            raise ValueError(
                f"The target label(s) {unknown} in {name} do not exist in the initial classes "
                f"{self.classes.tolist()}."
            )
        return np.array([code_of[label] for label in labels], np.int64)

    def class_weights(
        self, class_weight: Any, codes: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Weight of each class, shape (n_classes,), float64.

        "balanced" counts the rows by their sample weight, so that a row of weight 2 equals
        the row given twice.
        """
        if class_weight == "balanced":
            mass = np.bincount(codes, weights / weights.max(), minlength=len(self.classes))
            present = mass > 0
            share = mass * present.sum() / mass.sum()
            return np.divide(1.0, share, out=np.zeros_like(share), where=present)
        try:
            given = compute_class_weight(class_weight, classes=self.classes, y=self.classes)
        except (TypeError, ValueError) as error:
            raise ValueError(f"class_weight={class_weight!r} cannot be used: {error}") from error
        if not np.isfinite(given).all() or (given < 0).any():
            raise ValueError(
                f"class_weight must be finite and not negative. Got {class_weight!r} instead."
            )
        return np.asarray(given)

    @staticmethod
    def scores(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Logits, made milder or bolder, of shape (n_samples, n_classes), float64.

        Divided in float64, different logits stay different: labels never change.
        """
        return np.asarray(logits.astype(np.float64) / temperature)

    @classmethod
    def decisions(cls, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Logits -> what `decision_function` gives, float64: of two classes the difference."""
        scores = cls.scores(logits, temperature)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    @classmethod
    def log_probabilities(cls, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Logits -> log-probabilities of shape (n_samples, n_classes), float64."""
        scores = cls.scores(logits, temperature)
        shifted = scores - scores.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    @classmethod
    def probabilities(cls, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
        """Logits -> probabilities of shape (n_samples, n_classes), float64, rows sum to 1."""
        unnormalised = np.exp(cls.log_probabilities(logits, temperature))
        return np.asarray(unnormalised / unnormalised.sum(axis=1, keepdims=True))


def check_finite(outputs: np.ndarray, precision: str) -> None:
    """Refuse answers that are infinite or not a number: no label or probability follows from them.

    Raises
    ------
    FloatingPointError
        With the first row and the way out.
    """
    finite = np.isfinite(outputs).all(axis=1)
    if not finite.all():
        remedy = "Its weights are damaged or too large: fit it again, with a lower learning_rate."
        if precision != "float32":
            remedy = f"{precision} may be too coarse for it: set predict_precision='float32'."
        raise FloatingPointError(
            f"The model's answer to X[{finite.argmin()}] is infinite or not a number. {remedy}"
        )


def _of_no_type(first: Any, name: str) -> str:
    """What is to be said of labels whose type nothing tells but themselves."""
    known = f", as by {name}.astype({type(first).__name__})" if isinstance(first, Real) else ""
    return (
        f"Unknown label type: {name} holds {shown(first)} in an array for objects of any type. "
        "Labels are str, int, bool or float with integer values: convert them to an array of one "
        f"of these first{known}."
    )


def _check_each(labels: list[Any], name: str) -> None:
    """Refuse by row what is no label, or another kind of label than the first."""
    for row, label in enumerate(labels):
        if is_missing(label):
            raise ValueError(
                f"Input {name} contains NaN or None: {name}[{row}] is {label!r}. "
                "Drop rows without a label first."
            )
        if isinstance(label, Sized) and not isinstance(label, str | bytes):
            raise ValueError(
                f"{name}[{row}] is {label!r} of type {type(label).__name__}; every text has one "
                "label, a str or a number. For several labels a text see "
                "sklearn.multioutput.MultiOutputClassifier."
            )
        if isinstance(label, str) != isinstance(labels[0], str):
            raise ValueError(
                f"{name} mixes str and others: {name}[0] is {labels[0]!r}, {name}[{row}] is "
                f"{label!r}. Give all labels the same type."
            )
