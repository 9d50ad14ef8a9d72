"""What belongs to the whole process: torch's generators, transformers' logging."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    progress_bar_states,
)
from transformers.utils import logging as hf_logging

__all__ = ["quiet", "seeded"]

# Two threads that borrow this state at once would neither get the same random numbers twice nor
# give back what they found, so they take turns: fits for their whole length, whoever silences
# transformers only for the moment of loading or saving.
_GENERATORS = threading.RLock()
_SETTINGS = threading.RLock()


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Run with the CPU's and the device's generator at `seed`; put both back afterwards."""
    kind = torch.device(device).type
    with _GENERATORS:
        states: list[tuple[Callable[[torch.Tensor], Any], torch.Tensor]]
        states = [(torch.default_generator.set_state, torch.default_generator.get_state())]
        if kind == "cuda":
            states.append((partial(torch.cuda.set_rng_state, device=device), _cuda_state(device)))
        elif kind == "mps":
            states.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
        try:
            torch.default_generator.manual_seed(seed)
            if kind == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            elif kind == "mps":
                torch.mps.manual_seed(seed)
            yield
        finally:
            for restore, state in states:
                restore(state)


def _cuda_state(device: str) -> torch.Tensor:
    torch.cuda.init()
    return torch.cuda.get_rng_state(device)


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
