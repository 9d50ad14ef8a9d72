"""Fixed texts by which a tokenizer that has changed is found out."""

from collections.abc import Mapping
from typing import Any

__all__ = ["PROBES", "check_probes"]

# What tokenizers differ in: case, accents, spaces, numbers, scripts, special tokens.
PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "  Double  spaces,\ttabs\nand newlines ",
    "don't re-use e-mail@example.org: 3.14 % of 1,000 $",
    "Ünïcödé naïve café, Cafe\u0301 İstanbul straße ﬁn",
    "Съешь же ещё этих мягких французских булок",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "我能吞下玻璃而不伤身体。",
    "いろはにほへと カタカナ",
    "키스의 고유조건은 입술끼리 만나야",
    "نص حكيم له سر قاطع",
    "שלום עולם",
    "ऋषियों को सताने वाले",
    "เป็นมนุษย์สุดประเสริฐ",
    "👩‍👩‍👧 ok 👍🏽 \u200b\ufeff",
    "[MASK] <s> </s> [SEP] <|endoftext|>",
    "",
)


def check_probes(golden: Mapping[str, Any]) -> None:
    """Refuse more or longer texts than any version asks: a file from a stranger could keep us busy.

    Raises
    ------
    ValueError
    """
    if len(golden) > 100 or any(len(text) > 1000 for text in golden):
        raise ValueError(f"{len(golden)} probes, or too long ones")
