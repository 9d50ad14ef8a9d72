"""Texts -> token ids, and how long an input may be."""

import warnings
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._pretrained import neutral_id

__all__ = ["encode", "resolve_max_length"]

# Texts handed to the tokenizer at once: enough to keep all cores busy, few enough that
# Python's lists of ints stay small beside the arrays they end in.
CHUNK = 1024


def encode(tokenizer: Tokenizer, texts: list[str], max_length: int) -> EncodedTexts:
    """Tokenise with special tokens; cut longer texts at the end.

    A text without a single token, such as "" for GPT-2, becomes one neutral token: a model
    cannot read nothing.
    """
    neutral = [neutral_id(tokenizer)]

    def chunks() -> Iterator[list[list[int]]]:
        for start in range(0, len(texts), CHUNK):
            batch = tokenizer(
                texts[start : start + CHUNK],
                truncation=True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            yield [ids or neutral for ids in batch["input_ids"]]

    return EncodedTexts.from_lists(chunks())


def resolve_max_length(max_length: int, tokenizer: Tokenizer, backbone: PreTrainedModel) -> int:
    """Return `max_length`, or the longest input that backbone and tokenizer can take.

    Raises
    ------
    ValueError
        When the special tokens leave no room for text.
    """
    n_special = tokenizer.num_special_tokens_to_add()
    if max_length <= n_special:
        raise ValueError(
            f"max_length={max_length} leaves no room for text beside the {n_special} special "
            f"tokens of this model. Use at least {n_special + 1}."
        )
    longest = int(min([max_length, tokenizer.model_max_length, *_position_limits(backbone)]))
    if longest < max_length:
        warnings.warn(
            f"max_length={max_length} is more than this model can read; using {longest}.",
            stacklevel=2,
        )
    return longest


def _position_limits(backbone: PreTrainedModel) -> list[int]:
    """How many positions the backbone has, as its position embeddings or its config say."""
    tables = [
        module
        for name, module in backbone.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    if tables:
        # RoBERTa and its kin count positions from padding_idx + 1 on.
        return [
            table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
            for table in tables
        ]
    stated = getattr(backbone.config, "max_position_embeddings", None)
    return [stated] if isinstance(stated, int) and stated > 0 else []
