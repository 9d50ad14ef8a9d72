"""Real text that every installation has: docstrings of SciPy, NumPy and scikit-learn by topic.

Neither trivial nor hopeless to tell apart. Run this file to see what it finds.
"""

import importlib
import inspect
import random
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

TOPICS = {
    "arrays": ["numpy"],
    "clustering": ["sklearn.cluster", "scipy.cluster.hierarchy", "scipy.cluster.vq"],
    "datasets": ["sklearn.datasets"],
    "decomposition": ["sklearn.decomposition", "sklearn.cross_decomposition", "sklearn.manifold"],
    "ensembles": ["sklearn.ensemble", "sklearn.tree"],
    "fft": ["scipy.fft", "numpy.fft", "scipy.fftpack"],
    "images": ["scipy.ndimage"],
    "integration": ["scipy.integrate", "scipy.differentiate"],
    "interpolation": ["scipy.interpolate", "numpy.polynomial"],
    "linalg": ["scipy.linalg", "numpy.linalg"],
    "linear models": ["sklearn.linear_model", "sklearn.svm"],
    "metrics": ["sklearn.metrics"],
    "model selection": ["sklearn.model_selection", "sklearn.calibration", "sklearn.pipeline"],
    "optimize": ["scipy.optimize"],
    "preprocessing": ["sklearn.preprocessing", "sklearn.impute", "sklearn.feature_selection"],
    "signal": ["scipy.signal", "scipy.signal.windows"],
    "sparse": ["scipy.sparse", "scipy.sparse.linalg", "scipy.sparse.csgraph"],
    "spatial": ["scipy.spatial", "scipy.spatial.distance", "sklearn.neighbors"],
    "stats": ["scipy.stats", "scipy.stats.qmc"],
}
PARAGRAPHS_PER_DOCSTRING = 2
SHORTEST = 40


def load_docstring_topics(max_per_topic: int = 120) -> tuple[list[str], list[str]]:
    """Gather paragraphs of docstrings and their topics.

    A paragraph that occurs under two topics is dropped, so that every text has one right
    answer; topics with more than `max_per_topic` paragraphs are sampled with a fixed seed.
    """
    paragraphs = {topic: _paragraphs_of(modules) for topic, modules in TOPICS.items()}
    n_topics = Counter(text for found in paragraphs.values() for text in found)
    texts, topics = [], []
    for topic, found in paragraphs.items():
        unique = sorted(text for text in found if n_topics[text] == 1)
        if len(unique) > max_per_topic:
            unique = random.Random(0).sample(unique, max_per_topic)
        texts += unique
        topics += [topic] * len(unique)
    return texts, topics


def _paragraphs_of(modules: list[str]) -> set[str]:
    found = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at a deprecated name warns
        for module in modules:
            for thing in _public_objects(importlib.import_module(module)):
                found.update(_first_paragraphs(inspect.getdoc(thing) or ""))
    return found


def _public_objects(module: Any) -> Iterator[Any]:
    """Yield the functions and classes of a module, and the methods of the classes."""
    for name in sorted(getattr(module, "__all__", dir(module))):
        thing = vars(module).get(name)  # getattr would trigger lazy imports
        if name.startswith("_") or inspect.ismodule(thing) or not callable(thing):
            continue
        yield thing
        if inspect.isclass(thing):
            yield from (
                member for key, member in sorted(vars(thing).items()) if not key.startswith("_")
            )


def _first_paragraphs(docstring: str) -> list[str]:
    """Return the first prose before the sections, one line a paragraph."""
    prose = re.split(r"^\s*[A-Z].*\n\s*-{3,}", docstring, maxsplit=1, flags=re.MULTILINE)[0]
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", prose)]
    wanted = [
        text
        for text in paragraphs
        if len(text) >= SHORTEST and text[0].isalpha() and not text.endswith(")")
    ]
    return wanted[:PARAGRAPHS_PER_DOCSTRING]


if __name__ == "__main__":
    all_texts, all_topics = load_docstring_topics()
    print(f"{len(all_texts)} paragraphs, {len(TOPICS)} topics")
    for one_topic, count in Counter(all_topics).items():
        print(f"{count:5d}  {one_topic:16s} {all_texts[all_topics.index(one_topic)][:70]}...")
