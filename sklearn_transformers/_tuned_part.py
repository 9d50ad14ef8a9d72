"""What of a model learns: all its weights, the upper layers', the biases, or additions."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sklearn_transformers._compat import import_optional
from sklearn_transformers._model import TextClassifier, depths
from sklearn_transformers._recipe import Recipe

__all__ = ["merge_additions", "tuned_part"]

# Names of the weights that rest. The head of contrastive tuning is fitted, not trained.
RESTING = {
    "bias": r"backbone\..*(?<!bias)$",
    "prompt": r"backbone\.",
    "head": r"(backbone\.|prompt$)",
    "contrastive": r"head\.",
}


@contextmanager
def tuned_part(model: TextClassifier, recipe: Recipe) -> Iterator[None]:
    """Let only what the recipe names learn; afterwards the backbone is one of its kind again.

    "bias": Ben Zaken et al. (2022), "BitFit". "prompt": Lester et al. (2021), "The Power of Scale
    for Parameter-Efficient Prompt Tuning". "lora": Hu et al. (2022), "LoRA", on every linear
    layer, as Dettmers et al. (2023), "QLoRA", found best; merged into the layers when training
    ends, so that prediction costs the same and nothing else has to know.
    """
    if recipe.tuning not in ("prompt", "head"):
        model.mark_origin(None)
    with ExitStack() as stack:
        if recipe.tuning == "lora":
            stack.enter_context(_low_rank_additions(model.backbone, recipe))
        names = [name for name, _ in model.backbone.named_parameters()]
        if recipe.tuning == "bias" and not any(name.endswith("bias") for name in names):
            raise ValueError(
                f"tuning='bias', but {type(model.backbone).__name__} has no biases. Use 'lora', or "
                "'head' to train nothing else."
            )
        if recipe.tuning in RESTING:
            stack.enter_context(_frozen(model, RESTING[recipe.tuning]))
        if recipe.freeze_layers:
            stack.enter_context(_frozen(model, _lowest(model.backbone, recipe.freeze_layers)))
        if not any(weight.requires_grad for weight in model.parameters()):
            raise ValueError(
                f"freeze_layers={recipe.freeze_layers} freezes the whole backbone, and tuning="
                f"{recipe.tuning!r} trains nothing else. Lower it."
            )
        yield


def _lowest(backbone: PreTrainedModel, n_layers: int) -> str:
    """The weights of the lowest layers, and of the embeddings below them."""
    depth = depths(backbone)
    if n_layers > (there := max(depth.values())):
        raise ValueError(
            f"freeze_layers={n_layers}, but {type(backbone).__name__} has {there} layers that can "
            "be told apart. Lower it; tuning='head' freezes the whole backbone."
        )
    low = [re.escape(name) for name, up in depth.items() if up >= there - n_layers]
    return rf"backbone\.({'|'.join(low)})$"


@contextmanager
def _frozen(model: nn.Module, pattern: str) -> Iterator[None]:
    """Let the weights rest whose names match."""
    frozen = [
        weight
        for name, weight in model.named_parameters()
        if weight.requires_grad and re.match(pattern, name)
    ]
    for weight in frozen:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(True)


@contextmanager
def _low_rank_additions(backbone: PreTrainedModel, recipe: Recipe) -> Iterator[None]:
    peft = import_optional("peft", "tuning='lora'", "peft")
    # Some families write their linear layers as convolutions over single tokens.
    linear = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        or (isinstance(module, nn.Conv1d) and module.groups == 1)
    ]
    config = peft.LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=linear,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in backbone.modules()),
    )
    peft.inject_adapter_in_model(config, backbone)
    try:
        yield
    finally:
        merge_additions(backbone)
        backbone.requires_grad_(True)


def merge_additions(backbone: nn.Module) -> None:
    """Make LoRA's additions part of the layers that they were put into."""
    wrapped = [name for name, m in backbone.named_modules() if hasattr(m, "get_base_layer")]
    for name in wrapped:
        layer: Any = backbone.get_submodule(name)
        layer.merge()
        holder, _, own = name.rpartition(".")
        setattr(backbone.get_submodule(holder), own, layer.get_base_layer())
    if wrapped:
        del backbone.peft_config
