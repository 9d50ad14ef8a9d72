"""The mean over a text's tokens, as one more layer of a Transformer.

transformers' sequence-classification classes of BERT and its kin look at the first token only; many
sentence encoders are trained for the mean. Attention whose queries are zero is that mean, so a
layer on top can carry it to the first token:

- its values are the logits themselves, linear in the hidden states, and so is their mean;
- the hidden states that the residual connection adds are made vanishingly small by the norm below,
  and the values make up for it;
- a constant that dwarfs the logits keeps the two norms of the layer from rescaling them.

All of it is exact but for rounding: logits agree to about five digits in float32.
"""

from collections.abc import Mapping

import torch
from transformers import PreTrainedConfig as Config

__all__ = ["add_mean_layer", "has_room"]

Weights = dict[str, torch.Tensor]

# Powers of two, so that scaling is exact.
RESIDUAL = 2.0**-30  # what is left of the hidden states below
CONSTANT = 2.0**10
LOGIT = 2.0**-5  # a logit beside the constant: small enough for the norm to be linear

LAYER = "encoder.layer.{}."


def has_room(body: Mapping[str, torch.Tensor], config: Config, n_classes: int) -> bool:
    """Whether the backbone is made like BERT, and wide enough for the logits and three more."""
    last, width = LAYER.format(getattr(config, "num_hidden_layers", 0) - 1), config.hidden_size
    shapes = {
        "attention.self.value.weight": (width, width),
        "attention.output.dense.weight": (width, width),
        "attention.output.LayerNorm.weight": (width,),
        "output.LayerNorm.weight": (width,),
    }
    like_bert = all(
        last + name in body and body[last + name].shape == shape for name, shape in shapes.items()
    )
    return like_bert and n_classes + 3 <= width


def add_mean_layer(
    body: Mapping[str, torch.Tensor], config: Config, weight: torch.Tensor, bias: torch.Tensor
) -> tuple[Weights, torch.Tensor, torch.Tensor]:
    """Weights whose first token has, on top, the logits of the mean token.

    Parameters
    ----------
    body : dict of Tensor
        The backbone's, which stay as they are.
    config : transformers.PreTrainedConfig
        Is given a layer more.
    weight, bias : Tensor of shape (n_classes, width) and (n_classes,)
        The head on the mean.

    Returns
    -------
    body : dict of Tensor
    weight, bias : Tensor of shape (n_classes, width) and (n_classes,)
        The head on the first token.
    """
    (n_classes, width), top = weight.shape, config.num_hidden_layers
    below, layer = LAYER.format(top - 1), LAYER.format(top)
    config.num_hidden_layers += 1

    values = torch.zeros(width, width)
    values[:n_classes] = weight / RESIDUAL
    value_bias = torch.zeros(width)
    value_bias[:n_classes] = bias
    # Each logit in a place of its own, minus their sum in the next, and the constant in two more:
    # the mean over all places is zero, and the variance is that of the constant.
    placed = torch.zeros(width, width)
    placed[:n_classes, :n_classes] = LOGIT * torch.eye(n_classes)
    placed[n_classes, :n_classes] = -LOGIT
    constant = torch.zeros(width)
    constant[n_classes + 1], constant[n_classes + 2] = CONSTANT, -CONSTANT

    new = {f"{layer}{n.removeprefix(below)}": w for n, w in body.items() if n.startswith(below)}
    new = {name: torch.zeros_like(tensor) for name, tensor in new.items()}
    for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
        new[f"{layer}{norm}.weight"] = torch.ones(width)
    new |= {
        f"{layer}attention.self.value.weight": values,
        f"{layer}attention.self.value.bias": value_bias,
        f"{layer}attention.output.dense.weight": placed,
        f"{layer}attention.output.dense.bias": constant,
    }
    smaller = [f"{below}output.LayerNorm.{kind}" for kind in ("weight", "bias")]
    shrunk = {name: body[name] * RESIDUAL for name in smaller}
    scale = CONSTANT * (2 / width) ** 0.5 / LOGIT  # by which the norms divide what was placed
    return {**body, **shrunk, **new}, scale * torch.eye(n_classes, width), torch.zeros(n_classes)
