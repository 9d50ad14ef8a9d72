"""`OnnxTextClassifier`: answers as the classifier that was exported, without torch."""

import os
import warnings
from numbers import Integral
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from sklearn_transformers._batching import Budget, Padding, pad, sorted_batches
from sklearn_transformers._compat import import_optional
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._folder import damage_named, read_folder
from sklearn_transformers._onnx_session import INPUTS, check_signature, new_session
from sklearn_transformers._onnx_tokens import CoreTokenizer, id_lists
from sklearn_transformers._probes import check_probes
from sklearn_transformers._targets import ClassCodec, check_finite
from sklearn_transformers._validation import check_texts
from sklearn_transformers.exceptions import SavedModelError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["OnnxTextClassifier"]

# Texts that are tokenised and sorted by length together: their tokens are small beside a model.
CHUNK = 2**16
_LEFT_BEHIND: list["InferenceSession"] = []


class OnnxTextClassifier(ClassifierMixin, BaseEstimator):
    """Text classifier for serving: exported from a fitted one, and answering without torch.

    `TransformerTextClassifier.export_onnx` writes the folder that `load` reads; the constructor
    reads nothing. Predictions run on the CPU in onnxruntime; neither torch nor transformers is
    loaded. The classifier cannot be trained and has no `transform`. It may be used by several
    threads at once, pickled with all that it needs, and used in forked processes.

    Parameters
    ----------
    path : str or path-like
        The folder.
    n_threads : int, default=None
        Threads that a prediction uses for the model. None takes one for each physical core.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; of the types that they had in training.

    See Also
    --------
    TransformerTextClassifier : Trains the model.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from sklearn_transformers import OnnxTextClassifier, TransformerTextClassifier
    >>> texts = ["good", "great", "fine", "bad", "awful", "poor"] * 4
    >>> labels = ["yes", "yes", "yes", "no", "no", "no"] * 4
    >>> clf = TransformerTextClassifier(tuning="head", random_state=0).fit(texts, labels)
    >>> with TemporaryDirectory() as folder:
    ...     clf.export_onnx(folder)
    ...     served = OnnxTextClassifier.load(folder)
    >>> served.predict(["great", "awful"])
    array(['yes', 'no'], dtype='<U3')
    """

    def __init__(self, path: str | os.PathLike[str], *, n_threads: int | None = None) -> None:
        self.path = path
        self.n_threads = n_threads

    @classmethod
    def load(cls, path: str | os.PathLike[str], n_threads: int | None = None) -> Self:
        """Read a folder that `export_onnx` wrote.

        Nothing in the folder is run but the model's own arithmetic, and its files have to be
        those that were written.

        Parameters
        ----------
        path : str or path-like
            The folder.
        n_threads : int, default=None
            Threads that a prediction uses for the model. None takes one for each physical core.

        Returns
        -------
        classifier : OnnxTextClassifier
            Ready to predict; the folder is not needed any longer.

        Raises
        ------
        SavedModelError
            When there is no such folder, or anything is wrong with it.
        ImportError
            When onnxruntime or tokenizers is not installed.
        ValueError
            When `n_threads` is no number of threads.

        Warns
        -----
        UserWarning
            When the installed version of tokenizers splits texts otherwise than the one with
            which the model was exported.
        """
        if n_threads is not None and (not isinstance(n_threads, Integral) or n_threads < 1):
            raise ValueError(
                f"n_threads must be an int in the range [1, inf) or None. Got {n_threads!r}."
            )
        import_optional("onnxruntime", "OnnxTextClassifier", "onnx")
        import_optional("tokenizers", "OnnxTextClassifier", "onnx")
        self = cls(path, n_threads=n_threads)
        self._content = read_folder(path, "onnx")
        with damage_named(f"{path} is damaged:"):
            self._open()
            logits = self._logits(list(self._content[0]["golden_ids"]))
        if not np.isfinite(logits).all():
            raise SavedModelError(f"{path} is damaged: its model answers with NaN or infinity.")
        return self

    def fit(self, X: Any, y: Any = None) -> Self:
        """Refuse to train: an exported model only answers.

        Parameters
        ----------
        X : object
            Not looked at.
        y : object, default=None
            Not looked at.

        Returns
        -------
        self : OnnxTextClassifier
            Never.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "An exported model cannot be trained: fit a TransformerTextClassifier and export it "
            "anew. To let it stand as it is in something that calls fit, wrap it in "
            "sklearn.frozen.FrozenEstimator."
        )

    def predict(self, X: Any) -> np.ndarray:
        """Predict the label of each text.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The most probable class of each text.

        Raises
        ------
        InvalidTextError
            When `X` holds anything but texts.
        FloatingPointError
            When an answer is infinite or not a number.
        """
        logits = self._answers(X)
        return np.asarray(self.classes_[logits.argmax(axis=1)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict the probability of each class.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        probabilities : ndarray of shape (n_samples, n_classes), float64
            Columns in the order of `classes_`; rows sum to 1.
        """
        return ClassCodec.probabilities(self._answers(X), self._temperature)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        log_probabilities : ndarray of shape (n_samples, n_classes), float64
            Columns in the order of `classes_`; finite even where the probability is 0.
        """
        return ClassCodec.log_probabilities(self._answers(X), self._temperature)

    def decision_function(self, X: Any) -> np.ndarray:
        """Compute the confidence in each class.

        Parameters
        ----------
        X : sequence of str, or array-like of shape (n_samples,) or (n_samples, 1)
            One text per sample.

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes), float64
            For two classes the log-odds of ``classes_[1]``, positive where it is predicted;
            otherwise the logits, unnormalised; both after division by the temperature.
        """
        return ClassCodec.decisions(self._answers(X), self._temperature)

    def _answers(self, X: Any) -> np.ndarray:
        """Logits of shape (n_samples, n_classes), float32."""
        check_is_fitted(self, msg="Get one that is ready from %(name)s.load(path).")
        logits = self._logits(check_texts(X))
        check_finite(logits, "float32")
        return logits

    def _open(self) -> None:
        """Make everything that answers from the folder's content."""
        record, files = self._content
        self.classes_ = ClassCodec.from_record(**record["classes"]).classes
        self._temperature = float(record["temperature"])
        self._padding = Padding(**record["padding"])
        core, settings = files["tokenizer.json"].decode(), record["tokenizer"]
        self._tokenizer = CoreTokenizer(core, self._padding.cut, **settings)
        self._renew_session()
        check_signature(self._session, len(self.classes_))
        if not (np.isfinite(self._temperature) and self._temperature > 0):
            raise ValueError(f"temperature {self._temperature}")
        golden = record["golden_ids"]
        check_probes(golden)
        if id_lists(self._tokenizer.encode(list(golden))) != list(golden.values()):
            warnings.warn(
                "The installed version of tokenizers splits texts otherwise than "
                f"{record['versions']['tokenizers']}, with which this model was exported: "
                "predictions may differ. Install that version, or export the model anew.",
                stacklevel=3,
            )

    def _renew_session(self) -> None:
        how = os.getpid(), self.n_threads
        self._session = new_session(self._content[1]["model.onnx"], how[1])
        self._made_for = how  # last: until then, other threads make one of their own

    def _present_session(self) -> "InferenceSession":
        """The session, or a new one: for other `n_threads`, or in a fork, which has no threads."""
        process, n_threads = self._made_for
        if process != os.getpid():
            # To destroy the parent's would be to wait for its threads.
            _LEFT_BEHIND.append(self._session)
        if (process, n_threads) != (os.getpid(), self.n_threads):
            self._renew_session()
        return self._session

    def _logits(self, texts: list[str]) -> np.ndarray:
        """Logits of shape (n_texts, n_classes), float32, in the order of `texts`."""
        chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
        return np.concatenate([self._read(self._tokenizer.encode(chunk)) for chunk in chunks])

    def _read(self, texts: EncodedTexts) -> np.ndarray:
        """The logits of some texts; equal ones are computed once."""
        rows, twins = texts.distinct()
        session = self._present_session()
        logits = np.empty((len(texts), len(self.classes_)), np.float32)
        how = self._padding, Budget.on("cpu")
        for batch in sorted_batches(texts.lengths, rows, *how):
            inputs = dict(zip(INPUTS, pad(texts, batch, *how), strict=True))
            (logits[batch],) = session.run(None, inputs)
        return logits[rows[twins]]

    def __sklearn_is_fitted__(self) -> bool:
        return "classes_" in self.__dict__

    def __sklearn_clone__(self) -> Self:
        """Itself: there is nothing that training could change."""
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "n_threads", "_content", "_sklearn_version")
        return {name: value for name, value in super().__getstate__().items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_content" in state:
            self._open()
