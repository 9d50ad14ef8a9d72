"""Which rule finds the temperature of few held-out rows that suits new texts.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_calibration.py --data FOLDER [FOLDER ...] --sizes 8/class 600

Each default fit leaves logits of rows that it held out, or cross-validated. Each rule makes a
temperature of them, which the logits of test texts are divided by. Figures are means over seeds;
sizes and folders are those of bench_accuracy.py.

best       What suits the test texts themselves: a bound on all.
likeliest  At which the labels of the held-out rows are the most probable.
towards 1  The same with two more rows that find the model calibrated as it is.
any class  The same with two more rows that belong to each class as much as to any other.
ours       Every temperature has a say, as much as it makes the labels likely.
"""

import argparse
import json
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from bench_accuracy import draw, expected_calibration_error, group, mean, measured_on, read

from sklearn_transformers import TransformerTextClassifier, _held_out
from sklearn_transformers._calibration import closest_temperature, cross_entropies, fit_temperature
from sklearn_transformers._targets import ClassCodec

RULES = ("best", "likeliest", "towards 1", "any class", "ours")


def main():
    options = parse()
    runs = []
    for folder in options.data:
        parts = read(folder)
        for size in options.sizes:
            for seed in options.seeds:
                name = {"data": Path(folder).name, "size": size, "seed": seed}
                runs += [name | run for run in compare(parts, size, seed, options.max_test)]
            table([run for run in runs if (run["data"], run["size"]) == (Path(folder).name, size)])
    if options.json:
        content = {"options": vars(options), "machine": measured_on(), "runs": runs}
        Path(options.json).write_text(json.dumps(content, indent=1), encoding="utf-8")


def compare(parts, size, seed, max_test):
    """What each rule makes of one fit."""
    X, y = draw(*parts[0], size, seed)
    known = np.isin(parts[1][1], y)
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))[:max_test]
    X_test, y_test = (column[order] for column in parts[1])
    with warnings.catch_warnings(), watched() as seen:
        warnings.simplefilter("ignore")
        clf = TransformerTextClassifier(random_state=seed, verbose=0).fit(X, y)
    # Epochs are judged by the same rule: the rows are those that gave the fit its temperature.
    held = next(rows for temperature, *rows in reversed(seen) if temperature == clf.temperature_)
    test = clf.decision_function(X_test) * clf.temperature_
    if test.ndim == 1:
        test = np.stack([np.zeros(len(test)), test], axis=1)
    codes = np.searchsorted(clf.classes_, y_test)
    for rule in RULES:
        temperature = find(rule, *((test, codes) if rule == "best" else held))
        probabilities = ClassCodec.probabilities(test, temperature)
        hits = probabilities.argmax(axis=1) == codes
        yield {
            "rule": rule,
            "n_held": len(held[1]),
            "temperature": temperature,
            "log_loss": float(cross_entropies(test, codes, temperature).mean()),
            "ece": expected_calibration_error(hits, probabilities.max(axis=1)),
        }


@contextmanager
def watched():
    """Collect the temperatures that a fit finds, with the logits and labels they are found by."""
    seen = []

    def watch(logits, codes, weights):
        found = fit_temperature(logits, codes, weights)
        seen.append((found, logits.copy(), codes))
        return found

    _held_out.fit_temperature = watch
    try:
        yield seen
    finally:
        _held_out.fit_temperature = fit_temperature


def find(rule, logits, codes):
    n_rows, n_classes = logits.shape
    if rule == "ours":
        return fit_temperature(logits, codes, np.ones(n_rows))
    doubt = 2 / (n_rows + 2) if rule in ("towards 1", "any class") else 0
    believed = ClassCodec.probabilities(logits) if rule == "towards 1" else 1 / n_classes
    targets = (1 - doubt) * np.eye(n_classes)[codes] + doubt * believed
    return closest_temperature(logits, targets, np.ones(n_rows))


def table(runs):
    first = runs[0]
    n_fits = len(runs) // len(RULES)
    print(f"\n{first['data']}, {first['size']}: {n_fits} fits, {first['n_held']} rows held out\n")
    print("| | log loss | ECE | temperatures |\n|---|---|---|---|")
    for (rule,), there in group(runs, "rule").items():
        temperatures = ", ".join(f"{run['temperature']:.2f}" for run in there)
        losses = f"{mean(there, 'log_loss'):.3f} | {mean(there, 'ece'):.3f}"
        print(f"| {rule} | {losses} | {temperatures} |", flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders with train and test.tsv")
    parser.add_argument("--sizes", nargs="+", default=["8/class"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-test", type=int, default=1000)
    parser.add_argument("--json", help="write the raw figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
