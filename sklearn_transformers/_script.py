"""Whether a tokenizer knows the script that a text is written in."""

import unicodedata

from transformers import PreTrainedTokenizerBase as Tokenizer

from sklearn_transformers._probes import PROBES
from sklearn_transformers._tokenization import golden_ids

__all__ = ["is_spelled_out", "spells_all_out"]

# Tokens for each letter from which on a text is spelled out, and where each character is a word or
# a syllable, which Unicode has from there on.
SPELLED, SPELLED_EAST_ASIAN, FIRST_EAST_ASIAN = 0.7, 1.2, "\u2e80"
LANGUAGES = ("it was a good book", *PROBES[4:12])


def spells_all_out(tokenizer: Tokenizer) -> bool:
    """Whether it has words of no language: it reads bytes or characters by design."""
    n_special = tokenizer.num_special_tokens_to_add()
    read = golden_ids(tokenizer, LANGUAGES).items()
    return all(len(ids) - n_special > len(words) / 2 for words, ids in read)


def is_spelled_out(text: str, n_pieces: int) -> bool:
    """Whether a text not in ASCII has about a token for each letter."""
    characters = "".join(text.split())
    if text.isascii() or n_pieces <= SPELLED * len(characters):
        return False
    letters = (c for c in characters if unicodedata.category(c)[0] in "LM")  # and no emoji
    n_alphabetic = sum(c < FIRST_EAST_ASIAN for c in letters)
    return 2 * n_alphabetic >= len(characters) or n_pieces > SPELLED_EAST_ASIAN * len(characters)
