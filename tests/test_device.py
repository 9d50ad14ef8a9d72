import numpy as np
import pytest
import torch

from sklearn_transformers._device import (
    draw_seed,
    present_device,
    resolve_device,
    resolve_precision,
    to_device,
)


def pretend(monkeypatch, *, cuda=False, mps=False):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"cuda": True, "mps": True}, "cuda"),
        ({"mps": True}, "mps"),
        ({}, "cpu"),
    ],
)
def test_resolve_device__auto__takes_the_first_that_is_there(monkeypatch, there, expected):
    pretend(monkeypatch, **there)
    assert resolve_device("auto") == expected


def test_resolve_device__torch_device__is_taken():
    assert resolve_device(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:x", 3.5, None, ""])
def test_resolve_device__unknown__says_what_is_possible(device):
    with pytest.raises(ValueError, match="'device' parameter of TransformerTextClassifier must"):
        resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_resolve_device__absent__names_the_way_out():
    with pytest.raises(ValueError, match=r"device='cuda' is not available.*device='auto'"):
        resolve_device("cuda")


def test_present_device__absent__falls_back(monkeypatch):
    pretend(monkeypatch)
    assert present_device("cuda:7") == "cpu"
    assert present_device("cpu") == "cpu"


def test_resolve_precision__named__is_kept():
    assert resolve_precision("float16", "cpu") == "float16"


@pytest.mark.parametrize(
    ("able", "expected"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")],
)
def test_resolve_precision__cpu__needs_instructions(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert resolve_precision("auto", "cpu") == expected


@pytest.mark.parametrize(("native", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_resolve_precision__cuda__asks_the_card(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    assert resolve_precision("auto", "cuda") == expected


def test_draw_seed__int__is_the_seed():
    assert draw_seed(7) == 7
    assert draw_seed(np.int64(7)) == 7


def test_draw_seed__random_state__is_drawn_from():
    state = np.random.RandomState(0)
    assert draw_seed(state) != draw_seed(state)
    assert draw_seed(np.random.RandomState(0)) == draw_seed(np.random.RandomState(0))


def test_draw_seed__none__is_new_each_time_and_leaves_numpy_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert draw_seed(None) != draw_seed(None)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_resolve_device__meta__holds_nothing_and_is_refused():
    with pytest.raises(ValueError, match="device='meta' is not available"):
        resolve_device("meta")


def test_to_device__gpu__copies_from_pinned_memory_without_waiting(monkeypatch):
    asked = []

    class OnTheHost:
        def pin_memory(self):
            asked.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            asked.append((device, non_blocking))
            return self

    monkeypatch.setattr(torch, "from_numpy", lambda array: OnTheHost())
    to_device(np.zeros(3), "cuda:0")
    assert asked == ["pinned", ("cuda:0", True)]
