"""The only imports of names that scikit-learn keeps private, or that not every version has.

The private ones are what scikit-learn's own estimators are built from and have been stable
since 1.3; should one move, this is the only module to change.
"""

from importlib import import_module
from typing import Any

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _check_y as check_y


def import_optional(module: str, wanted_by: str, extra: str) -> Any:
    """Import a package that only one feature needs.

    Raises
    ------
    ImportError
        In one line, with the extra that brings it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{wanted_by} needs {module}: pip install 'sklearn-transformers[{extra}]'."
        ) from error


try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn < 1.9 has no callbacks

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nobody can have set a callback."""


class FitTask:
    """A `fit`, or an epoch of one, as scikit-learn's own callbacks are told of it.

    Nothing happens where none is set. `fit_context` tidies up after them.

    Parameters
    ----------
    context : sklearn.callback.CallbackContext or None
    arguments : dict
        What the callbacks are passed: `estimator`, `X`, `y` and `metadata`.
    """

    def __init__(self, context: Any, arguments: dict[str, Any]) -> None:
        self.context = context
        self.arguments = arguments

    @classmethod
    def of_fit(
        cls, estimator: Any, X: Any, y: Any, sample_weight: Any, n_epochs: int | None
    ) -> "FitTask":
        """Begin a whole `fit`."""
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        has_callbacks = hasattr(estimator, "_skl_callbacks")
        context = estimator._init_callback_context(max_subtasks=n_epochs) if has_callbacks else None
        return cls(context, arguments)._begin()

    def epoch(self) -> "FitTask":
        """Begin the next epoch."""
        context = None if self.context is None else self.context.subcontext(task_name="epoch")
        return FitTask(context, self.arguments)._begin()

    def _begin(self) -> "FitTask":
        if self.context is not None:
            self.context.call_on_fit_task_begin(**self.arguments)
        return self

    def end(self, fitted: dict[str, Any]) -> bool:
        """Whether a callback wants training to stop; `fitted` makes the estimator answer."""
        return self.context is not None and self.context.call_on_fit_task_end(
            **self.arguments, reconstruction_attributes=fitted
        )


__all__ = [
    "CallbackSupportMixin",
    "FitTask",
    "Interval",
    "InvalidParameterError",
    "StrOptions",
    "check_sample_weight",
    "check_y",
    "fit_context",
    "import_optional",
    "validate_parameter_constraints",
]
