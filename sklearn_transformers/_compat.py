"""The only imports of names that scikit-learn keeps private.

They are what scikit-learn's own estimators are built from and have been stable since 1.3;
should one move, this is the only module to change.
"""

from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval, InvalidParameterError, StrOptions
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import _check_y as check_y

__all__ = [
    "Interval",
    "InvalidParameterError",
    "StrOptions",
    "check_sample_weight",
    "check_y",
    "fit_context",
]
