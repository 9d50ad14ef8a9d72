"""Every Python snippet of the README and the user guide runs as it stands."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def snippets(file):
    return re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.pretrained
@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "docs/guide.md",
        "docs/recipe.md",
        "docs/tuning.md",
        "docs/persistence.md",
        "docs/in_scikit_learn.md",
    ],
)
def test_snippets__pasted_one_after_the_other__run(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = snippets(file)
    assert blocks
    namespace = {"__name__": "__main__"}
    for block in blocks:
        if "sklearn.callback" in block and importlib.util.find_spec("sklearn.callback") is None:
            continue  # the page says that this one needs scikit-learn 1.9
        exec(compile(block, file, "exec"), namespace)


def test_readme__commands__are_as_promised():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert 'pip install -c constraints.txt -e ".[offline]" && python examples/quickstart.py' in text
    assert 'pip install -c constraints.txt -e ".[offline,test]" && pytest -n auto\n' in text


def test_readme__table__names_real_parameters():
    import inspect

    from sklearn_transformers import TransformerTextClassifier

    table = re.findall(r"^\| .+ \| (.+) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)(?:=[^`]*)?`", " ".join(table)))
    assert len(named) > 10
    assert named <= set(inspect.signature(TransformerTextClassifier).parameters)
