"""scikit-learn's classifiers, with a Transformer fine-tuned inside."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sklearn_transformers._cache import clear_cache, set_cache_size
    from sklearn_transformers._classifier import TransformerTextClassifier
    from sklearn_transformers._onnx_classifier import OnnxTextClassifier
    from sklearn_transformers.exceptions import (
        InvalidTextError,
        PretrainedModelError,
        SavedModelError,
        TextDataWarning,
        TrainingDivergedError,
    )

__version__ = "0.1.0"

_HOME = {
    "TransformerTextClassifier": "sklearn_transformers._classifier",
    "OnnxTextClassifier": "sklearn_transformers._onnx_classifier",
    "InvalidTextError": "sklearn_transformers.exceptions",
    "PretrainedModelError": "sklearn_transformers.exceptions",
    "SavedModelError": "sklearn_transformers.exceptions",
    "TextDataWarning": "sklearn_transformers.exceptions",
    "TrainingDivergedError": "sklearn_transformers.exceptions",
    "clear_cache": "sklearn_transformers._cache",
    "set_cache_size": "sklearn_transformers._cache",
}

__all__ = [
    "InvalidTextError",
    "OnnxTextClassifier",
    "PretrainedModelError",
    "SavedModelError",
    "TextDataWarning",
    "TrainingDivergedError",
    "TransformerTextClassifier",
    "__version__",
    "clear_cache",
    "set_cache_size",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
