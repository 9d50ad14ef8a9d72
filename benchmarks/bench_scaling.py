"""Whether more texts cost more each: time and memory of fit and predict at growing numbers.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_scaling.py

Each size runs in a process of its own, on distinct texts of 12 to 20 made-up words. A small model
of random weights (two layers, 128 wide) shows what grows with the texts better than a large one,
beside which everything is little: `--bundled` takes the bundled encoder. One epoch, batches of 32;
more than 100,000 texts are only predicted, by a model of the first 100,000. Times are seconds of
CPU. Memory is the highest resident one during the work above that before it, when libraries and
texts are there and a small fit has been made. Linux only.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
from machine import machine
from peers import header, line
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, logging

from sklearn_transformers import TransformerTextClassifier

WORDS = [first + second for first in "bdfgklmnprst" for second in ("ab", "eck", "ill", "ot", "um")]
MOST_FITTED = 100_000
LIBRARIES = ("sklearn_transformers._fitting", "transformers.models.bert.modeling_bert")


def main():
    options = parse()
    if options.only:
        print(json.dumps(measure(options)))
        return
    header("texts", "fit, ms a text", "fit, MiB", "predict, ms a text", "predict, MiB")
    results = {}
    for n_texts in options.sizes:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", str(n_texts)]
        runs = []
        for _ in range(options.repeats):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        fit, predict = (1000 * middle[f"{part}_seconds"] / n_texts for part in ("fit", "predict"))
        fit_mib, predict_mib = (f"{middle[f'{part}_mib']:.0f}" for part in ("fit", "predict"))
        of_fit = (f"{fit:.2f}", fit_mib) if n_texts <= MOST_FITTED else ("", "")
        line(n_texts, *of_fit, f"{predict:.3f}", predict_mib)
        results[n_texts] = runs
    if options.json:
        content = {"options": vars(options), "machine": machine(), "runs": results}
        Path(options.json).write_text(json.dumps(content, indent=1), encoding="utf-8")


def measure(options):
    """Seconds of CPU and MiB of memory, of fit and of predict."""
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    for library in LIBRARIES:
        import_module(library)
    X, y = made_up(options.only)
    with tempfile.TemporaryDirectory() as folder:
        model = {} if options.bundled else {"model": small_model(folder)}
        clf = TransformerTextClassifier(
            **model,
            max_epochs=1,
            batch_size=32,
            max_length=24,
            tuning="full",
            early_stopping=False,
            random_state=0,
            verbose=0,
        )
        clf.fit(X[:64], y[:64])  # what the first call alone has to do
        unseen = [f"{text} anew" for text in X]
        fit_seconds, fit_mib = cost(lambda: clf.fit(X[:MOST_FITTED], y[:MOST_FITTED]))
        predict_seconds, predict_mib = cost(lambda: clf.predict(unseen))
    return {
        "fit_seconds": fit_seconds,
        "fit_mib": fit_mib,
        "predict_seconds": predict_seconds,
        "predict_mib": predict_mib,
    }


def cost(work):
    """Seconds of CPU, and the highest memory above what is taken before, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    before, start = resident("VmRSS"), time.process_time()
    work()
    return time.process_time() - start, resident("VmHWM") - before


def resident(kind):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) / 1024


def made_up(n_texts):
    """Distinct texts, whose first word tells the class."""
    rng = np.random.default_rng(0)
    texts = []
    for i in range(n_texts):
        words = rng.choice(WORDS, rng.integers(4, 13))
        texts.append(" ".join([WORDS[i % 4], *words, *(WORDS[int(c)] for c in f"{i:07d}")]))
    return texts, [i % 4 for i in range(n_texts)]


def small_model(folder):
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(specials + WORDS)}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", model_max_length=24
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
    )
    tokenizer.save_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    return folder


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--bundled", action="store_true", help="the bundled encoder")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="write the raw figures there")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
