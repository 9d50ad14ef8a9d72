"""Keep a fitted classifier: as a joblib file, and as a folder that is safe to hand to others.

    python examples/save_and_load.py

Both hold weights, tokenizer and configuration: the process that loads them needs neither the
original model nor a network. The folder holds no code, and transformers reads it as well, if the
Transformer answers alone: its classes have no place for a bag of words.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
from docstring_topics import load_docstring_topics
from sklearn.model_selection import train_test_split
from transformers import pipeline

from sklearn_transformers import TransformerTextClassifier

LOAD_AND_PREDICT = """
import sys
import joblib
classifier = joblib.load(sys.argv[1])
print(classifier.predict([sys.argv[2]])[0])
"""

X, y = load_docstring_topics(max_per_topic=60)
wanted = {"clustering", "fft", "metrics", "sparse"}
X, y = zip(*[(text, topic) for text, topic in zip(X, y, strict=True) if topic in wanted],
           strict=True)  # fmt: skip
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

classifier = TransformerTextClassifier(bag_of_words=False, random_state=0).fit(X_train, y_train)
print(f"accuracy {classifier.score(X_test, y_test):.3f} after {classifier.n_iter_} epochs")

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "classifier.joblib")
    joblib.dump(classifier, file)
    print(f"saved {file.stat().st_size / 1e6:.0f} MB")

    command = [sys.executable, "-c", LOAD_AND_PREDICT, str(file), X_test[0]]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    print(f"a fresh process says {answer!r} of: {X_test[0][:60]}...")
    assert answer == classifier.predict(X_test[:1])[0]

    classifier.save(Path(folder, "classifier"))
    same = TransformerTextClassifier.load(Path(folder, "classifier"))
    assert (same.predict_proba(X_test) == classifier.predict_proba(X_test)).all()
    classify = pipeline("text-classification", str(Path(folder, "classifier")))
    theirs = classify(X_test[0], truncation=True)[0]
    print(f"transformers' pipeline says {theirs['label']!r} with {theirs['score']:.3f}")
    assert theirs["label"] == answer

    loaded = joblib.load(file)
    loaded.partial_fit(X_train, y_train)
    print(f"accuracy {loaded.score(X_test, y_test):.3f} after one more epoch of the loaded one")
