"""A fitted model <-> plain bytes and strings, for pickles that name no foreign class."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoTokenizer
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._model import TextClassifier
from sklearn_transformers._pretrained import quiet

__all__ = ["pack", "unpack"]


def pack(model: TextClassifier, tokenizer: Tokenizer) -> dict[str, Any]:
    """Model and tokenizer -> a dict of str, int, float and bytes.

    Weights become safetensors, configuration and tokenizer the files that transformers itself
    writes, so that a renamed class in torch or transformers cannot break an old pickle.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    shared = _shared_names(model)
    return {
        "config": model.backbone.config.to_json_string(use_diff=False),
        "pooling": model.pooling,
        "n_classes": model.head.out_features,
        "dropout": model.dropout.p,
        "weights": save(
            {
                name: tensor.cpu().contiguous()
                for name, tensor in model.state_dict().items()
                if name not in shared
            }
        ),
        "tokenizer": files,
    }


def unpack(state: dict[str, Any], device: str) -> tuple[TextClassifier, Tokenizer]:
    """The inverse of `pack`; needs neither the original model folder nor a network."""
    fields = json.loads(state["config"])
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    weights = load(state["weights"])
    prefix = "backbone."
    body = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.random.fork_rng([]):
        for name, content in state["tokenizer"].items():
            Path(folder, name).write_bytes(content)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        # Given the weights, the backbone is built without drawing random ones first.
        backbone = MODEL_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=body, dtype=torch.float32
        )
        model = TextClassifier(backbone, state["pooling"], state["n_classes"], state["dropout"])
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - _shared_names(model) or unexpected:
        raise ValueError(
            "The stored weights do not fit the stored configuration "
            f"(missing: {missing}, unexpected: {unexpected}): the file is damaged."
        )
    return model.to(device).eval(), tokenizer


def _shared_names(model: nn.Module) -> set[str]:
    """Further names of weights that have one already, as in ALBERT's repeated layer."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in model.named_parameters()}
