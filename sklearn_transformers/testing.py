"""scikit-learn's estimator checks for estimators that take texts.

scikit-learn's checks feed estimators tables of numbers and skip estimators that take texts.
Here the tables are turned into texts on their way in, so that every check runs.
"""

from abc import ABCMeta
from collections.abc import Callable
from copyreg import pickle as register_reducer
from functools import cache, wraps
from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import check_estimator

from sklearn_transformers._tables import rows_to_texts, translate

__all__ = ["adapt_text_estimator", "check_text_estimator", "rows_to_texts"]

METHODS = (
    "fit",
    "partial_fit",
    "fit_transform",
    "fit_predict",
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score",
    "score_samples",
    "transform",
)
# What counts as a refusal; scikit-learn's own vectorizers raise the last two.
REFUSALS = (ValueError, TypeError, AttributeError, NotImplementedError)

PIPELINE_CHANGES_STEPS = dict.fromkeys(
    ("check_dont_overwrite_parameters", "check_estimators_overwrite_params"),
    "Pipeline.fit puts fitted steps into its parameter `steps`; scikit-learn excuses it too",
)


class RefusalError(ValueError, TypeError):
    """The estimator refused malformed texts; the message is the one for malformed numbers."""


def check_text_estimator(
    estimator: Any,
    *,
    expected_failed_checks: dict[str, str] | None = None,
    on_skip: str | None = "warn",
    on_fail: str | None = "raise",
    callback: Callable[..., Any] | None = None,
) -> list[dict[str, Any]]:
    """Run all of scikit-learn's checks on an estimator that takes texts.

    ``sklearn.utils.estimator_checks.check_estimator`` runs next to nothing on an estimator
    whose tags say that it takes no two-dimensional arrays. This function runs everything that
    it runs on an estimator of numbers, through the adapter that `adapt_text_estimator`
    describes.

    Parameters
    ----------
    estimator : estimator object
        Takes one text per sample: a TransformerTextClassifier, a Pipeline that begins with a
        ``TfidfVectorizer``, or an estimator of your own.
    expected_failed_checks : dict of str to str, default=None
        Name of a check -> the reason why it fails. For a Pipeline, the two checks that
        scikit-learn excuses it from are added: its `fit` changes its parameter `steps`.
    on_skip : {"warn"} or None, default="warn"
        What to do when a check skips itself.
    on_fail : {"raise", "warn"} or None, default="raise"
        What to do when a check fails that is not expected to fail.
    callback : callable, default=None
        Called with each record as keyword arguments; not together with ``on_fail="raise"``.

    Returns
    -------
    records : list of dict
        One per check, as `check_estimator` returns them: `check_name`, `status` ("passed",
        "failed", "skipped" or "xfail"), `exception`, `estimator`, `expected_to_fail` and
        `expected_to_fail_reason`.

    Raises
    ------
    Exception
        With ``on_fail="raise"``, what the first failing check raised.

    See Also
    --------
    adapt_text_estimator : The adapter alone, for ``parametrize_with_checks``.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_transformers.testing import check_text_estimator
    >>> pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    >>> records = check_text_estimator(pipeline, on_skip=None)
    >>> sum(record["status"] == "passed" for record in records) > 40
    True
    """
    excused = PIPELINE_CHANGES_STEPS if isinstance(estimator, Pipeline) else {}
    records: list[dict[str, Any]] = check_estimator(
        adapt_text_estimator(estimator),
        expected_failed_checks=excused | (expected_failed_checks or {}),
        on_skip=on_skip,
        on_fail=on_fail,
        callback=callback,
    )
    return records


