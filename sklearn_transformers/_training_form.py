"""The form that a model has while it trains: the same function, with quicker or steadier parts."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from sklearn_transformers._attention import swift_attention
from sklearn_transformers._dropout import SwiftDropout
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._packing import can_be_packed
from sklearn_transformers._steady import SteadyLayerNorm
from sklearn_transformers._vocabulary import compact_vocabulary

__all__ = ["replaced_layers", "training_form"]

REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: SwiftDropout,
    nn.LayerNorm: SteadyLayerNorm,
}


@contextmanager
def training_form(
    model: TextClassifier,
    backbone: PreTrainedModel,
    token_ids: np.ndarray,
    *,
    gradient_checkpointing: bool = False,
    compiled: bool = False,
) -> Iterator[None]:
    """Give the model its training form; afterwards it consists of torch's own modules again.

    What training left in it besides weights, its gradients, goes too.

    Parameters
    ----------
    model : TextClassifier
    backbone : transformers.PreTrainedModel
        The part of it that reads tokens.
    token_ids : ndarray of shape (n_tokens,)
        The tokens of the training texts, each once.
    gradient_checkpointing : bool, default=False
        Keep each layer's input only, and compute the rest again for the gradient.
    compiled : bool, default=False
        Let torch compile the backbone.
    """
    with (
        replaced_layers(model),
        swift_attention(backbone),
        compact_vocabulary(backbone, token_ids),
        _checkpointed_layers(backbone) if gradient_checkpointing else nullcontext(),
        _compiled(backbone) if compiled else nullcontext(),
    ):
        model.packed = can_be_packed(backbone.config) and not compiled
        try:
            yield
        finally:
            model.packed = False
            model.zero_grad(set_to_none=True)


@contextmanager
def _checkpointed_layers(backbone: PreTrainedModel) -> Iterator[None]:
    """Chen et al. (2016), "Training Deep Nets with Sublinear Memory Cost"."""
    # Later releases of transformers 5 call it by a new name, and warn of the old one.
    renamed = hasattr(backbone, "activation_checkpointing_enable")
    name = "activation_checkpointing" if renamed else "gradient_checkpointing"
    getattr(backbone, f"{name}_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(backbone, f"{name}_disable")()


@contextmanager
def _compiled(backbone: PreTrainedModel) -> Iterator[None]:
    backbone.compile(dynamic=True)  # lengths differ from batch to batch
    try:
        yield
    finally:
        backbone._compiled_call_impl = None  # torch has no public way back


@contextmanager
def replaced_layers(model: nn.Module) -> Iterator[None]:
    """Let layers of torch's be those of ours that do the same."""
    layers = [(layer, type(layer)) for layer in model.modules() if type(layer) in REPLACEMENTS]
    for layer, kind in layers:
        layer.__class__ = REPLACEMENTS[kind]
    try:
        yield
    finally:
        for layer, kind in layers:
            layer.__class__ = kind
