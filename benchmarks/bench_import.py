"""What importing the package costs beside importing a model of scikit-learn's.

pip install -c constraints.txt -e .
python benchmarks/bench_import.py

Each import is a process of its own; they take turns, and figures are medians over `--repeats`.
Neither loads torch or transformers: that waits for the first `fit`.
"""

import argparse
import statistics
import subprocess
import sys
import time

ESTIMATOR = "from sklearn_transformers import TransformerTextClassifier as C; C(max_epochs=1)"
STATEMENTS = {
    "import sklearn.linear_model": "import sklearn.linear_model",
    "import sklearn_transformers, and make an estimator": ESTIMATOR,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    times = {name: [] for name in STATEMENTS}
    for number in range(repeats + 1):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            if number:  # the first of each reads the files
                times[name].append(time.perf_counter() - start)
    plain = statistics.median(times["import sklearn.linear_model"])
    print("| | seconds | spread | ratio |\n|---|---|---|---|")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
        print(f"| `{name}` | {middle:.2f} | {spread} | {middle / plain:.2f} |")


if __name__ == "__main__":
    main()
