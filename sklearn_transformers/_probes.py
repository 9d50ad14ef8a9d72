"""Fixed texts by which a tokenizer that has changed is found out."""

__all__ = ["PROBES"]

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
