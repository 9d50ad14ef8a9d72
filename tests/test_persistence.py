import copy
import pickle
import pickletools
import shutil
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES
from safetensors.torch import load, save
from sklearn.base import clone

from sklearn_transformers import SavedModelError

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


def test_pickle__stream__names_no_class_of_torch_or_transformers(fitted):
    words = {
        str(argument).split(".")[0].split(" ")[0]
        for opcode, argument, _ in pickletools.genops(pickle.dumps(fitted, protocol=2))
        if opcode.name == "GLOBAL"
    }
    assert words <= {"sklearn_transformers", "numpy", "copy_reg", "_codecs", "__builtin__"}


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
    clf = copy.copy(fitted)
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
