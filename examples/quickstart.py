"""Fine-tune a Transformer on real text and compare it with TF-IDF + logistic regression.

    python examples/quickstart.py
    python examples/quickstart.py --data reviews.csv --text review --label stars

Without --data it classifies docstrings by topic, in about three minutes on two CPU cores.
"""

import argparse
import csv
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import joblib
from docstring_topics import load_docstring_topics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, classification_report, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from skorch.callbacks import Callback

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", help="CSV file with a header; default: docstrings by topic")
parser.add_argument("--text", default="text", help="column with the text")
parser.add_argument("--label", default="label", help="column with the label")
parser.add_argument("--max-epochs", type=int, help="left to the classifier where not given")


def read_csv(file, text, label):
    csv.field_size_limit(2**31 - 1)
    with open(file, newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows, start=1):
        for column in (text, label):
            if row.get(column) is None:
                sys.exit(f"{file} has no column {column!r} in row {number}: --text, --label?")
    return [row[text] for row in rows], [row[label] for row in rows]


class EpochLines(Callback):
    """Where there is no terminal for a bar per epoch. It makes few rows train by labels."""

    def on_epoch_end(self, net, **kwargs):
        loss, held_out = net.history[-1, ["train_loss", "valid_loss"]]
        print(f"epoch {len(net.history)}: loss {loss:.3f}, held out {held_out:.3f}", flush=True)


def evaluate(name, model, X_train, X_test, y_train, y_test):
    """Fit and time a model; return its row of the table and its predictions."""
    start = time.perf_counter()
    model.fit(X_train, y_train)
    fitted = time.perf_counter()
    y_pred = model.predict(X_test)
    done = time.perf_counter()
    scores = accuracy_score(y_test, y_pred), f1_score(y_test, y_pred, average="macro")
    return (name, *scores, fitted - start, done - fitted), y_pred


def main(data, text, label, max_epochs):
    X, y = load_docstring_topics() if data is None else read_csv(data, text, label)
    sizes = Counter(y).values()
    print(f"{len(X)} texts, {len(sizes)} classes of {min(sizes)} to {max(sizes)} texts")
    strata = y if min(sizes) > 1 and len(y) >= 4 * len(sizes) else None
    parts = train_test_split(X, y, test_size=0.25, random_state=0, stratify=strata)
    baseline = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
        LogisticRegression(C=10, max_iter=1000),
    )
    classifier = TransformerTextClassifier(
        max_epochs="auto" if max_epochs is None else max_epochs,
        random_state=0,
        callbacks=None if sys.stderr.isatty() else [EpochLines()],
    )
    first, _ = evaluate("TF-IDF + logistic regression", baseline, *parts)
    second, y_pred = evaluate("TransformerTextClassifier", classifier, *parts)
    _, X_test, _, y_test = parts
    print(f"\nTrained on {classifier.device_}; the best epoch is {classifier.best_epoch_}.\n")
    print(classification_report(y_test, y_pred, zero_division=0))
    print(f"{'':30s}{'accuracy':>10s}{'macro-F1':>10s}{'fit s':>10s}{'predict s':>10s}")
    for name, *numbers in (first, second):
        print("{:30s}{:10.3f}{:10.3f}{:10.1f}{:10.2f}".format(name, *numbers))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "classifier.joblib")
        joblib.dump(classifier, file)
        same = (joblib.load(file).predict_proba(X_test) == classifier.predict_proba(X_test)).all()
        size = file.stat().st_size / 1e6
    print(f"\nSaved with joblib ({size:.0f} MB) and loaded again; same probabilities: {same}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main(**vars(parser.parse_args()))
