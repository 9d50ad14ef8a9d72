"""How long training takes: ours, skorch's recipe, Trainer with its defaults, Trainer tuned.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_fit.py --data FOLDER [FOLDER ...]
python benchmarks/bench_fit.py --data FOLDER --precision float32  # as where there is no bfloat16
python benchmarks/bench_fit.py --data FOLDER --model bert-base --max-length 256   # on a GPU

The clock runs from the texts to the trained model: loading, tokens, training; the time of training
alone is shown beside. All train the same model (the bundled encoder, or one of BERT-base's size
with random weights) on the same rows for the same epochs, in steps of as many texts, cut at the
same length; learning rates are each one's own, and accuracy on test rows is shown. Contestants take
turns; figures are medians over `--repeats`. Useful FLOP/s count the matrix products of the
encoder's layers, attention included, for the tokens of the texts, without padding, forward and
backward; the shares, of the whole and of training alone, are of what a product of two square
matrices gets, in bfloat16 where the machine has instructions for it. On a GPU, the first run of
each is not counted, for CUDA sets itself up, and the most memory allocated there is shown too.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import torch
from machine import machine
from peers import (
    Job,
    bert_base,
    best_precision,
    header,
    line,
    matrix_peak,
    median_and_spread,
    ours,
    ours_compiled,
    read,
    skorch,
    synchronise,
    trainer,
    trainer_tuned,
)
from transformers import logging

FORMATS = ("float32", "bfloat16", "float16")
CONTESTANTS = {c.__name__: c for c in (ours, ours_compiled, skorch, trainer, trainer_tuned)}


def main():
    options = parse()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    precision = options.precision or best_precision()
    peak = matrix_peak(precision)
    print(f"{precision}, {torch.get_num_threads()} threads, peak {peak / 1e9:.0f} GFLOP/s\n")
    scratch = tempfile.TemporaryDirectory()
    choices = {"precision": precision}
    if options.model == "bert-base":
        choices["folder"] = bert_base(scratch.name)
    columns = ("seconds", "spread", "texts/s", "x ours", "share of the peak")
    columns += ("training, s", "x ours", "share of the peak", "accuracy")
    header("data", "", *columns, *(["GPU, MiB"] if torch.cuda.is_available() else []))
    results = {}
    for folder in options.data:
        data = read(folder, options.rows, options.test_rows)
        job = Job(*data, options.epochs, options.batch_size, options.max_length, **choices)
        runs = measure(job, options.contestants, options.repeats)
        results[Path(folder).name] = runs
        useful = 3 * job.forward_flops(job.X) * job.epochs  # backward counts twice
        table(Path(folder).name, runs, len(job.X) * job.epochs, useful / peak)
    if options.json:
        content = {"options": vars(options), "machine": machine(), "peak": peak, "runs": results}
        Path(options.json).write_text(json.dumps(content, indent=1), encoding="utf-8")


def measure(job, names, repeats):
    """Seconds and accuracy of each run, by contestant; ours always takes part."""
    runs = {name: [] for name in ["ours", *names]}
    classes = sorted(set(job.y))
    on_gpu = torch.cuda.is_available()
    for number in range(repeats + on_gpu):
        for name in runs:
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                predict, loop_seconds = CONTESTANTS[name](job)
                synchronise()
                seconds = time.perf_counter() - start
                run = {"seconds": seconds, "loop_seconds": loop_seconds}
                if on_gpu:
                    run["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
                hits = [classes[c] for c in predict(job.X_test)] == job.y_test
            if number or not on_gpu:
                runs[name].append(run | {"accuracy": float(hits.mean())})
            del predict
    return runs


def table(data, runs, n_texts, seconds_at_peak):
    """One line a contestant."""

    def median(name, key):
        return statistics.median(run[key] for run in runs[name])

    for name, there in runs.items():
        seconds, loop = median(name, "seconds"), median(name, "loop_seconds")
        line(
            data,
            name,
            *median_and_spread([run["seconds"] for run in there], 1),
            f"{n_texts / seconds:.1f}",
            f"{seconds / median('ours', 'seconds'):.2f}",
            f"{seconds_at_peak / seconds:.0%}",
            f"{loop:.1f}",
            f"{loop / median('ours', 'loop_seconds'):.2f}",
            f"{seconds_at_peak / loop:.0%}",
            f"{median(name, 'accuracy'):.3f}",
            *([f"{median(name, 'gpu_mib'):.0f}"] if "gpu_mib" in there[0] else []),
        )


def parse():
    usual = [name for name in CONTESTANTS if name != "ours_compiled"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders with train and test.tsv")
    parser.add_argument("--model", choices=("bundled", "bert-base"), default="bundled")
    parser.add_argument("--precision", choices=FORMATS, help="the best by default")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=usual)
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
