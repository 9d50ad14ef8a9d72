"""Workers: the same bits as one process, a fair share of the cores, and no hang after a fork."""

import copy
import gc
import multiprocessing
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_predict
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
)

from sklearn_transformers import TransformerTextClassifier, _steady
from sklearn_transformers._device import resolve_device
from sklearn_transformers._model import TextClassifier
from sklearn_transformers._process import refuse_fork, worker_number
from sklearn_transformers._steady import SteadyLinear
from sklearn_transformers._training_form import replaced_layers, training_form


@pytest.fixture
def threads():
    """Set the number of torch's threads, and set it back after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# --- the same bits ---------------------------------------------------------------------------


def test_search__two_workers__give_the_bits_of_one_process(make, three_classes):
    X, y = three_classes
    search = GridSearchCV(
        make(max_epochs=2), {"learning_rate": [1e-3, 5e-3]}, cv=2, scoring="neg_log_loss"
    )
    one, two = (clone(search).set_params(n_jobs=n_jobs).fit(X, y) for n_jobs in (1, 2))
    for key in ("split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(one.cv_results_[key], two.cv_results_[key])
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))


def gradients(module, hidden, upstream, n_threads, threads):
    """Answer and gradients of a module."""
    threads(n_threads)
    module.zero_grad()
    hidden = hidden.detach().clone().requires_grad_()
    answer = module(hidden)
    answer.backward(upstream)
    return [answer.detach(), hidden.grad, *(p.grad.clone() for p in module.parameters())]


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steady_layer_norm__any_number_of_threads__same_exact_gradients(threads, bias, dtype):
    hidden, upstream = draw(16, 64, 96).to(dtype), draw(16, 64, 97)[..., 1:].to(dtype)
    norm = nn.LayerNorm(96, bias=bias)
    exact = gradients(copy.deepcopy(norm).double(), hidden.double(), upstream.double(), 1, threads)
    with replaced_layers(nn.Sequential(norm)):
        answers = [gradients(norm, hidden, upstream, n, threads) for n in (1, 2, 3)]
    for one, two, three, expected in zip(*answers, exact, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
        digits = 1e-4 if one.dtype is torch.float32 else 0.05
        torch.testing.assert_close(one.double(), expected, rtol=digits, atol=digits)
    if dtype is torch.float32:  # why it is needed: torch's own differ
        one, two = (gradients(norm, hidden, upstream, n, threads) for n in (1, 2))
        assert not torch.equal(one[2], two[2])


@pytest.mark.parametrize("n_rows", [1, 5, 11, 32, 200])
@pytest.mark.parametrize("n_classes", [2, 3, 6, 77])
def test_steady_linear__any_number_of_threads__has_the_same_exact_gradients(
    threads, n_rows, n_classes
):
    layer = SteadyLinear(384, n_classes)
    hidden, upstream = draw(n_rows, 384), draw(n_rows, n_classes)
    exact = gradients_of_product(layer, hidden, upstream)
    answers = [gradients(layer, hidden, upstream, n, threads) for n in (1, 2, 3)]
    for one, two, three, expected in zip(*answers, exact, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)
        torch.testing.assert_close(one.double(), expected, rtol=1e-4, atol=1e-4)


def gradients_of_product(layer, hidden, upstream):
    hidden, upstream = hidden.double(), upstream.double()
    weight, bias = (p.detach().double() for p in (layer.weight, layer.bias))
    return [hidden @ weight.T + bias, upstream @ weight, upstream.T @ hidden, upstream.sum(dim=0)]


def test_steady_linear__more_products_than_are_held_at_once__are_computed_in_parts(monkeypatch):
    layer, hidden = SteadyLinear(8, 3), draw(50, 8)
    whole = layer(hidden)
    monkeypatch.setattr(_steady, "CHUNK", 7 * 24)
    assert torch.equal(layer(hidden), whole)


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("kind", [nn.LayerNorm, SteadyLinear])
def test_steady__frozen_parameter__gets_no_gradient_and_the_others_theirs(kind, frozen):
    module = kind(16) if kind is nn.LayerNorm else kind(16, 16)
    hidden = draw(5, 16).requires_grad_()
    with replaced_layers(nn.Sequential(module)):
        module(hidden).sum().backward()
        expected = {name: p.grad.clone() for name, p in module.named_parameters()}
        expected_hidden, hidden.grad = hidden.grad, None
        module.zero_grad()
        getattr(module, frozen).requires_grad_(False)
        module(hidden).sum().backward()
    assert torch.equal(hidden.grad, expected_hidden)
    assert getattr(module, frozen).grad is None
    (other,) = {"weight", "bias"} - {frozen}
    assert torch.equal(getattr(module, other).grad, expected[other])


WIDE = {"vocab_size": 500, "hidden_size": 384, "num_attention_heads": 6}
FAMILIES = {
    "albert": AlbertConfig(**WIDE, intermediate_size=768),
    "bert": BertConfig(**WIDE),
    "deberta-v2": DebertaV2Config(**WIDE, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "distilbert": DistilBertConfig(vocab_size=500, dim=384, n_heads=6),
    "electra": ElectraConfig(**WIDE),
    "gpt2": GPT2Config(vocab_size=500, n_embd=384, n_head=6),
    "llama": LlamaConfig(**WIDE, intermediate_size=1024),
    "modernbert": ModernBertConfig(**WIDE),
    "mpnet": MPNetConfig(**WIDE),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_model__of_real_width__has_the_same_gradients_with_one_two_and_four_threads(
    threads, family
):
    config = FAMILIES[family]
    config.num_hidden_layers, config.use_cache = 1, False
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"):
        setattr(config, name, 0)
    with torch.random.fork_rng([]):
        model = TextClassifier(AutoModel.from_config(config), 384, "mean", 3, 0.0).draw_head()
    # With AVX-512, torch's softmax, which these two call as an operation of its own, depends on
    # the threads where a row is no multiple of 16 numbers: docs/in_scikit_learn.md says so.
    last = 48 if family in {"deberta-v2", "mpnet"} else 40
    for n_rows, length in ((3, 8), (11, 16), (24, last)):
        ids = torch.arange(n_rows * length).reshape(n_rows, length) % 499 + 1
        lengths = torch.linspace(length, 1, n_rows).int()  # much padding, which some leave out
        mask = (torch.arange(length) < lengths[:, None]).long()
        answers = []
        for n_threads in (1, 2, 4):
            threads(n_threads)
            model.zero_grad()
            with training_form(model, model.backbone, np.arange(500)), torch.random.fork_rng([]):
                torch.manual_seed(0)
                (model.train()(ids, mask) * draw(n_rows, 3)).sum().backward()
                answers.append([p.grad for p in model.parameters() if p.grad is not None])
        for one, two, four in zip(*answers, strict=True):
            assert torch.equal(one, two)
            assert torch.equal(one, four)


def test_fit__training_over__every_norm_is_torchs_again(make, binary):
    clf = make(max_epochs=1).fit(*binary)
    kinds = {type(m) for m in clf.model_.modules() if isinstance(m, nn.LayerNorm)}
    assert kinds == {nn.LayerNorm}


CHOICES = [
    {},
    {"tuning": "lora"},
    {"tuning": "full", "head": "attention"},
    {"tuning": "head", "head": "mlp"},
]


@pytest.mark.pretrained
@pytest.mark.parametrize("choices", CHOICES)
def test_fit__real_encoder__has_the_same_bits_with_one_thread_and_with_two(threads, choices):
    words = ["a joy from start to end", "dull and endless", "it rained all day in the city"]
    X, y = [f"{word} {number}" for number in range(16) for word in words], ["a", "b", "c"] * 16
    weights, scores = [], []
    for n_threads in (1, 2):
        threads(n_threads)
        clf = TransformerTextClassifier(
            max_epochs=2, precision="float32", device="cpu", random_state=0, verbose=0, **choices
        ).fit(X, y)
        weights.append(list(clf.model_.parameters()))
        scores.append(clf.best_score_)
    assert scores[0] == scores[1]
    assert all(torch.equal(one, two) for one, two in zip(*weights, strict=True))


# --- a fair share ----------------------------------------------------------------------------


def n_threads_and_number():
    return torch.get_num_threads(), worker_number()


def test_workers__torchs_threads__times_workers_are_at_most_the_cores():
    n_workers = 2
    answers = Parallel(n_jobs=n_workers)(delayed(n_threads_and_number)() for _ in range(4))
    n_threads = {threads for threads, _ in answers}
    # The environment of whoever runs the tests may set the number itself, and joblib keeps that.
    fair = int(os.environ.get("OMP_NUM_THREADS", max(1, joblib.cpu_count() // n_workers)))
    assert n_threads == {fair}


def test_worker_number__workers__are_numbered_and_the_main_process_is_not():
    assert worker_number() is None
    numbers = {number for _, number in Parallel(2)(delayed(n_threads_and_number)() for _ in "1234")}
    assert None not in numbers
    assert all(number >= 0 for number in numbers)


@pytest.mark.parametrize(
    ("name", "n_gpus", "expected"),
    [
        ("MainProcess", 4, "cuda"),
        ("LokyProcess-1", 4, "cuda:0"),
        ("LokyProcess-2", 4, "cuda:1"),
        ("LokyProcess-7", 4, "cuda:2"),
        ("ForkPoolWorker-3", 2, "cuda:0"),
        ("SpawnPoolWorker-4", 2, "cuda:1"),
        ("run-2024", 4, "cuda"),
        ("LokyProcess-2", 1, "cuda"),
    ],
)
def test_resolve_device__workers_and_gpus__are_spread(monkeypatch, name, n_gpus, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", name)
    assert resolve_device("auto") == expected


# --- after a fork ----------------------------------------------------------------------------

FORK = """
import multiprocessing, sys
import numpy as np
import torch
from sklearn_transformers import TransformerTextClassifier

