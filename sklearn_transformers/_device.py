"""Resolve "auto": device, precision and seed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from sklearn_transformers._compat import InvalidParameterError
from sklearn_transformers._process import refuse_fork, worker_number

__all__ = [
    "autocast",
    "check_out_of_memory",
    "draw_seed",
    "own_grad_mode",
    "present_device",
    "resolve_device",
    "resolve_precision",
    "to_device",
]

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: Any) -> str:
    """Turn "auto" into "cuda", "mps" or "cpu", the first that is there; check anything else.

    The workers of a search spread over several GPUs.

    Raises
    ------
    InvalidParameterError
        When torch does not know the device.
    ValueError
        When the device is not present on this machine.
    RuntimeError
        When it is a GPU and this process was forked from one that had used GPUs.
    """
    if isinstance(device, str) and device == "auto":
        if torch.cuda.is_available() or torch.cuda._is_in_bad_fork():
            return _own_gpu()
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        wanted = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        wanted = None
    if wanted is None:
        raise InvalidParameterError(
            "The 'device' parameter of TransformerTextClassifier must be 'auto' or a device "
            f"that torch knows, such as 'cpu', 'cuda', 'cuda:1' or 'mps'. Got {device!r} instead."
        )
    if wanted.type == "cuda":
        refuse_fork()
    try:
        torch.empty(1, device=wanted).cpu()  # "meta" exists but holds nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(
            f"device={str(device)!r} is not available on this machine ({_first_line(error)}). "
            "Use device='auto' to take the best one that is."
        ) from error
    return str(wanted)


def _own_gpu() -> str:
    refuse_fork()
    worker, n_gpus = worker_number(), torch.cuda.device_count()
    return "cuda" if worker is None or n_gpus < 2 else f"cuda:{worker % n_gpus}"


def present_device(device: str) -> str:
    """`device`, or the best one that this machine has instead: for models trained elsewhere."""
    try:
        return resolve_device(device)
    except ValueError:
        return resolve_device("auto")


def resolve_precision(precision: str, device: str) -> str:
    """Turn "auto" into the format in which this device trains fastest without loss of accuracy.

    bfloat16 on GPUs and CPUs with instructions for it, float16 on older CUDA GPUs, float32
    everywhere else.
    """
    if precision != "auto":
        return precision
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if native else "float16"
    if kind == "cpu":
        # torch < 2.10 cannot be asked: it then trains in float32.
        able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        if able.get("avx512_bf16") or able.get("amx_bf16"):
            return "bfloat16"
    return "float32"


def autocast(device: str, precision: str) -> torch.autocast:
    """Mixed precision for the forward pass; none for float32, also inside a caller's block."""
    dtype, kind = DTYPES.get(precision), torch.device(device).type
    # torch empties its cache of cast weights only when the outermost block ends. Inside one of
    # the caller's it would serve weights from before the last step; ours are used once anyway.
    return torch.autocast(kind, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


@contextmanager
def own_grad_mode(device: str) -> Iterator[None]:
    """Step out of the no_grad, inference_mode or autocast block that the caller may stand in."""
    with torch.inference_mode(False), torch.enable_grad(), autocast(device, "float32"):
        yield


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    """Copy to the device; to a GPU without making the host wait."""
    tensor = torch.from_numpy(array)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def check_out_of_memory(error: RuntimeError, n_texts: int, n_tokens: int) -> None:
    """Raise the error, unless memory ran out and there are texts left to divide.

    CUDA has a class of error for that, others only say so.
    """
    said = "out of memory" in str(error) or "can't allocate memory" in str(error)
    if not (said or isinstance(error, torch.OutOfMemoryError)):
        raise error
    if n_texts == 1:
        raise torch.OutOfMemoryError(
            f"Memory does not suffice for a single text of {n_tokens} tokens. Lower max_length, "
            "set gradient_checkpointing=True, or take a smaller model or another device."
        ) from error


def draw_seed(random_state: Any) -> int:
    """`random_state` -> a seed.

    An int is the seed itself, a `RandomState` is drawn from. None takes fresh entropy from
    the operating system and, unlike scikit-learn, leaves NumPy's global state alone.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(np.iinfo(np.int32).max))
    return int(random_state)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
