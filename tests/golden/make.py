"""Write the files of the current format that later versions must be able to read.

Run once for each format, before its first release: ``python tests/golden/make.py``.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import joblib

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from conftest import _backbone, _tokenizer, toy_texts  # noqa: E402

from sklearn_transformers import TransformerTextClassifier  # noqa: E402
from sklearn_transformers._folder import FORMAT  # noqa: E402

TEXTS = ["the film was great", "bad " * 30, "", "quite 漢字"]


def main():
    """Train a tiny model and write it as pickle and as folder, with its answers."""
    target = HERE / f"format_{FORMAT}"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # so that no path of this machine gets into the files
        tokenizer = _tokenizer("bert")
        tokenizer.save_pretrained("tiny-bert")
        _backbone("bert", tokenizer).save_pretrained("tiny-bert")
        clf = TransformerTextClassifier(
            "tiny-bert",
            pooling="mean",
            tuning="full",
            max_epochs=3,
            learning_rate=5e-3,
            device="cpu",
            precision="float32",
            random_state=0,
            verbose=0,
            store_dtype="bfloat16",
        ).fit(*toy_texts(90, classes=("bad", "good", "plain")))
        os.chdir(HERE)
    target.mkdir(exist_ok=True)
    joblib.dump(clf, target / "classifier.joblib", compress=("xz", 9))
    clf.save(target / "classifier")
    loaded = joblib.load(target / "classifier.joblib")
    expected = {"texts": TEXTS, "probabilities": loaded.predict_proba(TEXTS).tolist()}
    (target / "answers.json").write_text(json.dumps(expected, indent=1))


if __name__ == "__main__":
    main()
