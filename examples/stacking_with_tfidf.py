"""A Transformer and TF-IDF together: stacking and voting, beside each alone.

python examples/stacking_with_tfidf.py
python examples/stacking_with_tfidf.py --quick     (less data, for a first look)

The two make different errors: one knows what words mean, the other counts the words of your own
field. Whether both together beat the better one, by enough to pay for the longer training, is a
question for your data; this is how to ask it. The Transformer has counts of its own beside it
(`bag_of_words`), so on these docstrings they do not: accuracies differ by less than a standard
error, and the Transformer alone has the best log loss.
"""

import argparse
import time

from docstring_topics import load_docstring_topics
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few topics, texts and epochs")
quick = parser.parse_args().quick

X, y = load_docstring_topics(max_per_topic=20 if quick else 60)
wanted = sorted(set(y))[: 3 if quick else 8]
X, y = zip(*[(text, topic) for text, topic in zip(X, y, strict=True) if topic in wanted],
           strict=True)  # fmt: skip
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

tf_idf = make_pipeline(
    TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)),
    LogisticRegression(C=10, max_iter=1000),
)
transformer = TransformerTextClassifier(
    max_epochs=2 if quick else "auto", random_state=0, verbose=0
)
both = [("tf_idf", tf_idf), ("transformer", transformer)]
fitted = [(name, FrozenEstimator(model)) for name, model in both]  # each is fitted before
models = {
    "TF-IDF + logistic regression": tf_idf,
    "TransformerTextClassifier": transformer,
    "voting, mean of both": VotingClassifier(fitted, voting="soft"),
    # The final model sees predictions for held-out folds, so it knows whom to trust with what.
    "stacking, 2 folds": StackingClassifier(both, LogisticRegression(max_iter=1000), cv=2),
}
print(f"{len(X_train)} texts to train on, {len(X_test)} to test on, {len(set(y))} topics\n")
print(f"{'':30s}{'accuracy':>10s}{'macro-F1':>10s}{'log loss':>10s}{'fit s':>9s}")
for name, model in models.items():
    start = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    probabilities = model.predict_proba(X_test)
    y_pred = model.classes_[probabilities.argmax(axis=1)]
    scores = (
        (y_pred == y_test).mean(),
        f1_score(y_test, y_pred, average="macro"),
        log_loss(y_test, probabilities),
    )
    print(f"{name:30s}" + "".join(f"{score:10.3f}" for score in scores) + f"{seconds:9.1f}",
          flush=True)  # fmt: skip

error = (0.75 * 0.25 / len(X_test)) ** 0.5
print(f"\nOne standard error of an accuracy of 0.75 on {len(X_test)} texts is {error:.3f}.")
