"""Cross-validate a fine-tuned Transformer beside its baseline, with several scores.

python examples/cross_validation.py
python examples/cross_validation.py --quick     (less data, for a first look)
"""

import argparse

from docstring_topics import load_docstring_topics
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few topics, texts and epochs")
quick = parser.parse_args().quick

X, y = load_docstring_topics(max_per_topic=30 if quick else 120)
if quick:
    topics = sorted(set(y))[:4]
    X, y = zip(*[(text, topic) for text, topic in zip(X, y, strict=True) if topic in topics],
               strict=True)  # fmt: skip

models = {
    "TF-IDF + logistic regression": make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    ),
    "TransformerTextClassifier": TransformerTextClassifier(
        max_epochs=2 if quick else "auto", random_state=0, verbose=0
    ),
}
folds = StratifiedKFold(n_splits=3, shuffle=True, random_state=0)
print(f"{len(X)} texts, 3 folds\n")
print(f"{'':30s}{'accuracy':>18s}{'macro-F1':>18s}{'log loss':>18s}{'fit s':>9s}")
for name, model in models.items():
    scores = cross_validate(model, X, y, cv=folds, scoring=["accuracy", "f1_macro", "neg_log_loss"])
    cells = [
        f"{sign * scores[key].mean():10.3f} ± {scores[key].std():.3f}"
        for key, sign in [("test_accuracy", 1), ("test_f1_macro", 1), ("test_neg_log_loss", -1)]
    ]
    print(f"{name:30s}" + "".join(f"{cell:>18s}" for cell in cells), end="")
    print(f"{scores['fit_time'].mean():9.1f}", flush=True)
