"""A fitted estimator <-> a folder without code, which transformers can read where it has the like.

Weights and configurations in it are transformers' own: of its sequence-classification class where
that answers as we do, else of the backbone alone. What we need and cannot have from there to the
last bit is in ``own.safetensors``, and in the manifest under "own_files".
"""

import copy
import json
import os
import platform
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi
from safetensors.torch import load, save

from sklearn_transformers._card import model_card
from sklearn_transformers._device import resolve_device
from sklearn_transformers._folder import damage_named, read_folder, write_folder
from sklearn_transformers._heads import ACTIVATIONS
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._persistence import (
    check_readable,
    files_of,
    finished,
    form_of,
    restore,
    tensors_of,
)
from sklearn_transformers._probes import check_probes
from sklearn_transformers._published import as_published
from sklearn_transformers._targets import ClassCodec

__all__ = ["load_estimator", "save_estimator", "upload"]

KIND = "classifier"
PACKAGES = ("sklearn-transformers", "torch", "transformers", "scikit-learn", "numpy")
WEIGHTS, OWN = "model.safetensors", "own.safetensors"
OWN_FILES = CONFIG, TOKENIZER = "config.json", "tokenizer_config.json"

HEADS = ("linear", "mlp", "attention", *ACTIVATIONS)
POOLINGS = ("cls", "mean", "max", "last", "attention")

# Fitted attributes that are plain Python: all but classes, model and tokenizer.
PLAIN = (
    "device_",
    "precision_",
    "tuning_",
    "learning_rate_",
    "head_learning_rate_",
    "batch_size_",
    "max_epochs_",
    "early_stopping_",
    "max_length_",
    "truncation_report_",
    "pooling_",
    "temperature_",
    "bag_of_words_weight_",
    "seed_",
    "n_trainable_",
    "history_",
    "n_iter_",
    "best_epoch_",
    "best_score_",
    "_padding",
    "_golden_ids",
    "_report",
    "_started_with",
    "_n_features_out",
)


