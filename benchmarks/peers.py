"""What the speed and memory benchmarks share: texts, the peers, and the machine's limit.

A contestant is a function (job) -> Trained, which trains and returns what answers texts. All of
them start from the texts, load the same model (the bundled encoder, if nothing else is said), train
the same rows for the same epochs in steps of the same number of texts, and cut texts at the same
length.
"""

import resource
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sklearn_transformers._checkpoint import BUNDLED_NAME, find_checkpoint
from sklearn_transformers._device import resolve_precision


@dataclass
class Job:
    """The work that is the same for all."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    epochs: int
    batch_size: int
    max_length: int
    folder: str = field(default_factory=lambda: str(find_checkpoint(BUNDLED_NAME)))
    precision: str = field(default_factory=lambda: best_precision())  # for those who can choose

    @property
    def codes(self):
        return np.unique(self.y, return_inverse=True)[1]

    @property
    def n_classes(self):
        return len(np.unique(self.y))

    def forward_flops(self, texts):
        """What a model has to compute at least to read the texts once, without padding."""
        lengths = [len(ids) for ids in tokens(self, texts)]
        return forward_flops(sequence_classifier(self).base_model.encoder, lengths)


class Trained(NamedTuple):
    """What a contestant returns."""

    predict: Any
    loop_seconds: float  # of training alone, without loading and tokens


def bert_base(folder):
    """A model of BERT-base's size with random weights, and the bundled tokenizer: for speed."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(str(find_checkpoint(BUNDLED_NAME)))
    BertModel(BertConfig(vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read(folder, n_train, n_test):
    """Random rows of both parts, those of the test part of classes that were drawn only."""
    rng = np.random.default_rng(0)
    parts = []
    for part, n_rows in (("train", n_train), ("test", n_test)):
        lines = Path(folder, f"{part}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [lines[i].split("\t")[:2] for i in rng.permutation(len(lines))[:n_rows]]
        labels, texts = map(np.array, zip(*rows, strict=True))
        parts.append((texts, labels))
    (X, y), (X_test, y_test) = parts
    known = np.isin(y_test, y)
    return X, y, X_test[known], y_test[known]


def tokens(job, texts):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.folder)
    return tokenizer(list(map(str, texts)), truncation=True, max_length=job.max_length)["input_ids"]


# --- contestants -----------------------------------------------------------------------------


def ours(job, **parameters):
    """`TransformerTextClassifier`; the recipe is fixed, so that the work is the same."""
    from sklearn_transformers import TransformerTextClassifier, clear_cache

    clear_cache()
    clf = TransformerTextClassifier(
        job.folder,
        max_length=job.max_length,
        max_epochs=job.epochs,
        batch_size=job.batch_size,
        early_stopping=False,
        tuning="full",
        head_init="random",
        precision=job.precision,
        random_state=0,
        verbose=0,
        **parameters,
    ).fit(job.X, job.codes)
    return Trained(clf.predict, sum(epoch["seconds"] for epoch in clf.history_[1:]))


def ours_compiled(job):
    """The same with `compile=True`."""
    return ours(job, compile=True)


def skorch(job):
    """The recipe of skorch's documentation: float32, all texts padded to the longest allowed."""
    from sklearn.pipeline import make_pipeline
    from skorch import NeuralNetClassifier
    from skorch.hf import HuggingfacePretrainedTokenizer

    torch.manual_seed(0)
    net = NeuralNetClassifier(
        SequenceClassifier,
        module__folder=job.folder,
        module__n_classes=job.n_classes,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        lr=5e-5,
        max_epochs=job.epochs,
        batch_size=job.batch_size,
        iterator_train__shuffle=True,
        train_split=None,
        device=_device(),
        verbose=0,
    )
    tokenizer = HuggingfacePretrainedTokenizer(job.folder, max_length=job.max_length)
    pipeline = make_pipeline(tokenizer, net).fit(job.X, job.codes)
    return Trained(pipeline.predict, sum(net.history[:, "dur"]))


def trainer(job):
    """`transformers.Trainer` with its defaults: float32, random batches, each padded."""
    return _trainer(job)


def trainer_tuned(job):
    """`transformers.Trainer` with the number format of the job and batches of similar length."""
    reduced = {"bfloat16": {"bf16": True}, "float16": {"fp16": True}}.get(job.precision, {})
    return _trainer(job, train_sampling_strategy="group_by_length", **reduced)


def _trainer(job, **settings):
    from transformers import (
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    scratch = tempfile.TemporaryDirectory()
    arguments = TrainingArguments(
        scratch.name,
        num_train_epochs=job.epochs,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=32,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        log_level="error",
        seed=0,
        **settings,
    )
    loop = Trainer(
        sequence_classifier(job),
        arguments,
        train_dataset=_rows(job, job.X, job.codes),
        data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(job.folder)),
    )
    loop.remove_callback(PrinterCallback)
    seconds = loop.train().metrics["train_runtime"]

    def predict(texts):
        # With batches of similar length, the answers would come in their order.
        loop.args.train_sampling_strategy = "random"
        assert scratch is not None  # lives as long as the loop
        return loop.predict(_rows(job, texts)).predictions.argmax(axis=1)

    return Trained(predict, seconds)


def _rows(job, texts, codes=None):
    codes = np.zeros(len(texts), int) if codes is None else codes
    ids = tokens(job, texts)
    return [{"input_ids": row, "labels": int(c)} for row, c in zip(ids, codes, strict=True)]


class SequenceClassifier(nn.Module):
    """The module of skorch's recipe."""

    def __init__(self, folder, n_classes):
        super().__init__()
        from transformers import AutoModelForSequenceClassification

        self.model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=n_classes, dtype=torch.float32
        )

    def forward(self, **inputs):
        return self.model(**inputs).logits


def sequence_classifier(job):
    torch.manual_seed(0)
    return SequenceClassifier(job.folder, job.n_classes).model


# --- tables ----------------------------------------------------------------------------------


def header(*names):
    line(*names)
    print("|---" * len(names) + "|", flush=True)


def line(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def median_and_spread(values, digits):
    """Two cells: the median, and from the least to the greatest."""
    middle, least, most = (f"{f(values):.{digits}f}" for f in (statistics.median, min, max))
    return middle, f"{least}-{most}"


# --- the machine -----------------------------------------------------------------------------


def best_precision():
    """The number format in which this machine trains fastest."""
    return resolve_precision("auto", _device())


def matrix_peak(precision):
    """FLOP/s of the quickest of some products of square matrices."""
    best, device = 0.0, _device()
    for size in (512, 1024, 2048) if device == "cpu" else (4096, 8192):
        left, right = (torch.randn(size, size).to(device, getattr(torch, precision)) for _ in "ab")
        for _ in range(20):
            synchronise()
            start = time.perf_counter()
            left @ right
            synchronise()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def synchronise():
    """Wait for the GPU, where there is one."""
    if _device() == "cuda":
        torch.cuda.synchronize()


def _device():
    return "cuda" if torch.cuda.is_available() else "cpu"


def forward_flops(encoder, lengths):
    """Operations of matrix products, those of attention too, of one pass over the texts."""
    n_weights = sum(weight.numel() for weight in encoder.parameters() if weight.ndim == 2)
    lengths = np.asarray(lengths, float)
    # A layer compares each token with each, and adds up as many vectors.
    per_pair = 4 * encoder.config.num_hidden_layers * encoder.config.hidden_size
    return 2 * n_weights * lengths.sum() + per_pair * (lengths**2).sum()


def highest_memory():
    """The highest resident memory of this process so far, in MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 1024 / (1024 if sys.platform == "darwin" else 1)