def adapt_text_estimator(estimator: Any) -> Any:
    """Make the twin of a text estimator that takes tables of numbers, for tests.

    The twin's class is a subclass of the estimator's own, so parameters, cloning, pickling and
    attributes are the estimator's. Each method that takes `X` hands something else on to the
    estimator's own method:

    - for a table of finite numbers a text per row, as `rows_to_texts` makes it: a list for a
      list, a Series for a pandas DataFrame, else an array, read-only if the table is;
    - for a row with NaN, NaN in place of the text; for one with infinity, None; for one with
      something that is no number, that thing;
    - for a single row (1-D numbers) a bare str, which is the same slip with texts;
    - for a sparse matrix, a table of complex numbers, a table without columns, and anything
      else, the same object.

    An estimator of texts is right to refuse the malformed ones, but cannot be expected to do so
    in words about numbers. If it raises a ``ValueError``, a ``TypeError``, or, as scikit-learn's
    vectorizers do, an ``AttributeError`` or a ``NotImplementedError``, the twin raises an error
    that adds the words that scikit-learn's checks look for. If the estimator accepts them, so
    does the twin, and the check fails.

    Texts have no columns. Those of the tables are the twin's own affair: it sets
    `n_features_in_` and refuses tables with another number of columns than in `fit`. So
    ``check_n_features_in``, ``check_n_features_in_after_fitting`` and
    ``check_estimators_partial_fit_n_features`` say little about the estimator. All other checks
    are up to it.

    Parameters
    ----------
    estimator : estimator object
        Takes one text per sample. It is not changed; its parameters are shared with the twin.

    Returns
    -------
    twin : estimator object
        For ``check_estimator`` or ``parametrize_with_checks`` of scikit-learn.

    Raises
    ------
    TypeError
        When `estimator` is a class instead of an instance.

    See Also
    --------
    check_text_estimator : Adapts and runs all checks.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import CountVectorizer
    >>> from sklearn.naive_bayes import MultinomialNB
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_transformers.testing import adapt_text_estimator
    >>> twin = adapt_text_estimator(make_pipeline(CountVectorizer(), MultinomialNB()))
    >>> twin.fit([[0.0, 1.0], [2.0, 3.0]], ["low", "high"]).predict([[0.0, 3.0], [0.0, 1.0]])
    array(['high', 'low'], dtype='<U4')
    """
    if isinstance(estimator, type):
        raise TypeError(
            f"estimator is the class {estimator.__name__}; pass an instance: "
            f"{estimator.__name__}()."
        )
    base: Any = type(estimator)
    cls = _adapted_class(base)
    twin = cls.__new__(cls)
    # Not through a constructor or copy, which are among the things to be checked.
    twin.__dict__.update(vars(estimator))
    return twin


class _ThroughTexts:
    """A method of the adapted class: the estimator's own, given texts.

    Looks the method up anew each time, so that it is there exactly when the estimator has it.
    """

    def __init__(self, cls: type, name: str) -> None:
        self.cls = cls
        self.name = name

    def __get__(self, estimator: Any, owner: type) -> Any:
        if estimator is None:
            return getattr(self.cls.__base__, self.name)
        method = getattr(super(self.cls, estimator), self.name)

        @wraps(method)
        def through_texts(X: Any, *args: Any, **kwargs: Any) -> Any:
            texts, n_columns, complaint = translate(X)
            fits = self.name.startswith("fit")
            if n_columns is not None and not fits:
                _check_n_columns(estimator, n_columns)
            try:
                result = method(texts, *args, **kwargs)
            except REFUSALS as error:
                if complaint is None:
                    raise
                raise RefusalError(f"{complaint}. The estimator said: {error}") from error
            if n_columns is not None and (fits or self.name == "partial_fit"):
                estimator.__dict__["_n_columns"] = n_columns
            return result

        return through_texts


def _check_n_columns(estimator: Any, n_columns: int) -> None:
    expected = vars(estimator).get("_n_columns", n_columns)
    if n_columns != expected:
        raise ValueError(
            f"X has {n_columns} features, but {type(estimator).__name__} is expecting "
            f"{expected} features as input."
        )


def _n_features_in(estimator: Any) -> int:
    if "_n_columns" not in vars(estimator):
        raise AttributeError("n_features_in_")
    return int(vars(estimator)["_n_columns"])


class _AdaptedMeta(ABCMeta):
    """Class of the adapted classes: they are made on the fly, so pickle must be told how."""


@cache
def _adapted_class(base: Any) -> Any:
    def tags(self: Any) -> Any:
        tags = super(cls, self).__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = False
        tags.input_tags.string = False
        tags._skip_test = False  # scikit-learn's vectorizers set it, because they take texts
        return tags

    namespace = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__sklearn_tags__": tags,
        "n_features_in_": property(_n_features_in),
    }
    cls: Any = _AdaptedMeta(base.__name__, (base,), namespace)
    for name in METHODS:
        # Only now: what the class body holds, scikit-learn's mixins wrap or replace.
        setattr(cls, name, _ThroughTexts(cls, name))
    return cls


def _reduce_class(cls: Any) -> tuple[Any, ...]:
    return _adapted_class, (cls.__base__,)


register_reducer(_AdaptedMeta, _reduce_class)