torch.set_num_threads(2)
X, y = ["good film", "bad day", "great book", "sad song"] * 10, [1, 0, 1, 0] * 10
clf = TransformerTextClassifier(sys.argv[1], max_epochs=2, device="cpu", random_state=0, verbose=0)
big = torch.randn(500, 500)
(big @ big).sum()  # large enough for torch to start its pool of threads
{before}

def work(_):
    fitted = clf.fit(X, y).predict_proba(X)
    return torch.get_num_threads(), fitted

with multiprocessing.get_context("fork").Pool(1) as pool:
    (n_threads, fitted), = pool.map(work, [0])
{after}
np.testing.assert_array_equal(fitted, clf.fit(X, y).predict_proba(X))
print("threads:", n_threads, torch.get_num_threads())
"""
# The package may have trained before the fork, or not even have loaded what training needs, or
# another thread may hold its locks.
BEFORE = {
    "fitted": ("clf.fit(X, y)", ""),
    "only torch was used": ("", ""),
    "another thread trains": (
        """
import threading
from sklearn_transformers import _process
forked = threading.Event()

def train():
    with _process._GENERATORS:
        held.set()
        forked.wait()

held = threading.Event()
threading.Thread(target=train).start()
held.wait()
""",
        "forked.set()",
    ),
}

needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)


@needs_fork
@pytest.mark.parametrize("before", BEFORE)
def test_fork__after_torch_used_its_threads__fits_and_predicts_with_one(checkpoints, before):
    before, after = BEFORE[before]
    code = FORK.format(before=before, after=after)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, checkpoints["bert"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "threads: 1 2\n", done.stderr


@needs_fork
def test_multiprocessing_backend__forked_workers__give_the_bits_of_one_process(make, binary):
    X, y = binary
    clf = make(max_epochs=2)
    expected = cross_val_predict(clf, X, y, cv=2, method="predict_proba")
    with joblib.parallel_config(backend="multiprocessing"):
        actual = cross_val_predict(clf, X, y, cv=2, method="predict_proba", n_jobs=2)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
def test_resolve_device__forked_after_cuda__names_the_ways_out(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match=r"forked from one that had already used CUDA.*'loky'"):
        resolve_device(device)
    assert resolve_device("cpu") == "cpu"


def test_fit__forked_after_cuda__says_so_and_leaves_unfitted(monkeypatch, make, binary):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    clf = make(device="auto")
    with pytest.raises(RuntimeError, match=r"multiprocessing.get_context\('spawn'\)"):
        clf.fit(*binary)
    assert not hasattr(clf, "model_")


def report_of_refusal():
    try:
        refuse_fork()
    except RuntimeError as error:
        return str(error)
    return "not refused"


@needs_fork
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu__forked_after_cuda__is_refused():
    torch.zeros(1, device="cuda")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "does not survive a fork" in pool.apply(report_of_refusal)


# --- nothing is left behind ------------------------------------------------------------------


def census():
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_twenty_fits__of_clones__leave_no_live_tensor(make, three_classes):
    X, y = [part[:60] for part in three_classes]
    clf = make(max_epochs=2)
    before = census()
    for _ in range(20):
        clone(clf).fit(X, y).predict(X)
    assert census() == before


def test_cross_validation__over__leaves_no_live_tensor(make, three_classes):
    before = census()
    search = GridSearchCV(make(max_epochs=1), {"dropout": [0.0, 0.1]}, cv=2)
    search.fit(*three_classes)
    kept = list(search.best_estimator_.model_.parameters())
    kept += list(search.best_estimator_.model_.buffers())
    assert census() == before + len(kept)


RESIDENT = """
import gc, sys
from pathlib import Path
from sklearn.base import clone
from sklearn_transformers import TransformerTextClassifier, _steady

