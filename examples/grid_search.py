"""Search over a cleaning step and the classifier's parameters in one Pipeline.

python examples/grid_search.py
python examples/grid_search.py --quick     (less data, for a first look)
"""

import argparse

from docstring_topics import load_docstring_topics
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few topics, texts and epochs")
quick = parser.parse_args().quick


def drop_backticks(texts):
    return [text.replace("`", "") for text in texts]


X, y = load_docstring_topics(max_per_topic=40)
if quick:
    topics = sorted(set(y))[:3]
    X, y = zip(*[(text, topic) for text, topic in zip(X, y, strict=True) if topic in topics],
               strict=True)  # fmt: skip
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

pipeline = Pipeline(
    [
        ("clean", FunctionTransformer(drop_backticks)),
        ("classify", TransformerTextClassifier(max_epochs=1 if quick else 4, random_state=0)),
    ]
)
grid = {
    "clean": [FunctionTransformer(drop_backticks), "passthrough"],
    "classify__learning_rate": [5e-5, 2e-4],
}
folds = StratifiedKFold(n_splits=2, shuffle=True, random_state=0)
search = GridSearchCV(pipeline, grid, cv=folds, scoring="accuracy").fit(X_train, y_train)

print(f"{len(X_train)} texts, {len(search.cv_results_['params'])} candidates, 2 folds\n")
for params, mean, seconds in zip(
    search.cv_results_["params"],
    search.cv_results_["mean_test_score"],
    search.cv_results_["mean_fit_time"],
    strict=True,
):
    clean = "as it is" if params["clean"] == "passthrough" else "no backticks"
    print(f"{mean:.3f}  {seconds:5.1f} s  {clean:13s} {params['classify__learning_rate']}")
print(f"\nbest: {search.best_params_}")
print(f"accuracy on the held-out quarter: {search.score(X_test, y_test):.3f}")
