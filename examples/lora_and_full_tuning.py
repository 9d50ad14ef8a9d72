"""Compare ways to tune: all weights, low-rank additions, biases, a prompt, the head alone.

python examples/lora_and_full_tuning.py
python examples/lora_and_full_tuning.py --quick     (less data, for a first look)

LoRA needs the extra `peft`: pip install -c constraints.txt -e ".[offline,peft]". "full" trains, of
the embeddings, those of tokens that the training texts have.
"""

import argparse
import time

from docstring_topics import load_docstring_topics
from sklearn.model_selection import train_test_split

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few texts and one epoch")
quick = parser.parse_args().quick

X, y = load_docstring_topics(max_per_topic=10 if quick else 60)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(f"{len(X_train)} texts to train on, {len(X_test)} to test on\n")

print(f"{'tuning':8s}{'weights trained':>18s}{'of all':>9s}{'fit s':>8s}{'accuracy':>10s}")
for tuning in ("full", "lora", "bias", "prompt", "head"):
    clf = TransformerTextClassifier(
        tuning=tuning, max_epochs=1 if quick else "auto", random_state=0, verbose=0
    )
    start = time.perf_counter()
    clf.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    n_all = sum(weight.numel() for weight in clf.model_.parameters())
    share, accuracy = clf.n_trainable_ / n_all, clf.score(X_test, y_test)
    print(f"{tuning:8s}{clf.n_trainable_:18,d}{share:9.2%}{seconds:8.1f}{accuracy:10.3f}")

print("\nWhatever was trained, the fitted classifier is the same kind of object: LoRA's additions")
print("are merged into the weights, so predictions cost the same and nothing else has to know.")
