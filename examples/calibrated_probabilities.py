"""Can the probabilities be believed? Calibrate a fine-tuned Transformer, and measure.

python examples/calibrated_probabilities.py
python examples/calibrated_probabilities.py --quick     (less data, for a first look)

Three numbers, all better when lower: the log loss; the Brier score (mean squared distance of the
probabilities from the truth); and the expected calibration error, ECE: by how much confidence and
accuracy differ, averaged over ten bins of confidence. Temperature scaling needs scikit-learn 1.8.
"""

import argparse
import warnings

import numpy as np
import sklearn
from docstring_topics import load_docstring_topics
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few topics, texts and epochs")
quick = parser.parse_args().quick


METHODS = ("temperature", "sigmoid", "isotonic")
if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
    METHODS = METHODS[1:]


def brier_score(y, probabilities, classes):
    truth = np.asarray(y)[:, None] == classes
    return ((probabilities - truth) ** 2).sum(axis=1).mean()


def expected_calibration_error(y, probabilities, classes, n_bins=10):
    confidence = probabilities.max(axis=1)
    right = classes[probabilities.argmax(axis=1)] == np.asarray(y)
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = np.bincount(bins, right - confidence, minlength=n_bins)
    return np.abs(gaps).sum() / len(right)


def report(name, model, X, y):
    probabilities = model.predict_proba(X)
    scores = (
        accuracy_score(y, model.classes_[probabilities.argmax(axis=1)]),
        log_loss(y, probabilities),
        brier_score(y, probabilities, model.classes_),
        expected_calibration_error(y, probabilities, model.classes_),
    )
    print(f"{name:34s}" + "".join(f"{score:11.3f}" for score in scores), flush=True)


X, y = load_docstring_topics(max_per_topic=24 if quick else 60)
wanted = sorted(set(y))[: 3 if quick else 10]
X, y = zip(*[(text, topic) for text, topic in zip(X, y, strict=True) if topic in wanted],
           strict=True)  # fmt: skip
X_rest, X_test, y_rest, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=0)
X_train, X_held, y_train, y_held = train_test_split(
    X_rest, y_rest, test_size=0.3, stratify=y_rest, random_state=0
)
print(f"{len(X_train)} texts to train on, {len(X_held)} to calibrate on, {len(X_test)} to test\n")
print(f"{'':34s}{'accuracy':>11s}{'log loss':>11s}{'Brier':>11s}{'ECE':>11s}")

# Training on after the texts are known by heart makes a model ever surer of itself.
models = {
    "as it is by default": TransformerTextClassifier(
        max_epochs=2 if quick else "auto", random_state=0, verbose=0
    ),
    "trained to the end, uncalibrated": TransformerTextClassifier(
        max_epochs=5 if quick else 10,
        early_stopping=False,
        calibrate=False,
        random_state=0,
        verbose=0,
    ),
}
for name, model in models.items():
    model.fit(X_train, y_train)
    report(name, model, X_test, y_test)
    for method in METHODS:
        calibrated = CalibratedClassifierCV(FrozenEstimator(model), method=method)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # folds smaller than a class, where texts are few
            calibrated.fit(X_held, y_held)
        report(f"    calibrated: {method}", calibrated, X_test, y_test)
print("\nTemperature scaling has one parameter and cannot change a prediction. The others correct")
print("each class apart, and need far more texts per class than these.")
