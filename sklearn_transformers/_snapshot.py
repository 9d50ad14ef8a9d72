"""A fit that may be killed: its folder, and the snapshot of its training there."""

import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from sklearn_transformers._training_state import restore_training, training_state
from sklearn_transformers.exceptions import TrainingDivergedError

__all__ = ["Fingerprint", "NoSnapshots", "Snapshots", "digest"]

# Name of something that the weights depend on -> its value or digest.
Fingerprint = dict[str, str]

# Within an epoch; one more is taken at the end of each.
SECONDS_BETWEEN_SNAPSHOTS = 60.0

RECORD, SNAPSHOT, LOCK = "fit.json", "training.pt", "fit.lock"
UNFINISHED = ".unfinished"  # the end of a file's name while it is being written

WAYS_OUT = "Delete the folder to start over, or pass another."


class Snapshots:
    """The folder of one fit, and the one snapshot of its training there.

    As a context it keeps other fits out of the folder, and empties it when this one has succeeded.

    Parameters
    ----------
    folder : path-like
        Made where it is not there.
    fit : Fingerprint
        What the fit is made of, but for what has to be loaded first.
    seed : int
        To begin with, where nothing was begun.

    Attributes
    ----------
    seed : int
        What the fit began with, be it in an earlier call.

    Raises
    ------
    ValueError
        When the folder has the snapshot of another fit, with all that differs.
    RuntimeError
        When another fit is using it.
    OSError
        When it cannot be written to.
    """

    def __init__(self, folder: Path, fit: Fingerprint, seed: int) -> None:
        self.folder, self._snapshot = folder, folder / SNAPSHOT
        self._lock = FileLock(folder / LOCK)
        self._found = self._read()
        self._record = {"made_folder": not folder.exists()} | (self._found or {})
        if self._snapshot.exists():
            self._compare("fit", fit)
        elif self._record.get("fit") != fit:  # there is nothing to lose
            self._record |= {"seed": seed, "fit": fit}
        self.seed: int = self._record["seed"]

    def __enter__(self) -> Self:
        with self._named_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout:
                raise RuntimeError(self._says("is in use by another fit. Pass another.")) from None
        try:
            if self._read() != self._found:
                raise RuntimeError(self._says("was used by another fit just now. Call fit again."))
            for left in self.folder.glob(f"*{UNFINISHED}"):
                left.unlink()
            self._write_record()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: Any, traceback: TracebackType | None
    ) -> None:
        # What diverged would diverge again, and without a snapshot there is nothing to go on from.
        diverged = kind is not None and issubclass(kind, TrainingDivergedError)
        is_over = kind is None or diverged or not self._snapshot.exists()
        if is_over:
            self._snapshot.unlink(missing_ok=True)
            for left in (RECORD, SNAPSHOT + UNFINISHED, RECORD + UNFINISHED):
                (self.folder / left).unlink(missing_ok=True)
        self._lock.release()
        if is_over:
            (self.folder / LOCK).unlink(missing_ok=True)
            if self._record["made_folder"]:
                with suppress(OSError):  # something else may lie there
                    self.folder.rmdir()

    def begin(self, model: nn.Module, token_ids: np.ndarray) -> None:
        """Compare the model and the tokens that training starts from, too."""
        weights = (
            part
            for name, weight in model.state_dict().items()
            for part in (name.encode(), weight.cpu().flatten().view(torch.uint8).numpy())
        )
        start = {"the model to start from": digest(*weights), "the tokens of X": digest(token_ids)}
        if self._snapshot.exists():
            self._compare("start", start)
        self._record["start"] = start
        self._write_record()

    def resume(self, net: Any) -> None:
        """Bring a net that is ready to train to where the snapshot was taken, if there is one."""
        self._saved_at = time.monotonic()
        if not self._snapshot.exists():
            return
        try:
            state = torch.load(self._snapshot, map_location="cpu", weights_only=True)
            restore_training(net, state)
        except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise self._unreadable(SNAPSHOT) from error

    def step_made(self, net: Any) -> None:
        """Take a snapshot within an epoch, if it is time."""
        if time.monotonic() - self._saved_at >= SECONDS_BETWEEN_SNAPSHOTS:
            self.save(net)

    def save(self, net: Any) -> None:
        """Put a snapshot in place of the last one."""
        state = training_state(net)

        def write(file: IO[bytes]) -> None:
            torch.save(state, file)
            file.flush()
            if odd := get_unsafe_globals_in_checkpoint(file.name):
                raise ValueError(
                    f"The optimiser's state ({type(net.optimizer_).__name__}) holds "
                    f"{', '.join(odd)}; only tensors and plain values can be kept in "
                    "checkpoint_dir. Set it to None, or take another optimiser."
                )

        self._replace(SNAPSHOT, write)
        self._saved_at = time.monotonic()

    def _compare(self, part: str, now: Fingerprint) -> None:
        """Refuse to go on with another fit than the one that began here."""
        before = self._record.get(part)
        if not isinstance(before, dict):
            raise self._unreadable(RECORD)
        differences = [
            f"{name} was {before.get(name)} and is now {value}"
            for name, value in now.items()
            if before.get(name) != value
        ]
        if differences:
            raise ValueError(
                self._says(f"has an unfinished fit that differs: {'; '.join(differences)}. ")
                + f"To finish it, call fit as then. {WAYS_OUT}"
            )

    def _read(self) -> dict[str, Any] | None:
        """What is known of the fit that began here; None where none did."""
        try:
            record: dict[str, Any] = json.loads((self.folder / RECORD).read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise self._unreadable(RECORD) from error
        if not isinstance(record, dict):
            raise self._unreadable(RECORD)
        return record

    def _write_record(self) -> None:
        content = json.dumps(self._record, indent=1).encode()
        self._replace(RECORD, lambda file: file.write(content))

    def _replace(self, name: str, write: Callable[[IO[bytes]], Any]) -> None:
        """Write a file anew, so that whoever is killed meanwhile leaves the old one."""
        unfinished = self.folder / (name + UNFINISHED)
        with self._named_errors():
            with open(unfinished, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self.folder / name)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            message = self._says(f"cannot be written to ({reason}). Make room, or pass another.")
            raise OSError(error.errno, message) from error

    def _unreadable(self, name: str) -> ValueError:
        return ValueError(self._says(f"has a {name} that cannot be read. {WAYS_OUT}"))

    def _says(self, what: str) -> str:
        return f"checkpoint_dir={str(self.folder)!r} {what}"


class NoSnapshots(nullcontext[None]):
    """In place of `Snapshots` where nothing is to be kept."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def begin(self, model: nn.Module, token_ids: np.ndarray) -> None:
        """Nothing to compare."""

    def resume(self, net: Any) -> None:
        """Nothing to go on from."""

    def step_made(self, net: Any) -> None:
        """Nothing to keep."""

    def save(self, net: Any) -> None:
        """Nothing to keep."""


def digest(*parts: Any) -> str:
    """Of flat buffers, one after the other."""
    whole = hashlib.blake2b(digest_size=16)
    for part in parts:
        view = memoryview(part)
        whole.update(view.nbytes.to_bytes(8, "little"))
        whole.update(view)
    return whole.hexdigest()
