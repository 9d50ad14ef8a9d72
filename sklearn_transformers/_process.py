"""What belongs to the whole process: torch's generators, transformers' logging, and their lock."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers.utils import logging as hf_logging

__all__ = ["quiet", "seeded"]

# Two threads that borrow this state at once would neither get the same random numbers twice nor
# give back what they found. So they take turns, and fits in threads run one after the other.
_TURN = threading.RLock()


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Run with the CPU's and the device's generator at `seed`; put both back afterwards."""
    generators = [torch.default_generator]
    kind = torch.device(device).type
    if kind == "cuda":
        index = torch.device(device).index
        torch.cuda.init()
        generators.append(
            torch.cuda.default_generators[torch.cuda.current_device() if index is None else index]
        )
    elif kind == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    with _TURN:
        states = [generator.get_state() for generator in generators]
        try:
            for generator in generators:
                generator.manual_seed(seed)
            yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


@contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Silence loading bars, load reports and retries; restore the user's settings afterwards.

    With `downloads`, the Hub's bars for files on their way over the network still show.
    """
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    with _TURN:
        levels = [logger.level for logger in loggers]
        loading_bars = hf_logging.is_progress_bar_enabled()
        download_bars = not are_progress_bars_disabled()
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            _show_bars(loading=False, downloads=downloads and download_bars)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            _show_bars(loading=loading_bars, downloads=download_bars)


def _show_bars(*, loading: bool, downloads: bool) -> None:
    with warnings.catch_warnings():
        # Where the environment forbids the Hub's bars, enabling them warns and does nothing.
        warnings.simplefilter("ignore", UserWarning)
        # transformers' switch turns the Hub's as well, so the Hub's comes second.
        (hf_logging.enable_progress_bar if loading else hf_logging.disable_progress_bar)()
        (enable_progress_bars if downloads else disable_progress_bars)()
