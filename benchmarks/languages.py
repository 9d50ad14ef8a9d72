"""Messages of a program in many languages, and the language of each.

Most of these the bundled encoder, which was trained on English, has hardly seen; some of them are
in scripts of which it knows single letters only.
"""

import importlib.util
import random
from pathlib import Path

LENGTH = range(30, 1000)  # of a message, in characters
FEWEST, MOST = 100, 150  # messages of a language


def load_languages():
    """Messages on one line and the codes of their languages, in random order."""
    from babel.messages.pofile import read_po  # comes with Sphinx

    rng = random.Random(0)
    rows = []
    folder = Path(importlib.util.find_spec("sphinx").submodule_search_locations[0], "locale")
    for path in sorted(folder.glob("*/LC_MESSAGES/sphinx.po")):
        language = path.parts[-3]
        if language == "ca@valencia":  # the messages of "ca", nearly all to the letter
            continue
        with path.open("rb") as file:
            own = sorted(set(translated(read_po(file))))
        if len(own) >= FEWEST:
            rows += [(text, language) for text in rng.sample(own, min(MOST, len(own)))]
    rng.shuffle(rows)
    return zip(*rows, strict=True)


def translated(catalogue):
    """Messages that are neither missing, doubtful nor left in English."""
    for message in catalogue:
        text = message.string
        if message.id and isinstance(text, str) and not message.fuzzy and text != message.id:
            text = " ".join(text.split())
            if len(text) in LENGTH:
                yield text
