"""What is followed of the configurations in a folder, whoever may have written it."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["harmless"]

# Entries of a configuration that make transformers fetch or run what is no part of the model.
# Files of a tokenizer go by fixed names, and labels are ours to keep.
NOT_READ = re.compile(
    r"auto_map|.*_file|num_labels|id2label|label2id"
    r"|.*attn_implementation.*|.*experts_implementation.*|quantization.*"
)
# Numbers in it that say how often something is built, and how large; others do no harm.
COUNTS = re.compile(r".*(layers?|groups?|blocks?|group_num)")
SIZES = re.compile(r".*(size|dim|d_model|positions?|embeddings|heads?|experts?)")
LARGEST_SIZE = 2**31


def harmless(files: Mapping[str, bytes], n_weights: int) -> dict[str, bytes]:
    """The files, without the entries of their configurations that nobody should follow.

    Raises
    ------
    ValueError
        When the configuration speaks of a model that the weights cannot be of.
    """
    kept = {
        file: {n: v for n, v in json.loads(files[file]).items() if not NOT_READ.fullmatch(n)}
        for file in ("config.json", "tokenizer_config.json")
        if file in files
    }
    for name, number in _numbers(kept["config.json"]):
        # Layers of one kind may be one layer that is repeated, as in ALBERT.
        limit = 64 + n_weights if COUNTS.fullmatch(name) else LARGEST_SIZE
        if abs(number) > limit and (COUNTS.fullmatch(name) or SIZES.fullmatch(name)):
            raise ValueError(f"config.json has {name}={number}, but the weights are not as many")
    return {**files, **{name: json.dumps(content).encode() for name, content in kept.items()}}


def _numbers(config: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number in a configuration, with the name that it goes by."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from _numbers(value, key)
    elif isinstance(config, list):
        for value in config:
            yield from _numbers(value, name)
    elif isinstance(config, int):
        yield name, config
