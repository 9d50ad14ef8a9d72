"""Which pooling a checkpoint was trained for."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig as Config
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import cached_file

__all__ = ["own_pooling"]

# sentence-transformers' words for the poolings that this package has.
POOLINGS = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}

# Modules of sentence-transformers that this package has, or that a head can do without.
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")


def own_pooling(
    source: str, tokenizer: Tokenizer, config: Config, remarks: list[str], **where: Any
) -> str:
    """Find the pooling; what of it is not available here goes to the remarks.

    sentence-transformers checkpoints say so themselves, decoders have read everything only at
    their last token, and other encoders are trained with a first token that stands for all.
    """
    modules = _content(source, "modules.json", **where) or []
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    further = [kind for kind in kinds if kind not in KNOWN_MODULES]
    if further:
        remarks.append(
            f"The checkpoint was trained with further layers behind the pooling "
            f"({', '.join(further)}), which are left out."
        )
    stated = _content(source, "1_Pooling/config.json", **where)
    if stated is not None:
        mode = stated.get("pooling_mode")
        modes = {mode} if isinstance(mode, str) else {k for k, on in stated.items() if on is True}
        poolings = [POOLINGS[mode] for mode in modes if mode in POOLINGS]
        if len(poolings) == 1:
            return poolings[0]
        remarks.append(
            f"The checkpoint was trained with a pooling that is not available here ({stated}); "
            "using the mean."
        )
        return "mean"
    if _is_decoder(config):
        return "last"
    return "mean" if tokenizer.cls_token_id is None else "cls"


def _content(source: str, name: str, **where: Any) -> Any:
    """What a JSON file of the checkpoint holds; None without such a file."""
    file = cached_file(
        source,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    return None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _is_decoder(config: Config) -> bool:
    """Whether the model reads from left to right only, as GPT-2 and Llama do."""
    causal_only = (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    return bool(causal_only or getattr(config, "is_decoder", False))
