"""A fitted model <-> plain bytes, strings and arrays, for files that name no foreign class."""

import copy
import json
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._architecture import architecture_of
from sklearn_transformers._bag_of_words import BagOfWords
from sklearn_transformers._device import present_device
from sklearn_transformers._folder import FORMAT, check_name, damage_named
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._pretrained import build_backbone, empty_model
from sklearn_transformers._process import preserved_rng_state, quiet
from sklearn_transformers._tokenization import golden_ids
from sklearn_transformers._tuned_part import merge_additions
from sklearn_transformers._untrusted import harmless
from sklearn_transformers.exceptions import SavedModelError

__all__ = [
    "check_readable",
    "files_of",
    "finished",
    "form_of",
    "pack",
    "restore",
    "revive",
    "tensors_of",
]

# What the constructor of `TextClassifier` takes beside the backbone, in its order.
FORM = ("width", "pooling", "n_classes", "dropout", "head")

# How safetensors names those that weights and statistics of layers have.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def pack(model: TextClassifier, tokenizer: Tokenizer, store_dtype: str) -> dict[str, Any]:
    """Model and tokenizer -> a dict of str, int, float, bytes and one array of bytes.

    Weights become safetensors, configuration and tokenizer the files that transformers itself
    writes, so that a renamed class in torch or transformers cannot break an old pickle.
    """
    model = finished(model)
    files, tensors = files_of(model.backbone.config, tokenizer), tensors_of(model, store_dtype)
    check_readable(files, tensors)
    return {
        "format": FORMAT,
        "files": files,
        # As an array, joblib can map it into memory instead of reading it.
        "weights": np.frombuffer(save(tensors), np.uint8),
        **form_of(model),
    }


def revive(state: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a pickled estimator, with what `pack` took apart made whole again.

    Raises
    ------
    SavedModelError
        When the state is of a newer format, or its parts do not belong together.
    """
    packed = state["model_"]
    number = packed.get("format", 0)  # versions before the first release had none
    if number > FORMAT:
        raise SavedModelError(
            f"This classifier was pickled in format {number}, by a newer version of "
            f"sklearn-transformers; this one reads formats up to {FORMAT}. Upgrade it."
        )
    weights = packed["weights"]
    tensors = load(weights) if isinstance(weights, bytes) else _views(weights)
    return restore(state, packed["files"], tensors, packed)


def restore(
    attributes: Mapping[str, Any],
    files: Mapping[str, bytes],
    tensors: Mapping[str, torch.Tensor],
    form: Mapping[str, Any],
) -> dict[str, Any]:
    """The attributes of an estimator with model, tokenizer and a device that this machine has.

    It needs neither the original model folder nor a network. A tokenizer that works otherwise
    than it did at `fit` is warned of.
    """
    device = present_device(attributes["device_"])
    model, tokenizer = rebuild(files, tensors, form, device)
    golden = attributes.get("_golden_ids", {})
    if golden != golden_ids(tokenizer, golden):
        warnings.warn(
            "The installed tokenizers or transformers turns texts into other tokens than the "
            "version that this classifier was fitted with: predictions may differ. Install that "
            "version, or fit anew.",
            stacklevel=2,
        )
    return {**attributes, "model_": model, "tokenizer_": tokenizer, "device_": device}


def finished(model: TextClassifier) -> TextClassifier:
    """The model as it would be if training ended here: a scorer may pack it while it trains."""
    if not hasattr(model.backbone, "peft_config"):
        return model
    model = copy.deepcopy(model)
    merge_additions(model.backbone)
    return model


def form_of(model: TextClassifier) -> dict[str, Any]:
    """What has to be known of a model beside its weights and its backbone's configuration."""
    parts = (model.width, model.pooling, model.n_classes, model.dropout.p, model.head_kind)
    return dict(zip(FORM, parts, strict=True))


def files_of(config: Config, tokenizer: Tokenizer) -> dict[str, bytes]:
    """The files that transformers writes for a configuration and a tokenizer."""
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    core = json.loads(files.get("tokenizer.json", "{}"))
    if core:
        # Not what it was asked for last, or files would differ by what the model has answered.
        core |= {"truncation": None, "padding": None}
        files["tokenizer.json"] = json.dumps(core, ensure_ascii=False).encode()
    return files


def tensors_of(model: nn.Module, store_dtype: str) -> dict[str, torch.Tensor]:
    """Every weight once, on the CPU, in the format in which it is to be stored.

    Raises
    ------
    ValueError
        When a weight has no place in that format.
    """
    shared, dtype, stored = _shared_names(model), getattr(torch, store_dtype), {}
    for name, weight in model.state_dict().items():
        if name in shared:
            continue
        tensor = weight.detach().cpu().contiguous()
        if tensor.is_floating_point() and tensor.dtype != dtype:
            tensor, full = tensor.to(dtype), tensor
            if bool((tensor.isfinite() != full.isfinite()).any()):
                raise ValueError(
                    f"store_dtype={store_dtype!r} cannot hold {name}, whose largest entry is "
                    f"{float(full.abs().max()):.3g}. Use 'bfloat16' or 'float32'."
                )
        stored[name] = tensor
    return stored


def rebuild(
    files: Mapping[str, bytes],
    tensors: Mapping[str, torch.Tensor],
    form: Mapping[str, Any],
    device: str,
) -> tuple[TextClassifier, Tokenizer]:
    """Files of `files_of`, weights of `tensors_of` and the form -> model and tokenizer.

    Raises
    ------
    SavedModelError
        When they do not belong together. What a configuration claims is compared with the weights
        before memory is taken for it.
    """
    weights = {name: w.float() if w.is_floating_point() else w for name, w in tensors.items()}
    body = {n.removeprefix("backbone."): weights.pop(n) for n in tensors if _is_body(n)}
    with damage_named(
        "The stored weights, configuration and tokenizer do not fit each other: the file is "
        "damaged."
    ):
        with tempfile.TemporaryDirectory() as folder, quiet():
            for name, content in harmless(files, len(body)).items():
                check_name(name)  # skops and joblib may have read them from anywhere
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).write_bytes(content)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
            architecture = architecture_of(config)
            _compare(empty_model(architecture, config), body)
            # Built around its weights: no random ones are drawn, and nothing is copied.
            backbone = build_backbone(architecture, config, body)
        may_draw = callable(form["head"])
        with preserved_rng_state() if may_draw else nullcontext():
            model = TextClassifier(backbone, *(form[name] for name in FORM))
        if "prompt" in weights:
            model.set_prompt(weights["prompt"])
        words = {n.removeprefix("words."): weights[n] for n in tensors if n.startswith("words.")}
        if words:
            model.words = BagOfWords.like(words, model.n_classes)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        missing = [name for name in missing if not _is_body(name)]
        if missing or unexpected:
            raise ValueError(f"missing: {missing}, unexpected: {unexpected}")
    return model.to(device).eval(), tokenizer


