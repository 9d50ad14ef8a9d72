"""The model is in production, and each week new labelled texts arrive, once with a new class.

python examples/continued_training.py
python examples/continued_training.py --quick     (too little data for the effect)

Training on the new texts alone forgets the old classes. A part of the old rows beside the new ones
(rehearsal; Robins 1995, "Catastrophic Forgetting, Rehearsal and Pseudorehearsal") keeps them.
"""

import argparse
import copy

import numpy as np
from docstring_topics import load_docstring_topics
from sklearn.model_selection import train_test_split

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few texts and one epoch")
quick = parser.parse_args().quick

X, y = map(np.array, load_docstring_topics(max_per_topic=20 if quick else 80))
X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=0)
topics = np.unique(y)
groups = {"old": topics[:8], "arriving": topics[8:12], "new class": topics[12:13]}
rng = np.random.default_rng(0)


def rows_of(labels, texts=X, own=y):
    mask = np.isin(own, labels)
    return texts[mask], own[mask]


def report(name, clf):
    parts = [rows_of(labels, X_test, y_test) for labels in groups.values()]
    print(f"{name:28s}" + "".join(f"{clf.score(*part):12.2f}" for part in parts))


def go_on(clf, X_new, y_new, X_old=(), y_old=()):
    """Three more epochs; each call of partial_fit is one."""
    texts, labels = np.append(X_new, X_old), np.append(y_new, y_old)
    for _ in range(1 if quick else 3):
        clf.partial_fit(texts, labels)
    return clf


# The classes "arriving" are known from the start, but have three rows each so far.
X_many, y_many = rows_of(groups["old"])
X_week, y_week = rows_of(groups["arriving"])
few = np.concatenate([np.flatnonzero(y_week == topic)[:3] for topic in groups["arriving"]])
X_seen, y_seen = np.append(X_many, X_week[few]), np.append(y_many, y_week[few])
X_week, y_week = np.delete(X_week, few), np.delete(y_week, few)

print(f"{'accuracy on test rows of':28s}" + "".join(f"{name:>12s}" for name in groups))
first = TransformerTextClassifier(
    tuning="full", max_epochs=1 if quick else "auto", random_state=0, verbose=0
).fit(X_seen, y_seen)
report("first training", first)

# A week later. `deepcopy` only because both ways are to be shown.
report("new rows alone", go_on(copy.deepcopy(first), X_week, y_week))
kept = rng.choice(len(X_seen), min(len(X_seen), 2 * len(X_week)), replace=False)
clf = go_on(first, X_week, y_week, X_seen[kept], y_seen[kept])
report("with a part of the old", clf)

# Another week later a label turns up that nobody had thought of.
X_new, y_new = rows_of(groups["new class"])
clf.add_classes(groups["new class"])
report("new class, not yet trained", clf)
X_seen, y_seen = np.append(X_seen, X_week), np.append(y_seen, y_week)
kept = rng.choice(len(X_seen), min(len(X_seen), 6 * len(X_new)), replace=False)
report("and trained", go_on(clf, X_new, y_new, X_seen[kept], y_seen[kept]))
