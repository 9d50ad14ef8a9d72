"""`EncodedTexts` -> logits or vectors, in the caller's order."""

from collections.abc import Callable

import numpy as np
import torch

from sklearn_transformers._batching import Padding, pad, sorted_batches
from sklearn_transformers._device import autocast, to_device
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._process import refuse_fork

__all__ = ["run"]

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def run(
    forward: Forward,
    texts: EncodedTexts,
    padding: Padding,
    device: str,
    *,
    precision: str = "float32",
    observe: Callable[[np.ndarray, torch.Tensor], None] | None = None,
) -> np.ndarray:
    """Send every text through `forward` and bring the answers back in the order of `texts`.

    Parameters
    ----------
    forward : callable
        Token ids and attention mask of shape (b, s) -> tensor of shape (b, n_outputs).
        The module it belongs to must be in evaluation mode.
    texts : EncodedTexts
    padding : Padding
    device : str
    precision : str, default="float32"
        Number format of the forward pass.
    observe : callable, default=None
        Called after each batch with its rows and outputs.

    Returns
    -------
    outputs : ndarray of shape (n_texts, n_outputs), float32
    """
    if device.startswith("cuda"):
        refuse_fork()
    batches, outputs = [], []
    # The caller may stand inside an autocast block: it makes no difference to the answers.
    with torch.inference_mode(), autocast(device, precision):
        for rows in sorted_batches(texts.lengths, np.arange(len(texts)), padding):
            input_ids, mask = pad(texts, rows, padding)
            output = forward(to_device(input_ids, device), to_device(mask, device))
            batches.append(rows)
            outputs.append(output)
            if observe is not None:
                observe(rows, output)
        # One copy to the host at the end: a copy per batch would wait for the GPU each time.
        by_length = torch.cat(outputs).float().cpu().numpy()
    answers = np.empty_like(by_length)
    answers[np.concatenate(batches)] = by_length
    return answers