def check_readable(files: Mapping[str, bytes], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise a ValueError where `rebuild` would refuse the configuration: better not write it."""
    harmless(files, sum(map(_is_body, tensors)))


def _is_body(name: str) -> bool:
    return name.startswith("backbone.")


def _views(content: np.ndarray) -> dict[str, torch.Tensor]:
    """Tensors that lie in an array of safetensors bytes, and share it with other processes."""
    if isinstance(content, np.memmap) and content.filename is not None:
        # Mapped anew so that it may be written to, in memory only: torch knows no other tensors.
        content = np.memmap(content.filename, np.uint8, "c", content.offset, content.shape)
        head = int(content[:8].view("<u8")[0]) + 8
        table = json.loads(content[8:head].tobytes())
        table.pop("__metadata__", None)
        return {name: _view(content[head:], about) for name, about in table.items()}
    return load(content.tobytes())


def _view(content: np.ndarray, about: dict[str, Any]) -> torch.Tensor:
    start, end = about["data_offsets"]
    return torch.from_numpy(content[start:end]).view(DTYPES[about["dtype"]]).view(about["shape"])


def _compare(empty: nn.Module, body: Mapping[str, torch.Tensor]) -> None:
    """Raise a ValueError unless the weights are those that the backbone wants, in their shapes."""
    shared = _shared_names(empty)
    wanted = {n: tuple(w.shape) for n, w in empty.state_dict().items() if n not in shared}
    found = {name: tuple(weight.shape) for name, weight in body.items()}
    wrong = sorted(n for n in wanted | found if wanted.get(n) != found.get(n))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{len(wrong)} weights differ from what config.json says; {name} has shape "
            f"{found.get(name)} and should have {wanted.get(name)} (None: no such weight)"
        )


def _shared_names(model: nn.Module) -> set[str]:
    """Further names of weights that have one already, as in ALBERT's repeated layer."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in model.named_parameters()}
