"""The table in docs/design.md is the law: rows, third-party imports, no circles."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "sklearn_transformers"
ROW = re.compile(r"\| (\d+) \| `(\w+)\.py` \| .+ \| (.+) \|")


def design_table():
    """Module -> (row, third-party packages it may import)."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    return {
        module: (int(row), set() if allowed == "none" else set(allowed.split(", ")))
        for row, module, allowed in ROW.findall(text)
    }


TABLE = design_table()


def imports(module):
    """Every module that a file imports, at the top or inside functions."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}.py imports relatively in line {node.lineno}"
            yield node.module


def test_table__modules__are_those_of_the_package():
    assert set(TABLE) == {path.stem for path in PACKAGE.glob("*.py")}


@pytest.mark.parametrize("module", sorted(TABLE))
def test_module__own_imports__come_from_rows_above(module):
    own_row, _ = TABLE[module]
    for name in imports(module):
        if name.split(".")[0] == "sklearn_transformers":
            imported = name.split(".")[1]
            assert TABLE[imported][0] < own_row, f"{module} (row {own_row}) imports {imported}"


@pytest.mark.parametrize("module", sorted(TABLE))
def test_module__third_party_imports__are_in_its_column(module):
    _, allowed = TABLE[module]
    packages = {name.split(".")[0] for name in imports(module)}
    third_party = packages - {"sklearn_transformers"} - set(sys.stdlib_module_names)
    assert third_party <= allowed


def test_private_scikit_learn_names__only_in_compat():
    for module in set(TABLE) - {"_compat"}:
        private = [n for n in imports(module) if re.match(r"sklearn\.(.*\.)?_", n)]
        assert private == [], module


def test_modules__stay_short():
    docstrings_apart = {"_classifier"}  # numpydoc of every public method
    for module in set(TABLE) - docstrings_apart:
        assert len((PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()) <= 300
