"""A fitted model <-> plain bytes and strings, for pickles that name no foreign class."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._architecture import architecture_of
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._pretrained import build_backbone
from sklearn_transformers._process import quiet
from sklearn_transformers._tuned_part import merge_additions

__all__ = ["pack", "unpack"]


def pack(model: TextClassifier, tokenizer: Tokenizer) -> dict[str, Any]:
    """Model and tokenizer -> a dict of str, int, float and bytes.

    Weights become safetensors, configuration and tokenizer the files that transformers itself
    writes, so that a renamed class in torch or transformers cannot break an old pickle.
    """
    if hasattr(model.backbone, "peft_config"):  # packed while it trains, by a scorer for example
        model = copy.deepcopy(model)
        merge_additions(model.backbone)
    with tempfile.TemporaryDirectory() as name, quiet():
        folder = Path(name)
        model.backbone.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files = {
            str(path.relative_to(folder).as_posix()): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    shared = _shared_names(model)
    weights = {name: w for name, w in model.state_dict().items() if name not in shared}
    return {
        "files": files,
        "weights": save({name: tensor.cpu().contiguous() for name, tensor in weights.items()}),
        "pooling": model.pooling,
        "head": model.head_kind,
        "width": model.width,
        "n_classes": model.n_classes,
        "dropout": model.dropout.p,
    }


def unpack(state: dict[str, Any], device: str) -> tuple[TextClassifier, Tokenizer]:
    """Rebuild what `pack` took apart; needs neither the original model folder nor a network.

    Raises
    ------
    ValueError
        When weights and configuration do not fit each other.
    """
    weights = load(state["weights"])
    with tempfile.TemporaryDirectory() as folder, quiet():
        for name, content in state["files"].items():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(content)
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        backbone = _build(config, weights)
    parts = (state[name] for name in ("width", "pooling", "n_classes", "dropout", "head"))
    with torch.random.fork_rng([]):  # a head of the user's may draw numbers
        model = TextClassifier(backbone, *parts)
    if "prompt" in weights:
        model.set_prompt(weights["prompt"])
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if set(missing) - _shared_names(model) or unexpected:
        raise ValueError(
            "The stored weights do not fit the stored configuration "
            f"(missing: {missing}, unexpected: {unexpected}): the file is damaged."
        )
    return model.to(device).eval(), tokenizer


def _build(config: Config, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """Build the backbone around its weights, so that no random ones are drawn."""
    prefix = "backbone."
    body = {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}
    return build_backbone(architecture_of(config), config, body)


def _shared_names(model: nn.Module) -> set[str]:
    """Further names of weights that have one already, as in ALBERT's repeated layer."""
    every = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return every - {name for name, _ in model.named_parameters()}
