"""Text beside numeric columns, in one table.

python examples/text_and_numbers.py
python examples/text_and_numbers.py --quick     (too little data for the effect)

Needs pandas. The texts are docstrings; the two numbers beside each are made up, around a centre
that depends on the topic, so that they know something that the text does not always tell.

Two ways to bring both together. In a ColumnTransformer the classifier is a transformer: its
vectors stand beside the numbers. But it has learned the labels of the very rows whose vectors the
next model is fitted on, on which it errs less than on new ones: the text gets more trust than it
earns, and the log loss shows it. In a StackingClassifier the next model sees predictions for rows
that were held out.
"""

import argparse
import time

import numpy as np
import pandas as pd
from docstring_topics import load_docstring_topics
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few topics, texts and epochs")
quick = parser.parse_args().quick

NUMBERS = ["width", "height"]


def load_table():
    """A DataFrame of `text`, `width` and `height`, and the topics."""
    texts, topics = load_docstring_topics(max_per_topic=20 if quick else 50)
    table = pd.DataFrame({"text": texts, "topic": topics})
    kept = sorted(set(topics))[: 3 if quick else 6]
    table = table[table["topic"].isin(kept)].reset_index(drop=True)
    rng = np.random.default_rng(0)
    centres = pd.DataFrame(rng.normal(size=(len(kept), 2)), index=kept, columns=NUMBERS)
    noise = rng.normal(scale=0.7, size=(len(table), 2))
    table[NUMBERS] = centres.loc[table["topic"]].to_numpy() + noise
    return table[["text", *NUMBERS]], table["topic"]


def only(columns, model):
    """The model, on these columns alone."""
    return make_pipeline(ColumnTransformer([("kept", "passthrough", columns)]), model)


def text_classifier():
    return TransformerTextClassifier(max_epochs=2 if quick else "auto", random_state=0, verbose=0)


side_by_side = ColumnTransformer(
    [("text", text_classifier(), "text"), ("numbers", StandardScaler(), NUMBERS)]
)
stacked = [
    ("text", only(["text"], text_classifier())),
    ("numbers", only(NUMBERS, LogisticRegression())),
]
models = {
    "numbers alone": only(NUMBERS, LogisticRegression()),
    "text alone": only(["text"], text_classifier()),
    "ColumnTransformer": make_pipeline(side_by_side, LogisticRegression(max_iter=1000)),
    "StackingClassifier": StackingClassifier(stacked, LogisticRegression(C=10), cv=2),
}
X, y = load_table()
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(f"{len(X_train)} rows to train on, {len(X_test)} to test on, {y.nunique()} topics\n")
print(f"{'':30s}{'accuracy':>10s}{'log loss':>10s}{'fit s':>8s}")
for name, model in models.items():
    start = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    accuracy, loss = model.score(X_test, y_test), log_loss(y_test, model.predict_proba(X_test))
    print(f"{name:30s}{accuracy:10.3f}{loss:10.3f}{seconds:8.1f}", flush=True)
