"""What each way to tune costs and brings: weights trained, time, memory, accuracy.

pip install -c constraints.txt -e ".[offline,peft,bench]"
python benchmarks/bench_tuning.py --out tuning.jsonl --data FOLDER [FOLDER ...]

Each training has a process of its own; all have the same rows, seeds and defaults. Memory is the
highest resident one during `fit` above that before it, with all libraries loaded. Times are
seconds of CPU: with OMP_NUM_THREADS=1 they do not depend on what else the machine does. Each
finished training is a line of `--out`, and those found there are not run again. The table has
medians over the seeds, and the mean accuracy with its standard error.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
from bench_accuracy import draw, read
from machine import machine
from peers import header, highest_memory, line

from sklearn_transformers import TransformerTextClassifier

TUNINGS = {
    "full": {},
    "full, 3 layers frozen": {"freeze_layers": 3},
    "lora": {"tuning": "lora"},
    "bias": {"tuning": "bias"},
    "prompt": {"tuning": "prompt"},
    "head": {"tuning": "head"},
    "contrastive": {"tuning": "contrastive"},
}
LIBRARIES = (
    "peft",
    "sklearn_transformers._fitting",
    "transformers.models.bert.modeling_bert",
)
KEY = ("data", "size", "seed", "tuning")


def main():
    options = parse()
    if options.only:
        print(json.dumps(measure(options, *options.only)))
        return
    file = Path(options.out)
    rows = [json.loads(row) for row in file.read_text().splitlines()] if file.exists() else []
    done = {tuple(row[part] for part in KEY) for row in rows}
    for seed in options.seeds:
        for folder in options.data:
            for tuning in TUNINGS:
                if (Path(folder).name, options.size, seed, tuning) in done:
                    continue
                command = [sys.executable, __file__, *sys.argv[1:], "--only", folder, str(seed)]
                found = subprocess.run(
                    [*command, tuning], capture_output=True, text=True, check=True
                )
                rows.append(json.loads(found.stdout.splitlines()[-1]))
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(rows[-1]) + "\n")
    table(rows)


def measure(options, folder, seed, tuning):
    """Train once; what it took and how good it is."""
    warnings.simplefilter("ignore")
    (X, y), (X_test, y_test) = read(folder)
    X, y = draw(X, y, options.size, int(seed))
    for library in LIBRARIES:
        import_module(library)
    parameters = {"tuning": "full", "random_state": int(seed), "verbose": 0} | TUNINGS[tuning]
    before, start = highest_memory(), time.process_time()
    clf = TransformerTextClassifier(**parameters).fit(X, y)
    seconds, mib = time.process_time() - start, highest_memory() - before
    most = options.max_test
    return {
        "data": Path(folder).name,
        "size": options.size,
        "seed": int(seed),
        "tuning": tuning,
        "n_trainable": clf.n_trainable_,
        "fit_cpu_seconds": seconds,
        "fit_mib": mib,
        "accuracy": clf.score(X_test[:most], y_test[:most]),
        "machine": machine(),
    }


def table(rows):
    """One line for a data set and a tuning."""
    header("data", "tuning", "weights trained", "fit, CPU s", "fit, MiB", "accuracy")
    for data in dict.fromkeys(row["data"] for row in rows):
        for tuning in TUNINGS:
            runs = [row for row in rows if (row["data"], row["tuning"]) == (data, tuning)]
            if not runs:
                continue
            seconds, mib, n_weights = (
                statistics.median(run[part] for run in runs)
                for part in ("fit_cpu_seconds", "fit_mib", "n_trainable")
            )
            scores = [run["accuracy"] for run in runs]
            error = np.std(scores, ddof=1) / len(runs) ** 0.5 if len(runs) > 1 else float("nan")
            accuracy = f"{np.mean(scores):.3f} ± {error:.3f}"
            line(data, tuning, f"{n_weights:,.0f}", f"{seconds:.0f}", f"{mib:.0f}", accuracy)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders with train and test.tsv")
    parser.add_argument("--out", required=True, help="a line for each training")
    parser.add_argument("--size", default="600", help="training rows, as in bench_accuracy.py")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-test", type=int, default=1000)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
