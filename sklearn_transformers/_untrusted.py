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
# Numbers that may say how often something is built, unless their name ends in what has a size.
COUNTS = re.compile(
    r"(?!.*_(size|dim|vocab|input)$)"
    r".*(layer|group|block|expert|stack|hash_func|feedforward_networks|attention_types).*"
)
# Of others none needs to be larger, but for those that nothing is built by.
LARGEST_NUMBER = 2**31
OF_NO_MATTER = re.compile(r".*seed|.*max_length|num_parameters|total_.*")


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
        limit = 64 + n_weights if COUNTS.fullmatch(name) else LARGEST_NUMBER
        if abs(number) > limit and not OF_NO_MATTER.fullmatch(name):
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
