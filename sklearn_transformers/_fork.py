"""What a forked child must forget: threads and locks of a parent that it cannot reach."""

import os
import sys
from collections.abc import Callable

__all__ = ["in_every_fork"]


def in_every_fork(repair: Callable[[], object]) -> None:
    """Call `repair` in each process that is forked from this one, before it does anything."""
    if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
        os.register_at_fork(after_in_child=repair)


def _take_one_thread() -> None:
    """Make torch usable, if it is loaded.

    The child inherits the record of torch's pool of threads, but not the threads, and would wait
    for them for ever. With one thread there is no pool; as many children as cores share fairly.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


in_every_fork(_take_one_thread)
