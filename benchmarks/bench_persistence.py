"""What each way to keep a fitted classifier costs: size, seconds to write and to read, answers.

pip install -c constraints.txt -e ".[offline,test,bench]"
python benchmarks/bench_persistence.py --data FOLDER [--json FILE]

The default classifier is fitted on some rows; every format is written and read several times, each
reading in a process of its own that has imported the libraries before the clock starts. Times are
seconds of CPU, from a warm disk. Answers of the loaded classifier on the test part are compared
with those before.
"""

import argparse
import json
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import skops.io
from machine import machine
from peers import header, line, read

from sklearn_transformers import OnnxTextClassifier, TransformerTextClassifier

TRUSTED = ["sklearn_transformers._classifier.TransformerTextClassifier"]

# Name -> (store_dtype, write, read).
FORMATS = {
    "pickle": ("float32", lambda clf, path: path.write_bytes(pickle.dumps(clf)), "unpickle"),
    "joblib": ("float32", joblib.dump, "joblib"),
    "joblib, mmap_mode='r'": ("float32", joblib.dump, "mapped"),
    "joblib, compress=3": (
        "float32",
        lambda clf, path: joblib.dump(clf, path, compress=3),
        "joblib",
    ),
    "joblib, store_dtype='float16'": ("float16", joblib.dump, "joblib"),
    "joblib, store_dtype='bfloat16'": ("bfloat16", joblib.dump, "joblib"),
    "folder": ("float32", lambda clf, path: clf.save(path), "folder"),
    "folder, store_dtype='float16'": ("float16", lambda clf, path: clf.save(path), "folder"),
    "skops": ("float32", lambda clf, path: path.write_bytes(skops.io.dumps(clf)), "skops"),
    "ONNX": ("float32", lambda clf, path: clf.export_onnx(path), "onnx"),
    "ONNX, int8=True": ("float32", lambda clf, path: clf.export_onnx(path, int8=True), "onnx"),
}
READERS = {
    "unpickle": lambda path: pickle.loads(Path(path).read_bytes()),
    "joblib": joblib.load,
    "mapped": lambda path: joblib.load(path, mmap_mode="r"),
    "folder": TransformerTextClassifier.load,
    "skops": lambda path: skops.io.load(path, trusted=TRUSTED),
    "onnx": OnnxTextClassifier.load,
}


def main():
    options = parse()
    if options.read:
        return print(json.dumps(measure_reading(*options.read)))
    warnings.simplefilter("ignore")
    X, y, X_test, _ = read(options.data, options.n_train, options.n_test)
    clf = TransformerTextClassifier(random_state=0, verbose=0).fit(X, y)
    weights = sum(4 * weight.numel() for weight in clf.model_.parameters())
    print(
        f"{machine()}\n{len(X)} rows of {Path(options.data).name}; "
        f"weights {weights / 2**20:.1f} MiB"
    )
    labels, probabilities = clf.predict(X_test), clf.predict_proba(X_test)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder, "texts.json")
        texts.write_text(json.dumps(list(map(str, X_test))))
        for number, (name, (dtype, write, reader)) in enumerate(FORMATS.items()):
            path = Path(folder, str(number))
            clf.store_dtype = dtype
            seconds = []
            for _ in range(options.repeats):
                start = time.process_time()
                write(clf, path)
                seconds.append(time.process_time() - start)
            readings = [run_reading(reader, path, texts) for _ in range(options.repeats)]
            found = np.array(readings[0]["probabilities"])
            rows.append(
                {
                    "format": name,
                    "MiB": size(path) / 2**20,
                    "of the weights": size(path) / weights,
                    "write, CPU s": statistics.median(seconds),
                    "read, CPU s": statistics.median(r["seconds"] for r in readings),
                    "one text, CPU ms": statistics.median(r["one text"] for r in readings),
                    "same labels": float((clf.classes_[found.argmax(axis=1)] == labels).mean()),
                    "largest difference": float(np.abs(found - probabilities).max()),
                }
            )
            print(rows[-1], file=sys.stderr)
    show(rows)
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return None


def size(path):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def run_reading(reader, path, texts):
    command = [sys.executable, __file__, "--read", reader, str(path), str(texts)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def measure_reading(reader, path, texts):
    warnings.simplefilter("ignore")
    import sklearn_transformers._saved  # noqa: F401  (and with it torch and transformers)

    start = time.process_time()
    clf = READERS[reader](path)
    seconds = time.process_time() - start
    texts = json.loads(Path(texts).read_text())
    answers = clf.predict_proba(texts)
    start = time.process_time()
    for text in texts[:100]:
        clf.predict_proba([text])
    one = 1000 * (time.process_time() - start) / len(texts[:100])
    return {"seconds": seconds, "one text": one, "probabilities": answers.tolist()}


def show(rows):
    columns = list(rows[0])
    header(*columns)
    for row in rows:
        line(*(f"{v:.4g}" if isinstance(v, float) else v for v in row.values()))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data")
    parser.add_argument("--n-train", type=int, default=600)
    parser.add_argument("--n-test", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
