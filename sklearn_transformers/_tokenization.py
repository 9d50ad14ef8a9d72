"""Texts -> token ids, and the facts about a tokenizer that a batch needs."""

import warnings
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._encoded import EncodedTexts

__all__ = ["encode", "padding_id", "resolve_max_length"]

# Texts handed to the tokenizer at once: enough to keep all cores busy, few enough that
# Python's lists of ints stay small beside the arrays they end in.
CHUNK = 1024


def encode(tokenizer: Tokenizer, texts: list[str], max_length: int) -> EncodedTexts:
    """Tokenise with special tokens; cut longer texts at the end.

    A text without a single token, such as "" for GPT-2, becomes one neutral token: a model
    cannot read nothing.
    """
    neutral = [_neutral_id(tokenizer)]

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


def padding_id(tokenizer: Tokenizer, backbone: PreTrainedModel) -> int:
    """The id to pad with; the attention mask hides it, so decoders without one may take any."""
    for candidate in (tokenizer.pad_token_id, backbone.config.pad_token_id):
        if candidate is not None and candidate >= 0:
            return int(candidate)
    return _neutral_id(tokenizer)


def resolve_max_length(max_length: int, tokenizer: Tokenizer, backbone: PreTrainedModel) -> int:
    """`max_length`, or the longest input that the backbone and its tokenizer can take."""
    limits = [max_length, tokenizer.model_max_length, *_position_limits(backbone)]
    longest = int(min(limits))
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


def _neutral_id(tokenizer: Tokenizer) -> int:
    candidates = (
        tokenizer.bos_token_id,
        tokenizer.cls_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    return next((int(i) for i in candidates if i is not None), 0)