def save_estimator(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Write the folder; see `TransformerTextClassifier.save`."""
    model, tokenizer = copy.deepcopy(finished(estimator.model_)).cpu(), estimator.tokenizer_
    if not isinstance(model.head_kind, str):
        raise ValueError(
            f"head={model.head_kind!r} is code of your own, which a folder without code cannot "
            "hold. Use joblib.dump, or a head of this package."
        )
    parameters, left_out = _plain_parameters(estimator)
    tensors = tensors_of(model, estimator.store_dtype)
    files = files_of(model.backbone.config, tokenizer)
    check_readable(files, tensors)
    own_files = {name: json.loads(files[name]) for name in OWN_FILES}
    # Whoever truncates without a word of how long and where truncates as we do, or nearly so.
    side = estimator._padding.get("cut", "right")
    cuts = {
        "model_max_length": estimator.max_length_,
        "truncation_side": "right" if side == "middle" else side,
    }
    files[TOKENIZER] = json.dumps(own_files[TOKENIZER] | cuts, indent=1).encode()
    shown, prefix = {}, ""
    words, model.words = model.words, None
    twin = _twin(estimator, model)
    if twin is not None and words is not None:
        warnings.warn(
            "The folder is no checkpoint of transformers, which has no place for the bag of words "
            "that has a say in this classifier's answers (bag_of_words_weight_="
            f"{estimator.bag_of_words_weight_:.2f}): only TransformerTextClassifier.load can read "
            "it. For a checkpoint, fit with bag_of_words=False.",
            stacklevel=3,
        )
        twin = None
    if twin is None:
        shown = {
            n.removeprefix("backbone."): w for n, w in tensors.items() if n.startswith("backbone.")
        }
    else:
        shown, prefix = tensors_of(twin, estimator.store_dtype), f"{twin.base_model_prefix}."
        twin.config.dtype = getattr(torch, estimator.store_dtype)
        files[CONFIG] = twin.config.to_json_string().encode()
    places = {name: _place(name, prefix) for name in tensors}
    own = {name: w for name, w in tensors.items() if not _is_there(shown, places[name], w)}
    versions = {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
    files |= {
        WEIGHTS: save(shown, {"format": "pt"}),
        OWN: save(own),
        "README.md": model_card(estimator, versions, published=twin is not None).encode(
            errors="replace"
        ),
    }
    record = {
        "versions": versions,
        "parameters": parameters,
        "classes": ClassCodec(estimator.classes_).record(),
        "fitted": {name: vars(estimator)[name] for name in PLAIN},
        "form": form_of(model),
        "own_files": own_files,
        "weights": {name: OWN if name in own else places[name] for name in tensors},
    }
    write_folder(path, KIND, record, files)
    if left_out:
        warnings.warn(
            f"A folder without code cannot hold {', '.join(left_out)}. What is loaded has the "
            "defaults there: set them before training goes on.",
            stacklevel=3,
        )


def load_estimator(cls: Any, path: str | os.PathLike[str], device: Any) -> Any:
    """Read a folder that `save_estimator` wrote, whoever it may be from.

    Raises
    ------
    SavedModelError
        When anything in it is not as `save_estimator` would have written it.
    """
    device = None if device is None else resolve_device(device)
    record, files = read_folder(path, KIND)
    with damage_named(f"{path} is damaged, or of a newer version:"):
        parameters = {name: _object(value) for name, value in record["parameters"].items()}
        parameters.pop("checkpoint_dir", None)  # nobody else says where this machine writes
        estimator = cls(**parameters)
        if "cut" not in record["fitted"]["_padding"]:  # it was saved before there was a choice
            estimator.truncation_side = "right"
        estimator._validate_params()
        estimator.__dict__.update(_attributes(record, files, device))
        # Asked once, so that what does not belong together is found out here.
        answer = estimator.predict_proba(["A few words.", "Why?"])
        if not np.isfinite(answer).all():
            raise ValueError("the model gives answers that are not finite")
    return estimator


def upload(path: str | os.PathLike[str], name: str) -> None:
    """Send a folder to a repository of the Hugging Face Hub, which is made if there is none."""
    api = HfApi()
    api.create_repo(name, private=True, exist_ok=True)
    api.upload_folder(
        repo_id=name, folder_path=Path(path), commit_message="Upload a text classifier"
    )


def _attributes(
    record: dict[str, Any], files: dict[str, bytes], device: str | None
) -> dict[str, Any]:
    shown, own = load(files.pop(WEIGHTS)), load(files.pop(OWN))
    tensors = {
        name: own[name] if place == OWN else shown[place]
        for name, place in record["weights"].items()
    }
    files |= {name: json.dumps(record["own_files"][name]).encode() for name in OWN_FILES}
    younger = {"bag_of_words_weight_": 0.0}
    fitted = {name: (younger | record["fitted"])[name] for name in PLAIN}
    _check_fitted(fitted)
    fitted["device_"] = device or fitted["device_"]
    classes, form = ClassCodec.from_record(**record["classes"]).classes, record["form"]
    known = form["head"] in HEADS and form["pooling"] in POOLINGS
    if form["n_classes"] != len(classes) or not known:
        raise ValueError(f"there are {len(classes)} labels, and the model's form is {form}")
    return restore(fitted, files, tensors, form) | {"classes_": classes}


def _twin(estimator: Any, model: TextClassifier) -> Any:
    """The model of transformers that answers alike and can be stored as wished, if there is one."""
    labels = [str(label) for label in estimator.classes_.tolist()]
    if len(set(labels)) < len(labels):
        return None
    twin = as_published(model, estimator.tokenizer_, labels, estimator.temperature_)
    if twin is not None and estimator.store_dtype != "float32":
        try:
            tensors_of(twin, estimator.store_dtype)
        except ValueError:  # a layer for the mean has numbers that float16 has not
            return None
    return twin


def _place(name: str, prefix: str) -> str:
    return prefix + name.removeprefix("backbone.")


def _is_there(shown: Mapping[str, torch.Tensor], name: str, weight: torch.Tensor) -> bool:
    """Whether a weight is in the file to the last bit."""
    other = shown.get(name)
    return other is not None and other.shape == weight.shape and torch.equal(other, weight)


def _plain_parameters(estimator: Any) -> tuple[dict[str, Any], list[str]]:
    """The parameters as JSON has them, and those that it cannot hold."""
    parameters, left_out = {}, []
    for name, value in estimator.get_params(deep=False).items():
        if name == "checkpoint_dir":  # a place on this machine
            continue
        try:
            parameters[name] = _plain(value)
        except TypeError:
            left_out.append(f"{name}={value!r}")
    chosen = {"_sklearn_output_config": "set_output", "_metadata_request": "set_fit_request"}
    left_out += [f"what {name} chose" for key, name in chosen.items() if key in vars(estimator)]
    return parameters, left_out


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, dict):  # whose keys need not be strings
        return {"pairs": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(value)


def _object(value: Any) -> Any:
    """What `_plain` was given."""
    if isinstance(value, dict):
        return {_object(key): _object(item) for key, item in value["pairs"]}
    return [_object(item) for item in value] if isinstance(value, list) else value


def _check_fitted(fitted: Mapping[str, Any]) -> None:
    """Look at what predictions depend on."""
    temperature, padding = fitted["temperature_"], fitted["_padding"]
    if not (isinstance(temperature, float) and 0 < temperature < float("inf")):
        raise ValueError(f"temperature_={temperature!r}")
    check_probes(fitted["_golden_ids"])
    kinds = {name: type(value) for name, value in ({"cut": "right"} | padding).items()}
    known = {"pad_id": int, "longest": int, "masked": bool, "cut": str}
    if kinds != known or padding["pad_id"] < 0:
        raise ValueError(f"_padding={padding}")
