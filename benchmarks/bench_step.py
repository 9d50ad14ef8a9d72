"""What the training form saves: one optimiser step with torch's own modules, and with ours.

pip install -c constraints.txt -e ".[offline,bench]"
python benchmarks/bench_step.py
python benchmarks/bench_step.py --dropout 0

All take the bundled encoder, the same random tokens, AdamW and gradient clipping, on the CPU.
"padded" is ours, but with padding in all layers, "whole table" is ours, but trains the embeddings
of all tokens, not only of those that occur. The shortest text of a step has `--shortest` of the
longest one's tokens, the others evenly more. Variants take turns, and the figures are medians over
`--repeats` steps. Useful FLOP/s count the matrix products of the encoder's layers for the
tokens of the texts, attention included, forward and backward, and are shown as a share of what a
product of two square matrices gets in the same number format (the best of several sizes).
"""

import argparse
import json
import statistics
import time
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from machine import machine
from peers import forward_flops, matrix_peak
from transformers import logging

from sklearn_transformers._checkpoint import BUNDLED_NAME
from sklearn_transformers._device import autocast, resolve_precision
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._pretrained import load_pretrained
from sklearn_transformers._training_form import training_form

# Texts in a step, and tokens in the longest.
SHAPES = ((8, 24), (16, 32), (32, 64), (16, 256))
N_TOKENS = 1000  # distinct tokens in the training texts


def main():
    arguments = parse()
    logging.set_verbosity_error()
    precision = resolve_precision(arguments.precision, "cpu")
    peak = matrix_peak(precision)
    pretrained = load_pretrained(BUNDLED_NAME, dropout=arguments.dropout)
    backbone, width = pretrained.backbone, pretrained.width
    model = TextClassifier(backbone, width, "mean", 4, arguments.dropout).draw_head()
    every_id = np.arange(len(pretrained.tokenizer))
    ids = torch.randperm(len(every_id))[:N_TOKENS]
    print(f"{precision}, {torch.get_num_threads()} threads, peak {peak / 1e9:.0f} GFLOP/s\n")
    print("| texts x tokens | torch, ms | padded, ms | whole table, ms | ours, ms", end="")
    print(" | torch / ours | padded / ours | whole table / ours | ours, share of the peak |")
    print("|---" * 9 + "|")
    rows = []
    for n_texts, length in SHAPES:
        tokens = ids[torch.randint(N_TOKENS, (n_texts, length))]
        lengths = torch.linspace(arguments.shortest * length, length, n_texts).round().int()
        mask = (torch.arange(length) < lengths[:, None]).long()
        forms = {
            "torch": nullcontext,
            "padded": lambda: padded_form(model, ids.numpy()),
            "whole table": lambda: training_form(model, model.backbone, every_id),
            "ours": lambda: training_form(model, model.backbone, ids.numpy()),
        }
        times = {name: [] for name in forms}
        for _ in range(arguments.rounds):
            for name, form in forms.items():
                with form():
                    times[name] += time_steps(model, tokens, mask, precision, arguments.repeats)
        median = {name: statistics.median(times[name]) for name in forms}
        ours = median["ours"]
        useful = 3 * forward_flops(model.backbone.encoder, lengths.tolist())
        rows.append({"texts": n_texts, "tokens": length} | median)
        print(
            f"| {n_texts} x {length} |",
            " | ".join(f"{1e3 * seconds:.0f}" for seconds in median.values()),
            "|",
            " | ".join(f"{median[name] / ours:.2f}" for name in forms if name != "ours"),
            f"| {useful / ours / peak:.0%} |",
            flush=True,
        )
    if arguments.json:
        content = {"options": vars(arguments), "machine": machine(), "precision": precision}
        content |= {"peak": peak, "rows": rows}
        with open(arguments.json, "w") as file:
            json.dump(content, file, indent=1)


@contextmanager
def padded_form(model, token_ids):
    """The training form, but that padding goes through all layers."""
    with training_form(model, model.backbone, token_ids):
        model.packed = False
        yield


def time_steps(model, tokens, mask, precision, repeats):
    """Seconds of each step, the first two left out."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        with autocast("cpu", precision):
            logits = model(tokens, mask)
        logits.square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=7, help="steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shortest", type=float, default=0.7)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--json", help="write the raw figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
