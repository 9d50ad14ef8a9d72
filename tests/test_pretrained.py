import json
import logging
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ViTConfig,
    ViTModel,
)
from transformers.utils import logging as hf_logging

from sklearn_transformers import PretrainedModelError, _checkpoint
from sklearn_transformers._checkpoint import BUNDLED_NAME
from sklearn_transformers._pretrained import load_pretrained


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
    expected = full.bert.state_dict()
    # No pooling here uses the pooler: it is not even built.
    assert set(expected) - set(body) == {"pooler.dense.weight", "pooler.dense.bias"}
    for name, weight in body.items():
        assert torch.equal(weight, expected[name]), name


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


@pytest.mark.filterwarnings("error")
def test_pooling__modules_that_are_known__are_not_remarked_on(folder):
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    load_pretrained(folder)


def test_pooling__layers_behind_it__are_said_to_be_left_out(folder):
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Pooling", "Dense")]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.warns(UserWarning, match=r"further layers behind the pooling \(Dense\), which"):
        load_pretrained(folder)


def _write(file, text):
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


BREAKAGES = {
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "truncated weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:5000]
    ),
    "bad config": lambda folder: (folder / "config.json").write_text("{"),
    "unknown type": lambda folder: (folder / "config.json").write_text('{"model_type": "nope"}'),
    "bad pooling": lambda folder: _write(folder / "1_Pooling" / "config.json", "{"),
    "not a text model": lambda folder: ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(folder),
    "foreign tokenizer": lambda folder: BertModel(
        BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(folder),
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


def test_load_pretrained__no_tokenizer_files_at_all__is_refused(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(PretrainedModelError, match="tokenizer"):
        load_pretrained(folder)


@pytest.mark.parametrize(("kind", "expected"), [("bert", 1), ("roberta", 1), ("gpt2", 0)])
def test_load_pretrained__pad_id__is_one_the_model_knows(checkpoints, kind, expected):
    assert load_pretrained(checkpoints[kind]).pad_id == expected


def test_load_pretrained__pad_token_beyond_the_embeddings__is_not_used(folder):
    tokenizer = load_pretrained(folder).tokenizer
    tokenizer.add_special_tokens({"pad_token": "<new pad>"})
    tokenizer.save_pretrained(folder)
    pretrained = load_pretrained(folder)
    assert pretrained.pad_id < pretrained.backbone.config.vocab_size


@pytest.mark.parametrize("special", [False, True])
def test_load_pretrained__added_token_without_embedding__is_warned_of(folder, special):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zork"], special_tokens=special)
    tokenizer.save_pretrained(folder)
    with pytest.warns(UserWarning, match="1 added tokens .* no embeddings for, such as 'zork'"):
        load_pretrained(folder)


def test_load_pretrained__unknown_pooling__is_warned_of(folder):
    _write(folder / "1_Pooling/config.json", '{"pooling_mode": "weightedmean"}')
    with pytest.warns(UserWarning, match="weightedmean.*using the mean"):
        assert load_pretrained(folder).pooling == "mean"


def test_load_pretrained__dropout_of_numpy__is_taken(folder):
    config = load_pretrained(folder, dropout=np.float32(0.5)).backbone.config
    assert config.hidden_dropout_prob == 0.5


def test_load_pretrained__no_such_folder__says_so(tmp_path):
    with pytest.raises(PretrainedModelError, match="which does not exist"):
        load_pretrained(tmp_path / "nothing" / "here")


OUT_OF_REACH = """
import os
os.environ["HF_HUB_OFFLINE"] = "1"
from sklearn_transformers import PretrainedModelError, TransformerTextClassifier
try:
    TransformerTextClassifier("nobody/no-such-model").fit(list("abcdefgh"), [0, 1] * 4)
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
def bundled(tmp_path, monkeypatch):
    """A package in place of the bundled encoder's, with a file that is not the real one."""
    model = tmp_path / "fake_bundle" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "model.safetensors").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_checkpoint, "BUNDLED_PACKAGE", "fake_bundle")
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
    assert Path(_checkpoint.find_checkpoint(BUNDLED_NAME)).is_dir()
    assert pretrained.backbone.config.hidden_size == 384
    assert len(pretrained.backbone.encoder.layer) == 6


# --- code that is not ours to run ------------------------------------------------------------

OWN_CODE = """
from pathlib import Path
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
Path({marker!r}).touch()
class OwnConfig(PreTrainedConfig):
    model_type = "own"
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def _amend(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _own_config(folder, **changes):
    _amend(folder / "config.json", auto_map={"AutoConfig": "own_code.OwnConfig"}, **changes)


def _own_tokenizer(folder):
    auto_map = {"AutoTokenizer": [None, "own_code.OwnTokenizer"]}
    _amend(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="OwnTokenizer")


@pytest.fixture
def marker(folder, tmp_path, monkeypatch):
    """A file that appears once the folder's own code has run; whoever asks on stdin fails."""

    def ask(*prompt):
        raise AssertionError(f"asked on standard input: {prompt}")

    monkeypatch.setattr("builtins.input", ask)
    marker = tmp_path / "code has run"
    (folder / "own_code.py").write_text(OWN_CODE.format(marker=str(marker)))
    return marker


def test_own_code__needed__is_neither_run_nor_asked_about(folder, marker):
    _own_config(folder, model_type="own")
    with pytest.raises(PretrainedModelError, match=r"code of its own.*this package never runs"):
        load_pretrained(folder)
    assert not marker.exists()


@pytest.mark.parametrize("amend", [_own_config, _own_tokenizer])
def test_own_code__not_needed__is_left_alone(make, three_classes, folder, marker, amend):
    amend(folder)
    clf = make(model=folder, max_epochs=1, early_stopping=False).fit(*three_classes)
    answers = clf.predict_proba(three_classes[0])
    loaded = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(loaded.predict_proba(three_classes[0]), answers)
    assert not marker.exists()


def test_load_pretrained__part_of_a_model_of_pictures__says_what_to_take(folder):
    _amend(folder / "config.json", model_type="blip_text_model")
    with pytest.raises(PretrainedModelError) as caught:
        load_pretrained(folder)
    assert "has no plain model for model_type='blip_text_model'" in str(caught.value)
    assert "take an encoder such as BERT" in str(caught.value)
