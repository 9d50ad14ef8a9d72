"""What a fit is made of, in few words, by which an unfinished one is known again."""

import json
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from sklearn_transformers._data import Rows
from sklearn_transformers._process import is_one_of_many
from sklearn_transformers._snapshot import Fingerprint, NoSnapshots, Snapshots, digest

__all__ = ["fingerprint", "unfinished_fit"]

# Parameters on which no weight depends, and one that is refused together with checkpoint_dir.
OF_NO_MATTER = ("callbacks", "checkpoint_dir", "store_dtype", "verbose")

LIBRARIES = (
    "numpy",
    "peft",
    "scikit-learn",
    "scipy",
    "sklearn-transformers",
    "skorch",
    "tokenizers",
    "torch",
    "transformers",
)


def unfinished_fit(
    folder: str | os.PathLike[str] | None, seed: int, *made_of: Any
) -> Snapshots | NoSnapshots:
    """The folder of a fit, which may have been begun by an earlier call.

    The fits of a search share one `checkpoint_dir`: there, each has a folder in it that is named
    by what the fit is made of.

    Parameters
    ----------
    folder : str, path-like or None
        None keeps nothing.
    seed : int
        To begin with, where nothing was begun.
    *made_of
        What `fingerprint` takes.
    """
    if folder is None:
        return NoSnapshots(seed)
    fit = fingerprint(*made_of)
    own = digest(json.dumps(fit).encode()) if is_one_of_many() else ""
    return Snapshots(Path(os.path.expanduser(folder), own), fit, seed)


def fingerprint(
    estimator: Any,
    classes: np.ndarray,
    rows: Rows,
    valid: Rows | None,
    device: str,
    precision: str,
    n_before: int,
) -> Fingerprint:
    """All that the weights depend on, but for what has to be loaded first.

    Parameters
    ----------
    estimator : TransformerTextClassifier
    classes : ndarray of shape (n_classes,)
    rows, valid : Rows
        To train on, and to validate on where the user gave such.
    device, precision : str
        What "auto" became, because it may become something else on another machine.
    n_before : int
        Epochs of earlier calls that this one goes on from.
    """
    parameters = {
        name: _described(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in OF_NO_MATTER
    }
    resolved = {"device": _described(device), "precision": _described(precision)}
    versions = {f"the version of {library}": _version(library) for library in LIBRARIES}
    earlier = {"the number of earlier epochs": str(n_before)}
    given = _of_rows(rows, classes, "")
    to_validate = dict.fromkeys((f"{name}_val" for name in given), "None")
    if valid is not None:
        to_validate = _of_rows(valid, classes, "_val")
    return parameters | resolved | versions | earlier | given | to_validate


def _described(value: Any) -> str:
    """The same words for the same parameter in every process.

    Functions are known by their names: what they do cannot be compared.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, np.generic):
        value = value.item()
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _of_rows(rows: Rows, classes: np.ndarray, suffix: str) -> Fingerprint:
    """The texts, labels and weights, by the user's names for them; rows of weight 0 have left."""
    codes, weights = (np.ascontiguousarray(part) for part in (rows.codes, rows.weights))
    digests = {
        "X": digest(*(text.encode() for text in rows.texts)),
        "y": digest(repr(classes.tolist()).encode(), codes),
        "sample_weight": digest(weights),
    }
    return {f"{name}{suffix}": f"{len(rows)} rows {of}" for name, of in digests.items()}


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "None"
