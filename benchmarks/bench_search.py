"""What a grid search costs beside its training: ours, its bare loops, skorch's recipe, Trainer.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_search.py --data FOLDER
python benchmarks/bench_search.py --data FOLDER --epochs 1 --peer-repeats 0     (a first look)

A 3 x 3 grid (learning rate x weight decay) with 3 folds: 27 fits and 27 scorings, no refit, all
on the same texts, folds, epochs, batch size and longest input, in the bundled encoder.

ours    GridSearchCV over TransformerTextClassifier, from cold caches.
bare    The same batches through a plain PyTorch loop: forward, loss, backward, clipping, AdamW,
        and the predictions for the left-out fold. Everything else (loading, tokens, batches) is
        prepared before its clock starts.
skorch  GridSearchCV over the recipe in skorch's documentation: a Pipeline of
        HuggingfacePretrainedTokenizer and NeuralNetClassifier.
trainer GridSearchCV over a minimal scikit-learn wrapper around transformers.Trainer, with its
        defaults.

Machines change their speed within minutes, so each fit of ours follows its bare loop at once, with
its clock stopped meanwhile. `outside` is the share of the search in which neither a training loop
nor a prediction was running: noise hardly moves it.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from machine import machine
from peers import SequenceClassifier
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from torch import nn

from sklearn_transformers import TransformerTextClassifier, _inference, clear_cache
from sklearn_transformers._batching import Budget, Padding, pad, sorted_batches, training_steps
from sklearn_transformers._checkpoint import BUNDLED_NAME, find_checkpoint
from sklearn_transformers._encoded import EncodedTexts
from sklearn_transformers._inference import run
from sklearn_transformers._model import TextClassifier, head_dropout, parameter_groups
from sklearn_transformers._net import FineTuningNet
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._tokenization import encode

LEARNING_RATES, WEIGHT_DECAYS = [5e-5, 1e-4, 2e-4], [0.0, 0.01, 0.1]


def read(folder, n_rows):
    """Texts and labels of `n_rows` random rows, in the classes that have three rows or more."""
    lines = (Path(folder) / "train.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t")[:2] for line in lines]
    chosen = np.random.default_rng(0).permutation(len(rows))[:n_rows]
    labels, counts = np.unique([rows[i][0] for i in chosen], return_counts=True)
    kept = set(labels[counts >= 3])
    chosen = [i for i in chosen if rows[i][0] in kept]
    return np.array([rows[i][1] for i in chosen]), np.array([rows[i][0] for i in chosen])


# --- ours, and its bare loops ----------------------------------------------------------------


class PairedClassifier(TransformerTextClassifier):
    """Ours; before each fit the same training as a bare loop, whose seconds do not count."""

    job = None  # not a parameter: the same for all clones

    def fit(self, X, y):
        start = time.perf_counter()
        self.job.bare_loop(self.learning_rate, self.weight_decay, X, y)
        self.job.not_ours.append(time.perf_counter() - start)
        return super().fit(X, y)


def search_ours(job):
    PairedClassifier.job = job
    clf = PairedClassifier(
        max_length=job.max_length,
        max_epochs=job.epochs,
        batch_size=job.batch_size,
        early_stopping=False,
        head_init="random",
        device="cpu",
        precision="float32",
        random_state=0,
        verbose=0,
    )
    job.bare, job.not_ours, inside = [], [], []
    train, predict = FineTuningNet.train, _inference.run
    FineTuningNet.train = timed(train, inside)
    _inference.run = timed(predict, inside)
    clear_cache()
    try:
        seconds, score = job.search(clf)
    finally:
        FineTuningNet.train, _inference.run = train, predict
    seconds -= sum(job.not_ours)
    return {
        "seconds": seconds,
        "bare": sum(job.bare),
        "outside": 1 - sum(inside) / seconds,
        "accuracy": score,
    }


def timed(function, seconds):
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds.append(time.perf_counter() - start)

    return wrapper


# --- the peers -------------------------------------------------------------------------------


def search_skorch(job):
    from skorch import NeuralNetClassifier
    from skorch.hf import HuggingfacePretrainedTokenizer

    net = NeuralNetClassifier(
        SequenceClassifier,
        module__folder=job.folder,
        module__n_classes=len(job.classes),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        max_epochs=job.epochs,
        batch_size=job.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    tokenizer = HuggingfacePretrainedTokenizer(job.folder, max_length=job.max_length)
    pipeline = Pipeline([("tokenizer", tokenizer), ("net", net)])
    codes = np.searchsorted(job.classes, job.y)  # the net cannot take strings
    seconds, score = job.search(pipeline, ("net__lr", "net__optimizer__weight_decay"), codes)
    return {"seconds": seconds, "accuracy": score}


class TrainerClassifier(ClassifierMixin, BaseEstimator):
    """What a user would write around transformers.Trainer to search with it."""

    def __init__(
        self, folder, max_length, epochs, batch_size, learning_rate=5e-5, weight_decay=0.0
    ):
        self.folder = folder
        self.max_length = max_length
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def fit(self, X, y):
        from transformers import (
            AutoModelForSequenceClassification,
            AutoTokenizer,
            DataCollatorWithPadding,
            PrinterCallback,
            Trainer,
            TrainingArguments,
        )

        self.classes_ = np.unique(y)
        self.tokenizer_ = AutoTokenizer.from_pretrained(self.folder)
        model = AutoModelForSequenceClassification.from_pretrained(
            self.folder, num_labels=len(self.classes_)
        )
        self.scratch_ = tempfile.TemporaryDirectory()
        arguments = TrainingArguments(
            self.scratch_.name,
            num_train_epochs=self.epochs,
            per_device_train_batch_size=self.batch_size,
            per_device_eval_batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            log_level="error",
        )
        rows = self._rows(X, np.searchsorted(self.classes_, y))
        self.trainer_ = Trainer(
            model,
            arguments,
            train_dataset=rows,
            data_collator=DataCollatorWithPadding(self.tokenizer_),
        )
        self.trainer_.remove_callback(PrinterCallback)
        self.trainer_.train()
        return self

    def predict(self, X):
        return self.classes_[self.trainer_.predict(self._rows(X)).predictions.argmax(axis=1)]

    def _rows(self, X, codes=None):
        encoded = self.tokenizer_(list(X), truncation=True, max_length=self.max_length)
        rows = [{name: encoded[name][i] for name in encoded} for i in range(len(X))]
        if codes is not None:
            for row, code in zip(rows, codes, strict=True):
                row["label"] = int(code)
        return rows


def search_trainer(job):
    clf = TrainerClassifier(job.folder, job.max_length, job.epochs, job.batch_size)
    seconds, score = job.search(clf)
    return {"seconds": seconds, "accuracy": score}


# --- the run ---------------------------------------------------------------------------------


class Job:
    """The texts and the grid search that all contestants run, and the bare loop."""

    def __init__(self, options):
        self.X, self.y = read(options.data, options.rows)
        self.classes = np.unique(self.y)
        self.folder = find_checkpoint(BUNDLED_NAME)
        self.pretrained = load_pretrained(BUNDLED_NAME)
        self.folds = StratifiedKFold(3, shuffle=True, random_state=0)
        self.max_length = options.max_length
        self.epochs = options.epochs
        self.batch_size = options.batch_size
        self.tokens = {
            text: encode(self.pretrained.tokenizer, [text], self.max_length, "middle").ids
            for text in self.X
        }

    def search(self, estimator, prefixes=("learning_rate", "weight_decay"), y=None):
        """Seconds for the whole search, and its best mean accuracy."""
        grid = dict(zip(prefixes, (LEARNING_RATES, WEIGHT_DECAYS), strict=True))
        search = GridSearchCV(
            estimator, grid, cv=self.folds, scoring="accuracy", refit=False, error_score="raise"
        )
        start = time.perf_counter()
        search.fit(self.X, self.y if y is None else y)
        seconds = time.perf_counter() - start
        return seconds, float(search.cv_results_["mean_test_score"].max())

    def encoded(self, X):
        return EncodedTexts.from_chunks([[self.tokens[text].tobytes() for text in X]])

    def bare_loop(self, rate, decay, X, y):
        """Train on these texts and predict the others; notes the seconds that this alone takes."""
        pretrained = self.pretrained
        padding, budget = Padding(pretrained.pad_id, self.max_length), Budget.on("cpu")
        backbone = copy.deepcopy(pretrained.backbone)
        dropout = head_dropout(backbone.config, None)
        model = TextClassifier(
            backbone, pretrained.width, pretrained.pooling, len(self.classes), dropout
        ).draw_head()
        texts, codes = self.encoded(X), np.searchsorted(self.classes, y)
        unseen = self.encoded(sorted(set(self.X) - set(X)))
        rng = np.random.default_rng(0)
        steps = [
            [
                tuple(map(torch.from_numpy, (*pad(texts, rows, padding, budget), codes[rows])))
                for rows in sorted_batches(texts.lengths, step, padding, budget)
            ]
            for _ in range(self.epochs)
            for step in training_steps(texts.lengths, self.batch_size, rng)
        ]
        optimizer = torch.optim.AdamW(
            parameter_groups(model, rate, 20 * rate, 1.0, decay), fused=True
        )
        peaks = [group["lr"] for group in optimizer.param_groups]
        n_warm = int(0.1 * len(steps))

        start = time.perf_counter()
        model.train()
        for number, step in enumerate(steps):
            n_rows = sum(len(labels) for *_, labels in step)
            for ids, mask, labels in step:
                losses = nn.functional.cross_entropy(model(ids, mask), labels, reduction="sum")
                (losses / n_rows).backward()
            warming = (number + 1) / (n_warm + 1)
            factor = warming if number < n_warm else (len(steps) - number) / (len(steps) - n_warm)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        run(model, unseen, padding, "cpu")  # the one that is not timed as ours
        self.bare.append(time.perf_counter() - start)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train.tsv: label<TAB>text")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--peer-repeats", type=int, default=1)
    parser.add_argument("--json", help="write all figures to this file")
    return parser.parse_args()


def main():
    options = parse()
    job = Job(options)
    print(f"{len(job.X)} texts, {len(job.classes)} classes, {options.epochs} epochs, 27 fits")
    order = [search_ours] * options.repeats
    order += [search_skorch, search_trainer] * options.peer_repeats
    results = {}
    for contestant in order:
        name = contestant.__name__.removeprefix("search_")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.setdefault(name, []).append(contestant(job))
        print(f"  {name:8s}{results[name][-1]['seconds']:9.1f} s", flush=True)
    ours = results["ours"]
    bare = statistics.median(run["bare"] for run in ours)
    print(f"\n{'':8s}{'median s':>10s}{'spread':>16s}{'x bare':>8s}{'accuracy':>10s}")
    print(f"{'bare':8s}{bare:10.1f}{spread([run['bare'] for run in ours]):>16s}{1:8.3f}")
    for name, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        ratio = statistics.median(run["seconds"] / run.get("bare", bare) for run in runs)
        accuracy = statistics.median(run["accuracy"] for run in runs)
        median = statistics.median(seconds)
        print(f"{name:8s}{median:10.1f}{spread(seconds):>16s}{ratio:8.3f}{accuracy:10.3f}")
    outside = statistics.median(run["outside"] for run in ours)
    print(f"\nours, outside training and prediction: {100 * outside:.1f} % of the search")
    if options.json:
        content = {"options": vars(options), "about": machine(), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=1), encoding="utf-8")


def spread(seconds):
    return f"{min(seconds):.1f}-{max(seconds):.1f}"


if __name__ == "__main__":
    main()
