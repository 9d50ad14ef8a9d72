"""`EncodedTexts` -> logits or vectors, in the caller's order."""

from collections.abc import Callable

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._batching import Budget, Padding, pad, sorted_batches
from sklearn_transformers._device import autocast, check_out_of_memory, to_device
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._process import refuse_fork
from sklearn_transformers._tokenization import encode

__all__ = ["answer", "run"]

# Texts that are tokenised and sorted by length together: their tokens are small beside a model.
CHUNK = 2**16

Forward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def answer(
    read: Callable[[EncodedTexts], np.ndarray],
    texts: list[str],
    tokenizer: Tokenizer,
    padding: Padding,
) -> np.ndarray:
    """Read any number of texts, some at a time: more texts need no more memory for tokens.

    Parameters
    ----------
    read : callable
        Some texts -> their outputs, one row each.
    texts : list of str
        At least one.
    tokenizer : transformers.PreTrainedTokenizerBase
    padding : Padding

    Returns
    -------
    outputs : ndarray of shape (n_texts, n_outputs), float32
    """
    chunks = (texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK))
    tokens = (encode(tokenizer, chunk, padding.longest, padding.cut) for chunk in chunks)
    return np.concatenate([read(some) for some in tokens])


def run(
    forward: Forward,
    texts: EncodedTexts,
    padding: Padding,
    device: str,
    precision: str = "float32",
    budget: Budget | None = None,
    observe: Callable[[np.ndarray, torch.Tensor], None] | None = None,
) -> np.ndarray:
    """Send every text through `forward`, equal ones once; answers in the order of `texts`.

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
    budget : Budget, default=None
        How much goes through the model at once; shrinks where memory runs out.
    observe : callable, default=None
        Called after each batch with the rows that it answers and their outputs.

    Returns
    -------
    outputs : ndarray of shape (n_texts, n_outputs), float32
    """
    if device.startswith("cuda"):
        refuse_fork()
    rows, twins = texts.distinct()
    batches: list[np.ndarray] = []
    by_length, n_done = torch.empty(0), 0
    budget = Budget.on(device) if budget is None else budget
    # The caller may stand inside an autocast block: it makes no difference to the answers.
    with torch.inference_mode(), autocast(device, precision):
        for batch in sorted_batches(texts.lengths, rows, padding, budget):
            output = _read(forward, texts, batch, padding, device, budget)
            batches.append(batch)
            if n_done == 0:
                by_length = output.new_empty((len(rows), *output.shape[1:]), dtype=torch.float32)
            # Kept as they are, thousands of small tensors would scatter over the heap.
            by_length[n_done : n_done + len(batch)] = output
            n_done += len(batch)
            if observe is not None:
                observe(*_with_twins(batch, output, rows, twins))
        # One copy to the host at the end: a copy per batch would wait for the GPU each time.
        in_order = by_length.cpu().numpy()
    answers = np.empty((len(texts), in_order.shape[1]), np.float32)
    answers[np.concatenate(batches)] = in_order
    return answers if len(rows) == len(texts) else answers[rows[twins]]


def _read(
    forward: Forward,
    texts: EncodedTexts,
    rows: np.ndarray,
    padding: Padding,
    device: str,
    budget: Budget,
) -> torch.Tensor:
    """The outputs of one batch, in parts where memory does not suffice for all."""
    input_ids, mask = pad(texts, rows, padding, budget)
    try:
        return forward(to_device(input_ids, device), to_device(mask, device))
    except RuntimeError as error:
        check_out_of_memory(error, *mask.shape)
    # Out here nothing holds on to what was computed so far.
    budget.halve(*mask.shape)
    parts = sorted_batches(texts.lengths, rows, padding, budget)
    return torch.cat([_read(forward, texts, part, padding, device, budget) for part in parts])


def _with_twins(
    batch: np.ndarray, output: torch.Tensor, rows: np.ndarray, twins: np.ndarray
) -> tuple[np.ndarray, torch.Tensor]:
    """A batch and its outputs, with all rows that equal one of it."""
    if len(rows) == len(twins):
        return batch, output
    place = np.full(len(twins), -1)
    place[batch] = np.arange(len(batch))
    place = place[rows[twins]]
    (everyone,) = np.nonzero(place >= 0)
    return everyone, output[torch.from_numpy(place[everyone]).to(output.device)]
