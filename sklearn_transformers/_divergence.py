"""What is said where the numbers of a training are no longer finite."""

import math

from sklearn_transformers._recipe import Recipe
from sklearn_transformers.exceptions import TrainingDivergedError

__all__ = ["check_finite", "diverged_in_step"]


def check_finite(what: str, value: float, epoch: int, recipe: Recipe) -> None:
    """Raise unless what was measured after an epoch is a finite number.

    Raises
    ------
    TrainingDivergedError
    """
    if not math.isfinite(value):
        raise TrainingDivergedError(
            f"The {what} is {value} in epoch {epoch} (learning_rate={recipe.learning_rate:.3g}, "
            f"precision={recipe.precision!r}). Lower learning_rate, raise warmup, or train with "
            "precision='float32'."
        )


def diverged_in_step(where: str, rate: float, recipe: Recipe) -> TrainingDivergedError:
    """The error for a step that float32 could not make either.

    Parameters
    ----------
    where : str
        Which step of which epoch.
    rate : float
        The backbone's learning rate at that step.
    recipe : Recipe
    """
    tried = "" if recipe.precision == "float32" else ", nor is it when the step is made in float32"
    return TrainingDivergedError(
        f"The loss or its gradient is not finite in {where}, at a learning rate of {rate:.3g} "
        f"(peak learning_rate={recipe.learning_rate:.3g}, precision={recipe.precision!r}){tried}. "
        "Lower learning_rate, raise warmup, or take another model."
    )
