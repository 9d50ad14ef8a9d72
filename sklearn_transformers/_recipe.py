"""The recipe of a training, and what "auto" becomes for the size of the model and of the data."""

from dataclasses import dataclass

from sklearn_transformers._batching import Padding

__all__ = [
    "Recipe",
    "auto_batch_size",
    "auto_epochs",
    "auto_head_learning_rate",
    "auto_learning_rate",
    "holds_out",
]

# Found by benchmarks/bench_recipe.py; docs/accuracy.md has the figures.
RATE_AT_WIDTH_384, HIGHEST_RATE = 2e-4, 5e-4
HEAD_RATIO = 10.0
STEPS_IN_AN_EPOCH = 40
SMALLEST_BATCH, LARGEST_BATCH = 8, 32
FEWEST_STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 200, 3, 10
FEWEST_TO_JUDGE_BY = 30


@dataclass(frozen=True)
class Recipe:
    """Everything the loop needs to know beside the model and the data, with no "auto" left."""

    learning_rate: float
    head_learning_rate: float
    layer_decay: float
    weight_decay: float
    label_smoothing: float
    max_grad_norm: float | None
    batch_size: int
    max_epochs: int
    calibrate: bool
    device: str
    precision: str
    padding: Padding


def auto_learning_rate(width: int) -> float:
    """The backbone's peak learning rate: 2e-4 at a width of 384, falling with its square.

    5e-5 for BERT-base (768), 2.8e-5 for BERT-large (1024), never above 5e-4.
    """
    return float(min(HIGHEST_RATE, RATE_AT_WIDTH_384 * (384 / width) ** 2))


def auto_head_learning_rate(learning_rate: float) -> float:
    """The head's peak learning rate.

    It has few weights and no layer to disturb. The idea of separate rates is Howard & Ruder
    (2018), ULMFiT.
    """
    return HEAD_RATIO * learning_rate


def auto_batch_size(n_rows: int) -> int:
    """A power of two that gives an epoch about forty steps: 8 for few rows, 32 for many."""
    size = SMALLEST_BATCH
    while size < LARGEST_BATCH and n_rows / (2 * size) >= STEPS_IN_AN_EPOCH:
        size *= 2
    return size


def auto_epochs(n_rows: int, batch_size: int) -> int:
    """Enough epochs for some hundred steps: ten for few rows, three for many."""
    n_steps = -(-n_rows // batch_size)
    return min(MOST_EPOCHS, max(FEWEST_EPOCHS, -(-FEWEST_STEPS // n_steps)))


def holds_out(n_rows: int, validation_fraction: float) -> bool:
    """Whether the rows held out would be enough to tell a good epoch from a lucky one."""
    return n_rows * validation_fraction >= FEWEST_TO_JUDGE_BY
