"""Where a training stands, as tensors and plain values, and back."""

from collections.abc import Iterator
from typing import Any

import torch

from sklearn_transformers._process import random_states, set_random_states

__all__ = ["restore_training", "training_state"]


def training_state(net: Any) -> dict[str, Any]:
    """All that decides how a `FineTuningNet` goes on, at the end of a step or of an epoch."""
    logits = getattr(net, "valid_logits_", None)
    return {
        "weights": dict(_tensors(net.module_)),
        "parts": {name: part.state_dict() for name, part in _parts(net)},
        "history": [_without_batches(row) for row in net.history if "seconds" in row],
        "order": net.order_,
        "loss_sum": net.loss_sum_,
        "n_seen": net.n_seen_,
        "lost": net.lost_,
        "rates": net.rates_,
        "stop_training": net.stop_training,
        "temperature": net.temperature_,
        "valid_logits": None if logits is None else torch.from_numpy(logits),
        "budget": net.recipe.budget.tokens,
        "random": random_states(net.device),
    }


def restore_training(net: Any, state: dict[str, Any]) -> None:
    """Bring a net that is ready to train to where another one stood."""
    with torch.no_grad():
        for name, tensor in _tensors(net.module_):
            tensor.copy_(state["weights"][name])
    for name, part in _parts(net):
        part.load_state_dict(state["parts"][name])
    net.history.extend(state["history"])
    net.order_ = net.rng.bit_generator.state = state["order"]
    net.loss_sum_, net.n_seen_ = state["loss_sum"].to(net.device), state["n_seen"]
    net.lost_, net.rates_ = state["lost"].to(net.device), state["rates"]
    net.stop_training, net.temperature_ = state["stop_training"], state["temperature"]
    if state["valid_logits"] is not None:
        net.valid_logits_ = state["valid_logits"].numpy()
    net.recipe.budget.tokens = state["budget"]
    set_random_states(state["random"], net.device)


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        yield name, tensor.detach()


def _parts(net: Any) -> Iterator[tuple[str, Any]]:
    """The optimiser, the scaler and those callbacks that have a state."""
    yield from (("optimizer", net.optimizer_), ("scaler", net.scaler_))
    yield from ((name, cb) for name, cb in net.callbacks_ if hasattr(cb, "state_dict"))


def _without_batches(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the history; its batches are for callbacks of the user, who has none here."""
    return {name: value for name, value in row.items() if name != "batches"}