X, y = ["good film", "bad day", "great book", "sad song"] * 2, [1, 0, 1, 0] * 2
clf = TransformerTextClassifier(sys.argv[1], max_epochs=1, device="cpu", random_state=0, verbose=0)

def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

sizes = []
for fit in range(23):
    clone(clf).fit(X, y).predict(X)
    sizes.append(resident())
# The allocator gives memory back when it pleases: the smallest of a few readings counts.
print(min(sizes[-5:]) - min(sizes[3:8]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_twenty_fits__of_clones__keep_resident_memory_flat(large_checkpoint):
    folder, n_bytes = large_checkpoint
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, folder], capture_output=True, text=True, check=True
    )
    # Not one copy of the weights may stay, let alone twenty.
    assert int(done.stdout) < n_bytes


@pytest.fixture
def large_checkpoint(checkpoints, tmp_path):
    """A model whose weights stand out from what Python's own memory varies by: 19 MB."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(checkpoints["bert"])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=1024,
    )
    model = BertModel(config)
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    return str(tmp_path), sum(4 * weight.numel() for weight in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu__twenty_fits_of_clones__leave_allocated_memory_as_it_was(make, three_classes):
    clf = make(device="cuda", max_epochs=1)
    clone(clf).fit(*three_classes)  # cuBLAS keeps a workspace for good
    gc.collect()
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        clone(clf).fit(*three_classes).predict(three_classes[0])
    gc.collect()
    assert torch.cuda.memory_allocated() == before
