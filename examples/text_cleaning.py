"""Does cleaning help? Cleaning steps in front of a fine-tuned Transformer and of TF-IDF.

python examples/text_cleaning.py
python examples/text_cleaning.py --quick     (less data, for a first look)

The docstrings are made dirty first, the way scraped text is. Mending what is broken (markup,
look-alike characters, stray spaces) gives back words that the model knows. Removing stop words
takes away words that are not broken: a Transformer was trained on whole sentences, reads "not
good" and "good" differently, and pays next to nothing for a "the". For a bag of words they are
noise in every row; for a Transformer they are grammar. So measure before removing anything.
"""

import argparse
import html
import random
import re
import unicodedata

from docstring_topics import load_docstring_topics
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_transformers import TransformerTextClassifier

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--quick", action="store_true", help="few topics, texts and epochs")
quick = parser.parse_args().quick


def make_dirty(text, rng):
    """Write a third of the words in full-width letters; put markup and entities between them."""
    words = []
    for word in text.split():
        if rng.random() < 1 / 3:
            word = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in word)
        words.append(word + rng.choice(["", "", " <br />", "&nbsp;", "  ", "\u200b"]))
    return " ".join(words)


def normalise(texts):
    """Undo entities and markup, look-alike characters (NFKC), and runs of white space."""
    cleaned = []
    for text in texts:
        text = unicodedata.normalize("NFKC", html.unescape(text))
        text = re.sub(r"<[^>]*>", " ", text).replace("\u200b", "")
        cleaned.append(" ".join(text.split()))
    return cleaned


def remove_stop_words(texts):
    return [
        " ".join(word for word in text.split() if word.lower() not in ENGLISH_STOP_WORDS)
        for text in texts
    ]


X, y = load_docstring_topics(max_per_topic=12 if quick else 40)
wanted = sorted(set(y))[: 3 if quick else 8]
rows = [(text, topic) for text, topic in zip(X, y, strict=True) if topic in wanted]
dirt = random.Random(0)
X, y = [make_dirty(text, dirt) for text, _ in rows], [topic for _, topic in rows]
print(f"{len(X)} texts, {len(wanted)} topics. The first: {X[0][:70]}...\n")

steps = {
    "as it is": ("passthrough", "passthrough"),
    "normalised": (FunctionTransformer(normalise), "passthrough"),
    "normalised, no stop words": (
        FunctionTransformer(normalise),
        FunctionTransformer(remove_stop_words),
    ),
}
grid = [{"normalise": [first], "stop": [second]} for first, second in steps.values()]
tf_idf = Pipeline([("words", TfidfVectorizer(sublinear_tf=True)), ("lr", LogisticRegression(C=10))])
models = {
    "TF-IDF": tf_idf,
    "Transformer": TransformerTextClassifier(
        max_length=64 if quick else 128,
        max_epochs=2 if quick else "auto",
        early_stopping=False,
        random_state=0,
        verbose=0,
    ),
}
folds = StratifiedKFold(n_splits=2, shuffle=True, random_state=0)
print(f"{'accuracy, 2 folds':20s}" + "".join(f"{name:>28s}" for name in steps))
for name, model in models.items():
    pipeline = Pipeline([("normalise", None), ("stop", None), ("classify", model)])
    search = GridSearchCV(pipeline, grid, cv=folds, refit=False).fit(X, y)
    found = search.cv_results_
    cells = zip(found["mean_test_score"], found["std_test_score"], strict=True)
    print(f"{name:20s}" + "".join(f"{mean:20.3f} ± {std:.3f}" for mean, std in cells), flush=True)
