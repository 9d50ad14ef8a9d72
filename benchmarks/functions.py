"""Python functions, and the package that each is from: texts that are known by their words alone.

An encoder of English sentences has never seen source code, while names give a package away.
"""

import ast
import importlib.util
import random
from pathlib import Path

# All are installed with this package or with what it needs.
PACKAGES = (
    "huggingface_hub",
    "joblib",
    "networkx",
    "numpy",
    "scipy",
    "skorch",
    "sklearn",
    "sympy",
    "torch",
    "transformers",
)
LINES = range(5, 27)  # of a function
MOST = 700  # functions of a package


def load_functions():
    """Sources on one line, without the package's name, and the names, in random order."""
    rng = random.Random(0)
    rows = []
    for package in PACKAGES:
        folder = Path(importlib.util.find_spec(package).submodule_search_locations[0])
        own = set()
        for path in sorted(folder.rglob("*.py")):
            if "test" not in str(path.relative_to(folder)):
                own.update(sources(path, package))
        rows += [(text, package) for text in rng.sample(sorted(own), min(MOST, len(own)))]
    rng.shuffle(rows)
    return zip(*rows, strict=True)


def sources(path, package):
    """The functions of a file, but those that are very short or long."""
    source = path.read_text(encoding="utf-8")
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 in LINES:
            text = " ".join(lines[node.lineno - 1 : node.end_lineno])
            yield " ".join(text.replace(package, "PACKAGE").split())
