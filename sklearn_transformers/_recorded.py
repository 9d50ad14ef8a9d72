"""Training steps on a GPU that Python launches once, and CUDA again and again.

A step of a Transformer is a thousand kernels of some microseconds each, which Python launches more
slowly than a GPU runs them. What is recorded as a CUDA graph is launched as a whole.
"""

import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

__all__ = ["Batch", "RecordedSteps", "as_it_is", "is_recordable"]

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
Result = dict[str, torch.Tensor]
Step = Callable[[Batch], Result]
# The graph, the batch that it reads, and what it writes.
Recording = tuple["torch.cuda.CUDAGraph", Batch, Result]

# A recording keeps every decision that Python took. These models take none that depends on the
# tokens or on chance: dropout draws anew, but layers that are skipped at random would stay so.
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

# Each shape is run this often as it is before it is recorded: libraries set themselves up.
WARM_UP = 1

# Of shapes; each takes some megabytes of the GPU's memory.
MOST = 64


def is_recordable(estimator: Any, config: Any, tuning: str, device: str, precision: str) -> bool:
    """Whether each step of the training launches the same kernels as another of its shape.

    What the user has written may decide anew in each step: callbacks, losses, heads.
    """
    return (
        device.startswith("cuda")
        and precision != "float16"  # whose scale changes from step to step
        and config.model_type in MODEL_TYPES
        and tuning in {"full", "lora", "bias", "prompt"}
        and isinstance(estimator.loss, str)
        and isinstance(estimator.head, str)
        and not estimator.callbacks
        and not estimator.compile
        and not estimator.gradient_checkpointing
    )


def as_it_is(step: Step, batch: Batch) -> Result:
    """What the step gives for the batch, launched kernel by kernel."""
    return step(batch)


class RecordedSteps:
    """Forward and backward pass of a micro-batch; the second of each shape is recorded.

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
        """What the step gives for the batch."""
        shape = batch[0]["input_ids"].shape
        if shape not in self.recordings:
            self._seen[shape] += 1
            if self._seen[shape] <= WARM_UP or len(self.recordings) >= self._most:
                return step(batch)
            try:
                self.recordings[shape] = self._record(step, batch)
            except RuntimeError as error:
                self._give_up(error)
                return step(batch)
        return _replay(self.recordings[shape], batch)

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
                finally:
                    graph.capture_end()
            before.wait_stream(apart)
        return graph, own, result

    def _give_up(self, error: RuntimeError) -> None:
        """Go on without recordings: slower, and otherwise the same."""
        self.recordings.clear()
        self._most = 0
        warnings.warn(
            f"Steps could not be recorded as CUDA graphs ({error}). Training goes on without them, "
            "at the speed of Python.",
            stacklevel=2,
        )


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
