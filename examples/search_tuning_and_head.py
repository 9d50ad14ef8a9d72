"""Search over what is trained and over the head, as over any other parameter.

python examples/search_tuning_and_head.py
python examples/search_tuning_and_head.py --quick     (less data, for a first look)
"""

import argparse
import time

from docstring_topics import load_docstring_topics
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few texts and one epoch")
quick = parser.parse_args().quick

X, y = load_docstring_topics(max_per_topic=8 if quick else 40)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
folds = StratifiedKFold(n_splits=2, shuffle=True, random_state=0)


def search(grid, **parameters):
    clf = TransformerTextClassifier(random_state=0, **parameters)
    start = time.perf_counter()
    found = GridSearchCV(clf, grid, cv=folds).fit(X_train, y_train)
    seconds = time.perf_counter() - start
    n_fits = len(folds_of := found.cv_results_["params"]) * found.n_splits_ + 1
    print(f"{len(folds_of)} candidates, {n_fits} fits in {seconds:.0f} s")
    for params, score in zip(folds_of, found.cv_results_["mean_test_score"], strict=True):
        print(f"  {score:.3f}  {params}")
    print(f"  accuracy on the held-out quarter: {found.score(X_test, y_test):.3f}\n")


# With the backbone at rest each fold's texts go through it once, however many candidates ask.
print("The head alone:")
search(
    {
        "head": ["linear", "mlp"],
        "head_learning_rate": [1e-3, 3e-3, 1e-2],
        "loss": ["cross_entropy", "squared_error"],
    },
    tuning="head",
)
print("What to train:")
search({"tuning": ["head", "full"], "head": ["linear", "mlp"]}, max_epochs=1 if quick else 4)
