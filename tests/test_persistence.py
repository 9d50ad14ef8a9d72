import copy
import io
import json
import pickle
import pickletools
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pytest
import skops.io
import torch
from conftest import ARCHITECTURES
from safetensors.torch import load, save
from sklearn.base import clone

from sklearn_transformers import SavedModelError, TransformerTextClassifier
from sklearn_transformers._folder import FORMAT

# As docs/persistence.md has it.
TRUSTED = ["sklearn_transformers._classifier.TransformerTextClassifier"]

TEXTS = ["the film was great", "bad " * 30, "", "quite 漢字"]

READ_BACK = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import joblib, numpy as np
clf = joblib.load(sys.argv[1])
np.save(sys.argv[2], clf.predict_proba({texts!r}))
"""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_joblib__fresh_process_without_model_folder__same_probabilities(
    make, checkpoints, three_classes, tmp_path, architecture
):
    shutil.copytree(checkpoints[architecture], tmp_path / "model")
    clf = make(architecture, model=tmp_path / "model", max_epochs=2).fit(*three_classes)
    joblib.dump(clf, tmp_path / "clf.joblib")
    shutil.rmtree(tmp_path / "model")
    code = READ_BACK.format(texts=TEXTS)
    arguments = [str(tmp_path / "clf.joblib"), str(tmp_path / "answers.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "answers.npy"), clf.predict_proba(TEXTS))


def test_pickle__round_trip__keeps_everything(fitted):
    loaded = pickle.loads(pickle.dumps(fitted))
    assert loaded.get_params() == fitted.get_params()
    for name in ("history_", "n_iter_", "best_epoch_", "best_score_", "seed_", "learning_rate_"):
        assert getattr(loaded, name) == getattr(fitted, name)
    np.testing.assert_array_equal(loaded.transform(TEXTS), fitted.transform(TEXTS))
    assert not loaded.model_.training
    again = pickle.loads(pickle.dumps(loaded))
    np.testing.assert_array_equal(again.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


class Recorder(pickle.Unpickler):
    """Notes every name that a stream asks for."""

    def find_class(self, module, name):
        self.packages.add(module.split(".")[0])
        return super().find_class(module, name)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle__stream__names_no_class_of_torch_or_transformers(fitted, protocol):
    content = pickle.dumps(fitted, protocol)
    recorder = Recorder(io.BytesIO(content))
    recorder.packages = set()
    recorder.load()
    plain = {"builtins", "copyreg", "_codecs"}
    assert {"sklearn_transformers", "numpy"} <= recorder.packages
    assert recorder.packages <= {"sklearn_transformers", "numpy"} | plain
    named = {a for opcode, a, _ in pickletools.genops(content) if opcode.name == "GLOBAL"}
    assert not any(name.startswith(("torch", "transformers", "skorch", "peft")) for name in named)


def test_pickle__size__is_that_of_the_weights(fitted):
    weights = sum(4 * p.numel() for p in fitted.model_.parameters())
    tokenizer_and_config = 20_000
    assert len(pickle.dumps(fitted)) < 1.02 * weights + tokenizer_and_config


def test_pickle__trained_on_an_absent_device__loads_on_this_one(fitted):
    state = fitted.__getstate__() | {"device_": "cuda:7"}
    loaded = object.__new__(type(fitted))
    loaded.__setstate__(state)
    assert loaded.device_ in {"cpu", "cuda", "mps"}
    np.testing.assert_allclose(
        loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS), rtol=0, atol=1e-5
    )


def test_pickle__damaged_weights__are_refused(fitted):
    state = fitted.__getstate__()
    weights = load(state["model_"]["weights"].tobytes())
    del weights["backbone.encoder.layer.1.output.dense.weight"]
    state["model_"] = state["model_"] | {"weights": np.frombuffer(save(weights), np.uint8)}
    with pytest.raises(SavedModelError, match="the file is damaged"):
        object.__new__(type(fitted)).__setstate__(state)


def test_pickle__tokenizer_with_several_chat_templates__comes_back(fitted):
    clf = copy.deepcopy(fitted)
    clf.tokenizer_.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    loaded = pickle.loads(pickle.dumps(clf))
    assert loaded.tokenizer_.chat_template == clf.tokenizer_.chat_template
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


def test_pickle__path_as_model__becomes_a_str(checkpoints, binary, make):
    clf = make(model=Path(checkpoints["bert"]), max_epochs=1).fit(*binary)
    assert b"pathlib" not in pickle.dumps(clf)
    assert pickle.loads(pickle.dumps(clf)).model == checkpoints["bert"]


def test_unpickle__random_state__is_not_touched(fitted):
    content = pickle.dumps(fitted)
    before = torch.get_rng_state()
    pickle.loads(content)
    assert torch.equal(torch.get_rng_state(), before)


def test_pickle__unfitted__stays_unfitted(make):
    loaded = pickle.loads(pickle.dumps(make(max_epochs=3)))
    assert loaded.max_epochs == 3
    assert not hasattr(loaded, "model_")


def test_pickle__loaded__can_be_trained_on(make, three_classes):
    clf = make(max_epochs=2, early_stopping=False).fit(*three_classes)
    loaded = pickle.loads(pickle.dumps(clf))
    expected = clf.partial_fit(*three_classes).predict_proba(TEXTS)
    np.testing.assert_array_equal(loaded.partial_fit(*three_classes).predict_proba(TEXTS), expected)


def test_clone__fitted__is_unfitted_with_same_parameters(fitted):
    fresh = clone(fitted)
    assert fresh.get_params() == fitted.get_params()
    assert not hasattr(fresh, "model_")


GOLDEN = Path(__file__).parent / "golden"
FORMATS = range(1, FORMAT + 1)


@pytest.mark.parametrize("number", FORMATS)
@pytest.mark.parametrize("kind", ["joblib", "folder"])
def test_golden__every_released_format__answers_as_it_did(number, kind):
    folder = GOLDEN / f"format_{number}"
    expected = json.loads((folder / "answers.json").read_text())
    if kind == "joblib":
        clf = joblib.load(folder / "classifier.joblib")
    else:
        clf = TransformerTextClassifier.load(folder / "classifier")
    np.testing.assert_allclose(
        clf.predict_proba(expected["texts"]), expected["probabilities"], rtol=0, atol=1e-5
    )
    assert clf.classes_.tolist() == ["bad", "good", "plain"]
    assert clf.truncation_side == "right"  # all that format 1 knew
    long = "good bad film " * 300
    ends = clf.tokenizer_(long, truncation=True, max_length=clf.max_length_)["input_ids"]
    alike = clf.tokenizer_.decode(ends, skip_special_tokens=True)
    np.testing.assert_array_equal(clf.predict_proba([long]), clf.predict_proba([alike]))
    assert clf.partial_fit(["good", "bad"], ["good", "bad"])._padding["cut"] == "right"


def test_pickle__newer_format__asks_for_an_upgrade(fitted):
    state = fitted.__getstate__()
    state["model_"]["format"] = FORMAT + 1
    with pytest.raises(SavedModelError, match=r"by a newer version .* Upgrade it"):
        object.__new__(type(fitted)).__setstate__(state)


def test_pickle__parameter_younger_than_the_file__has_its_default(fitted):
    state = fitted.__getstate__()
    del state["store_dtype"]
    loaded = object.__new__(type(fitted))
    loaded.__setstate__(state)
    assert loaded.store_dtype == "float32"
    assert loaded.get_params() == fitted.get_params()


class Prefixed(TransformerTextClassifier):
    """A subclass that cannot be made without being told something."""

    def __init__(self, prefix, model="", *, tuning="head", max_epochs=1, verbose=0):
        super().__init__(model, tuning=tuning, max_epochs=max_epochs, verbose=verbose)
        self.prefix = prefix


def test_pickle__subclass_with_a_required_argument__comes_back(checkpoints, binary):
    X, y = binary
    clf = Prefixed("x", checkpoints["bert"]).fit(X, y)
    for twin in (pickle.loads(pickle.dumps(clf)), copy.deepcopy(clf)):
        assert twin.prefix == "x"
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
    assert copy.deepcopy(Prefixed("y")).prefix == "y"
    state = clf.__getstate__()
    del state["store_dtype"], state["max_epochs"]
    older = object.__new__(Prefixed)
    older.__setstate__(state)
    assert (older.store_dtype, older.max_epochs, older.tuning) == ("float32", 1, "head")


def test_pickle__tokenizer_that_changed__is_warned_of(fitted):
    state = fitted.__getstate__()
    state["_golden_ids"] = {text: [0, *ids] for text, ids in state["_golden_ids"].items()}
    with pytest.warns(UserWarning, match=r"other tokens than .* predictions may differ"):
        object.__new__(type(fitted)).__setstate__(state)


def test_pickle__tokenizer_that_did_not_change__no_warning(fitted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(fitted))


def test_cloudpickle__round_trip__same_answers(fitted):
    loaded = pickle.loads(cloudpickle.dumps(fitted))
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 1), ("lzma", 1)], ids=str)
def test_joblib__compressed__same_answers(fitted, tmp_path, compress):
    joblib.dump(fitted, tmp_path / "clf.joblib", compress=compress)
    loaded = joblib.load(tmp_path / "clf.joblib")
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))


@pytest.mark.parametrize("mode", ["r", "r+", "w+", "c"])
def test_joblib__mapped_into_memory__shares_the_file_and_never_writes_it(
    fitted, tmp_path, three_classes, mode
):
    path = tmp_path / "clf.joblib"
    joblib.dump(fitted, path)
    content = path.read_bytes()
    loaded = joblib.load(path, mmap_mode=mode)
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    maps = Path("/proc/self/maps")
    if maps.exists():
        ranges = [line.split()[0] for line in maps.read_text().splitlines() if str(path) in line]
        borders = [[int(end, 16) for end in border.split("-")] for border in ranges]
        addresses = [weight.data_ptr() for weight in loaded.model_.backbone.parameters()]
        assert all(any(low <= a < high for low, high in borders) for a in addresses)
    loaded.partial_fit(*three_classes)
    with torch.no_grad():
        loaded.model_.head.weight.zero_()
    assert path.read_bytes() == content


def test_pickle__device_of_torch__becomes_a_str(make, binary):
    clf = make(max_epochs=1, early_stopping=False, device=torch.device("cpu")).fit(*binary)
    assert b"torch" not in pickle.dumps(clf).replace(b"pytorch", b"")
    assert pickle.loads(pickle.dumps(clf)).device == "cpu"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_store_dtype__half__halves_the_pickle(fitted, dtype):
    clf = copy.copy(fitted)
    clf.store_dtype = dtype
    weights = sum(4 * p.numel() for p in fitted.model_.parameters())
    saved = len(pickle.dumps(fitted)) - len(pickle.dumps(clf))
    assert saved == pytest.approx(weights / 2, rel=0.01)
    loaded = pickle.loads(pickle.dumps(clf))
    assert {weight.dtype for weight in loaded.model_.parameters()} == {torch.float32}
    np.testing.assert_allclose(
        loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS), rtol=0, atol=5e-2
    )


def test_store_dtype__weight_beyond_float16__is_refused_by_name(fitted):
    clf = copy.deepcopy(fitted)
    clf.store_dtype = "float16"
    with torch.no_grad():
        clf.model_.head.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"cannot hold head\.bias, whose largest entry is 1e\+06"):
        pickle.dumps(clf)


def test_skops__round_trip__with_the_documented_types(fitted):
    content = skops.io.dumps(fitted)
    assert set(skops.io.get_untrusted_types(data=content)) <= set(TRUSTED)
    loaded = skops.io.loads(content, trusted=TRUSTED)
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS))
    assert loaded.get_params() == fitted.get_params()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.gpu
def test_pickle__from_the_gpu_to_the_cpu_and_back__same_answers(make, binary, monkeypatch):
    clf = make(max_epochs=1, device="cuda").fit(*binary)
    expected, content = clf.predict_proba(TEXTS), pickle.dumps(clf)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sklearn_transformers._persistence.present_device", lambda device: "cpu")
    on_cpu = pickle.loads(content)
    assert on_cpu.device_ == "cpu"
    np.testing.assert_allclose(on_cpu.predict_proba(TEXTS), expected, rtol=0, atol=1e-4)
    monkeypatch.undo()
    back = pickle.loads(content)
    assert back.device_ == "cuda"
    np.testing.assert_allclose(back.predict_proba(TEXTS), expected, rtol=0, atol=1e-5)
