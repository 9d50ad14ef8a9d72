import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.utils as hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, T5Config, T5Model
from transformers.utils import logging as hf_logging

from sklearn_transformers import PretrainedModelError, _pretrained
from sklearn_transformers._pretrained import BUNDLED_NAME, load_pretrained, quiet


@pytest.fixture
def folder(checkpoints, tmp_path):
    """A copy of the tiny BERT checkpoint that a test may break."""
    shutil.copytree(checkpoints["bert"], tmp_path / "model")
    return tmp_path / "model"


def test_load_pretrained__folder__gives_float32_weights_and_tokenizer(folder):
    pretrained = load_pretrained(folder)
    assert {p.dtype for p in pretrained.backbone.parameters()} == {torch.float32}
    assert pretrained.tokenizer("good")["input_ids"] == [0, 5, 2]


def test_load_pretrained__half_precision_checkpoint__is_float32(folder):
    load_pretrained(folder).backbone.to(torch.bfloat16).save_pretrained(folder)
    assert load_file(folder / "model.safetensors").popitem()[1].dtype == torch.bfloat16
    assert {p.dtype for p in load_pretrained(folder).backbone.parameters()} == {torch.float32}


def test_load_pretrained__classification_checkpoint__gives_its_body(folder, tmp_path):
    full = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=5)
    full.save_pretrained(tmp_path / "full")
    shutil.copy(folder / "tokenizer.json", tmp_path / "full")
    shutil.copy(folder / "tokenizer_config.json", tmp_path / "full")
    body = load_pretrained(tmp_path / "full").backbone.state_dict()
    for name, weight in full.bert.state_dict().items():
        assert torch.equal(weight, body[name]), name


def test_load_pretrained__tokenizer_that_cuts_at_the_start__is_set_right(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation_side": "left"}))
    assert load_pretrained(folder).tokenizer.truncation_side == "right"


STATED = {
    "mean": {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
    "cls": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    "max": {"pooling_mode": "max"},
    "last": {"pooling_mode": "lasttoken", "embedding_dimension": 32},
}


@pytest.mark.parametrize("pooling", STATED)
def test_pooling__sentence_transformers_checkpoint__is_as_stated(folder, pooling):
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps(STATED[pooling]))
    assert load_pretrained(folder).pooling == pooling


BREAKAGES = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "truncated weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:5000]
    ),
    "bad config": lambda folder: (folder / "config.json").write_text("{"),
    "unknown type": lambda folder: (folder / "config.json").write_text('{"model_type": "nope"}'),
    "empty": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_load_pretrained__broken_folder__names_it_and_the_ways_out(folder, breakage):
    BREAKAGES[breakage](folder)
    with pytest.raises(PretrainedModelError) as caught:
        load_pretrained(folder)
    message = str(caught.value)
    assert f"the folder {folder}" in message
    assert "sklearn-transformers[offline]" in message
    assert "local folder" in message
    assert "\n" not in message


def test_load_pretrained__no_such_folder__says_so(tmp_path):
    with pytest.raises(PretrainedModelError, match="which does not exist"):
        load_pretrained(tmp_path / "nothing" / "here")


OUT_OF_REACH = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
from sklearn_transformers import PretrainedModelError, TransformerTextClassifier
try:
    TransformerTextClassifier("nobody/no-such-model").fit(["a", "b"] * 4, [0, 1] * 4)
except PretrainedModelError as error:
    print(error)
"""


def test_load_pretrained__hub_out_of_reach__one_clear_error():
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_REACH], capture_output=True, text=True, check=True
    )
    assert "model='nobody/no-such-model' could not be loaded" in done.stdout
    assert "the local Hugging Face cache and the Hub" in done.stdout
    assert "[offline]" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_load_pretrained__encoder_decoder__is_refused_by_name(tmp_path):
    config = T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(tmp_path)
    with pytest.raises(PretrainedModelError, match=r"encoder-decoder \(t5\)"):
        load_pretrained(tmp_path)


def test_load_pretrained__missing_layer__is_warned_of(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.1.output" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"4 weight tensors .* start at random: encoder.layer.1"):
        load_pretrained(folder)


def test_load_pretrained__loading__prints_nothing_and_restores_settings(folder, capfd):
    hf_logging.set_verbosity_info()
    try:
        capfd.readouterr()
        load_pretrained(folder)
        assert capfd.readouterr() == ("", "")
        assert hf_logging.get_verbosity() == logging.INFO
        assert hf_logging.is_progress_bar_enabled()
    finally:
        hf_logging.set_verbosity_warning()


@pytest.fixture
def bars():
    """Bars on again after the test."""
    yield
    hf_logging.enable_progress_bar()


@pytest.mark.usefixtures("bars")
@pytest.mark.parametrize("downloads", [False, True])
@pytest.mark.parametrize("hub_on", [False, True])
@pytest.mark.parametrize("loading_on", [False, True])
def test_quiet__settings_of_the_user__come_back(loading_on, hub_on, downloads):
    (hf_logging.enable_progress_bar if loading_on else hf_logging.disable_progress_bar)()
    (hub.enable_progress_bars if hub_on else hub.disable_progress_bars)()
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    with quiet(downloads=downloads):
        assert not hf_logging.is_progress_bar_enabled()
        assert hub.are_progress_bars_disabled() is not (downloads and hub_on)
        assert not logger.isEnabledFor(logging.WARNING)
    assert hf_logging.is_progress_bar_enabled() is loading_on
    assert hub.are_progress_bars_disabled() is not hub_on
    assert logger.level == level


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A package in place of the bundled encoder's, with a file that is not the real one."""
    model = tmp_path / "fake_bundle" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "model.safetensors").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_pretrained, "BUNDLED_PACKAGE", "fake_bundle")
    return model


@pytest.mark.usefixtures("bundled")
def test_bundled__wrong_checksum__is_refused():
    with pytest.raises(PretrainedModelError, match="is not sentence-transformers/all-MiniLM"):
        load_pretrained(BUNDLED_NAME)


def test_bundled__file_missing__is_refused(bundled):
    (bundled / "model.safetensors").unlink()
    with pytest.raises(PretrainedModelError, match="no file"):
        load_pretrained(BUNDLED_NAME)


@pytest.mark.pretrained
def test_bundled__real__is_found_with_mean_pooling():
    pretrained = load_pretrained(BUNDLED_NAME)
    assert pretrained.pooling == "mean"
    assert Path(_pretrained._find(BUNDLED_NAME)).is_dir()
    assert pretrained.backbone.config.hidden_size == 384
    assert len(pretrained.backbone.encoder.layer) == 6
