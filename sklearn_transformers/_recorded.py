"""Training steps on a GPU that Python launches once, and CUDA again and again.

A step of a Transformer is a thousand kernels of some microseconds each, which Python launches more
slowly than a GPU runs them. What is recorded as a CUDA graph is launched as a whole.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch

__all__ = ["Batch", "RecordedSteps", "Steps", "is_recordable", "launcher"]

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
Result = dict[str, torch.Tensor]
Step = Callable[[Batch], Result]
# The graph, the batch that it reads, and what it writes.
Recording = tuple["torch.cuda.CUDAGraph", Batch, Result]

# A recording keeps every decision that Python took. These models take none by chance (dropout
# draws anew, but layers that are skipped at random would stay so) and only one by the tokens: a
# mask that masks nothing is left out, but not while a recording is made.
MODEL_TYPES = {
    "albert",
    "bert",
    "camembert",
    "distilbert",
    "electra",
    "modernbert",
    "roberta",
    "xlm-roberta",
}

# Each shape is run this often as it is before it is recorded. To record it costs as much as its
# recording saves in three (MiniLM) to five steps (BERT-base), and shapes that hardly come again
# would not earn it.
WARM_UP = 4

# Of shapes: a bound on what they take of the GPU's memory.
MOST = 64


def is_recordable(estimator: Any, config: Any, tuning: str, device: str, precision: str) -> bool:
    """Whether each step of the training launches the same kernels as another of its shape.

    What the user has written may decide anew in each step: callbacks, losses, heads, optimisers.
    To look for anomalies, torch makes the host look at each gradient.
    """
    return (
        device.startswith("cuda")
        and precision != "float16"  # whose scale changes from step to step
        and config.model_type in MODEL_TYPES
        and tuning in {"full", "lora", "bias", "prompt"}
        and isinstance(estimator.loss, str)
        and isinstance(estimator.head, str)
        and isinstance(estimator.optimizer, str)  # others may put gradients elsewhere
        and not estimator.callbacks
        and not estimator.compile
        and not estimator.gradient_checkpointing
        and not torch.is_anomaly_enabled()
    )


class Steps:
    """Launches the forward and backward pass of a micro-batch kernel by kernel."""

    def __call__(self, step: Step, batch: Batch) -> Result:
        """What the step gives for the batch."""
        return step(batch)

    def forget(self) -> None:
        """Give back what later steps would have been quicker with."""


class RecordedSteps(Steps):
    """Launches the forward and backward pass as a whole, for shapes that come again and again.

    Gradients must be kept, and set to zero, from step to step: recordings add to the tensors that
    they saw.

    Called with the step, always the same, and a batch on a GPU. The step returns loss and logits
    of the batch, having added to the gradients.
    """

    def __init__(self) -> None:
        self.recordings: dict[torch.Size, Recording] = {}
        self._seen: Counter[torch.Size] = Counter()
        self._most = MOST
        self._pool: Any = None  # recordings are never replayed together, so they share memory

    def __call__(self, step: Step, batch: Batch) -> Result:
        shape = batch[0]["input_ids"].shape
        self._seen[shape] += 1
        wanted = self._seen[shape] > WARM_UP and len(self.recordings) < self._most
        if wanted and shape not in self.recordings:
            try:
                self.recordings[shape] = self._record(step, batch)
            except RuntimeError as error:
                self._give_up(error)
        # Out here no error holds on to what was made for a recording that failed.
        known = self.recordings.get(shape)
        return step(batch) if known is None else _replay(known, batch)

    def _record(self, step: Step, batch: Batch) -> Recording:
        """Let CUDA take down what the step launches; nothing of it is run."""
        inputs, codes = batch
        own = {name: tensor.clone() for name, tensor in inputs.items()}, codes.clone()
        with torch.cuda.device(codes.device):
            before, apart = torch.cuda.current_stream(), _recording_stream(codes.device)
            graph = torch.cuda.CUDAGraph()
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            apart.wait_stream(before)
            with torch.cuda.stream(apart):
                # Other threads may be fitting too: what they do does not concern this one.
                graph.capture_begin(self._pool, capture_error_mode="thread_local")
                try:
                    result = step(own)
                except BaseException:
                    with suppress(RuntimeError):  # which would say only that something failed
                        graph.capture_end()
                    raise
                graph.capture_end()
            before.wait_stream(apart)
        return graph, own, result

    def forget(self) -> None:
        self.recordings.clear()
        self._most = 0

    def _give_up(self, error: RuntimeError) -> None:
        """Go on without recordings: slower, and otherwise the same."""
        self.forget()
        warnings.warn(
            f"Steps could not be recorded as CUDA graphs ({error}). Training goes on without them, "
            "at the speed of Python.",
            stacklevel=2,
        )


@contextmanager
def launcher(*, recorded: bool) -> Iterator[Steps]:
    """What launches the steps of a training; recordings end with it.

    Those of two trainings must not live side by side: they share cuBLAS's workspace.
    """
    steps = RecordedSteps() if recorded else Steps()
    try:
        yield steps
    finally:
        steps.forget()


@cache
def _recording_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the process: cuBLAS keeps a workspace for each stream that it has seen."""
    return torch.cuda.Stream(device)


def _replay(recording: Recording, batch: Batch) -> Result:
    graph, (own_inputs, own_codes), result = recording
    inputs, codes = batch
    for name, tensor in own_inputs.items():
        tensor.copy_(inputs[name])
    own_codes.copy_(codes)
    graph.replay()
    # The next recording may write where this one did.
    return {name: tensor.clone() for name, tensor in result.items()}
