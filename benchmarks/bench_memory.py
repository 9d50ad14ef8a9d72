"""How much memory training and prediction take: ours, skorch's recipe, Trainer.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_memory.py --data FOLDER [FOLDER ...]

Each contestant trains in a process of its own, the same rows as in `bench_fit.py`. `fit` is the
highest resident memory during training above that before it, with all libraries loaded; the
model's weights, their gradients and two moments for each are part of it. `predict` is how much that
mark rises further when, after 50 texts, 500 are answered.
"""

import argparse
import json
import statistics
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
from machine import machine
from peers import (
    Job,
    header,
    highest_memory,
    line,
    median_and_spread,
    ours,
    read,
    skorch,
    trainer,
    trainer_tuned,
)
from transformers import logging

CONTESTANTS = {c.__name__: c for c in (ours, skorch, trainer, trainer_tuned)}
LIBRARIES = (
    "accelerate",
    "sklearn_transformers._fitting",
    "skorch.hf",
    "transformers.models.bert.modeling_bert",
    "transformers.trainer",
)
N_TEXTS = 50  # for prediction, and then ten times as many


def main():
    options = parse()
    if options.contestant:
        print(json.dumps(measure(options)))
        return
    header("data", "", "fit, MiB", "spread", "x ours", "predict, 10 x as many texts, MiB")
    results = {}
    for folder in options.data:
        runs = {name: [] for name in CONTESTANTS}
        for _ in range(options.repeats):
            for name, there in runs.items():
                there.append(in_own_process(name, folder))
        results[Path(folder).name] = runs
        table(Path(folder).name, runs)
    if options.json:
        content = {"options": vars(options), "machine": machine(), "runs": results}
        Path(options.json).write_text(json.dumps(content, indent=1), encoding="utf-8")


def in_own_process(name, folder):
    """Run this script again for one contestant."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contestant", name, "--only", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options):
    """MiB that training, and then answering more texts, take."""
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    X, y, X_test, y_test = read(options.only, options.rows, 300)
    job = Job(X, y, X_test, y_test, 1, options.batch_size, options.max_length)
    for library in LIBRARIES:
        import_module(library)
    before = highest_memory()
    predict = CONTESTANTS[options.contestant](job).predict
    trained = highest_memory()
    rng = np.random.default_rng(0)
    words = sorted({word for text in X for word in text.split()[:20]})
    texts = np.array([" ".join(rng.choice(words, 8)) for _ in range(11 * N_TEXTS)])
    predict(texts[:N_TEXTS])
    some = highest_memory()
    predict(texts[N_TEXTS:])
    return {"fit": trained - before, "predict": highest_memory() - some}


def table(data, runs):
    """One line a contestant."""
    ours_takes = statistics.median(run["fit"] for run in runs["ours"])
    for name, there in runs.items():
        fits, predicts = ([run[part] for run in there] for part in ("fit", "predict"))
        ratio, predict = statistics.median(fits) / ours_takes, statistics.median(predicts)
        line(data, name, *median_and_spread(fits, 0), f"{ratio:.2f}", f"{predict:.0f}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders with train and test.tsv")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the raw figures there")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
