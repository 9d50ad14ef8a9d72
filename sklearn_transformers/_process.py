"""What belongs to the whole process: torch's generators, threads and forks, logging."""

import logging
import multiprocessing
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    progress_bar_states,
)
from transformers.utils import logging as hf_logging

from sklearn_transformers._fork import in_every_fork

__all__ = [
    "is_one_of_many",
    "is_worker",
    "preserved_rng_state",
    "quiet",
    "random_states",
    "refuse_fork",
    "seeded",
    "set_random_states",
    "worker_number",
]

# Two threads that borrow this state at once would neither get the same random numbers twice nor
# give back what they found, so they take turns: fits for their whole length, whoever silences
# transformers only for the moment of loading or saving. Whoever needs both takes the first first.
_GENERATORS = threading.RLock()
_SETTINGS = threading.RLock()


def _renew_locks() -> None:
    """Forget locks that threads of the parent held when this process was forked."""
    global _GENERATORS, _SETTINGS
    _GENERATORS, _SETTINGS = threading.RLock(), threading.RLock()


in_every_fork(_renew_locks)

# Modules that run several fits, one after the other or, where they use joblib, side by side.
SEVERAL_FITS = (
    "sklearn.model_selection._search",
    "sklearn.model_selection._validation",
    "sklearn.ensemble.",
    "sklearn.multioutput",
    "sklearn.semi_supervised.",
)
# These use joblib to fit different parts of one model.
ONE_FIT = ("sklearn.compose.", "sklearn.pipeline")


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Run with the CPU's and the device's generator at `seed`; put both back afterwards."""
    kind = torch.device(device).type
    with _GENERATORS:
        states = random_states(device)
        try:
            torch.default_generator.manual_seed(seed)
            if kind == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            elif kind == "mps":
                torch.mps.manual_seed(seed)
            yield
        finally:
            set_random_states(states, device)


@contextmanager
def preserved_rng_state() -> Iterator[None]:
    """Put the CPU's generator back to where it was, once no fit of another thread uses it."""
    with _GENERATORS, torch.random.fork_rng([]):
        yield


def random_states(device: str) -> list[torch.Tensor]:
    """Of the CPU's generator and, where it has one of its own, of the device's."""
    states = [torch.default_generator.get_state()]
    kind = torch.device(device).type
    if kind == "cuda":
        states.append(_cuda_state(device))
    elif kind == "mps":
        states.append(torch.mps.get_rng_state())
    return states


def set_random_states(states: list[torch.Tensor], device: str) -> None:
    """Put back what `random_states` gave for this device."""
    torch.default_generator.set_state(states[0])
    for state in states[1:]:
        if torch.device(device).type == "cuda":
            torch.cuda.set_rng_state(state, device=device)
        else:
            torch.mps.set_rng_state(state)


def _cuda_state(device: str) -> torch.Tensor:
    torch.cuda.init()
    return torch.cuda.get_rng_state(device)


def worker_number() -> int | None:
    """Number of this process among the workers of a pool, from 0 on; None if it is none."""
    # Pools number their workers from 1 on and go on counting when they replace one.
    numbered = re.fullmatch(
        r"(?:LokyProcess|(?:Fork|Spawn|ForkServer)PoolWorker)-(\d+)",
        multiprocessing.current_process().name,
    )
    return int(numbered[1]) - 1 if numbered else None


def is_worker() -> bool:
    """Whether this is a worker process, or a thread beside the main one."""
    in_worker_process = multiprocessing.current_process().name != "MainProcess"
    return in_worker_process or threading.current_thread() is not threading.main_thread()


def is_one_of_many() -> bool:
    """Whether this fit is one of several that a caller, at any depth, runs."""
    by_joblib = False
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(SEVERAL_FITS):
            return True
        if module.startswith("joblib.parallel"):
            by_joblib = True
        elif by_joblib and not module.startswith(("joblib.", "sklearn.utils.")):
            if not module.startswith(ONE_FIT):
                return True
            by_joblib = False
        frame = frame.f_back
    return by_joblib


def refuse_fork() -> None:
    """Raise where CUDA cannot work because this process was forked from one that had used it.

    Raises
    ------
    RuntimeError
        With the ways out.
    """
    if torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            "This process was forked from one that had already used CUDA, and CUDA does not "
            "survive a fork. Start workers afresh: joblib's default backend 'loky', or "
            "multiprocessing.get_context('spawn'). Or use device='cpu'."
        )


@contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Silence loading bars, load reports and retries; restore the user's settings afterwards.

    With `downloads`, the Hub's bars for files on their way over the network still show.
    """
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    with _SETTINGS:
        levels = [logger.level for logger in loggers]
        loading_bars = hf_logging.is_progress_bar_enabled()
        hub_bars = dict(progress_bar_states)
        downloads = downloads and not are_progress_bars_disabled()
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            _show_bars(loading=False, downloads=downloads)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            _show_bars(loading=loading_bars, downloads=downloads)
            progress_bar_states.clear()
            progress_bar_states.update(hub_bars)


def _show_bars(*, loading: bool, downloads: bool) -> None:
    with warnings.catch_warnings():
        # Where the environment decides about the Hub's bars, its switch warns and does nothing.
        warnings.simplefilter("ignore", UserWarning)
        # transformers' switch turns the Hub's as well, so the Hub's comes second.
        (hf_logging.enable_progress_bar if loading else hf_logging.disable_progress_bar)()
        (enable_progress_bars if downloads else disable_progress_bars)()
