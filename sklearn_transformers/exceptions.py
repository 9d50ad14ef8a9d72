"""Errors and warnings of the package beside scikit-learn's own."""

__all__ = [
    "InvalidTextError",
    "PretrainedModelError",
    "SavedModelError",
    "TextDataWarning",
    "TrainingDivergedError",
]


class InvalidTextError(ValueError, TypeError):
    """`X` or `X_val` cannot be read as one text per sample.

    Both a ``ValueError`` and a ``TypeError``, like scikit-learn's own error for bad
    parameters, so that either ``except`` clause catches it.
    """


class PretrainedModelError(OSError):
    """A pretrained model could not be found, read, or is not the expected one."""


class SavedModelError(OSError):
    """A saved classifier is damaged, of a newer format, or not what it claims to be."""


class TrainingDivergedError(ArithmeticError):
    """A loss, its gradient or the model's answers became infinite or not a number in training."""


class TextDataWarning(UserWarning):
    """Something about the texts or labels keeps any model from learning what it could."""
