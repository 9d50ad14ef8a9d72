import subprocess
import sys

LIGHT = """
import sys
from sklearn.base import clone
from sklearn_transformers import TransformerTextClassifier
clf = clone(TransformerTextClassifier(max_epochs=3))
repr(clf)
clf.get_params()
heavy = {"torch", "transformers", "skorch", "tokenizers"} & set(sys.modules)
print(sorted(heavy))
"""


def test_import__construct_clone_print__load_neither_torch_nor_transformers():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version__package__matches_the_installed_one():
    from importlib.metadata import version

    import sklearn_transformers

    assert sklearn_transformers.__version__ == version("sklearn-transformers")
