"""Folders: everything comes back, nothing is trusted, and nothing of it is code."""

import copy
import json
import pickle
import re
import shutil
import subprocess
import sys

import huggingface_hub
import numpy as np
import pytest
import skops.io
import torch
from conftest import toy_texts
from safetensors.torch import load, save
from sklearn.metrics import log_loss
from test_folder import forge, forge_file
from torch import nn

from sklearn_transformers import SavedModelError, TransformerTextClassifier
from sklearn_transformers._folder import MANIFEST
from sklearn_transformers._persistence import files_of
from sklearn_transformers._saved import PLAIN
from sklearn_transformers._untrusted import harmless

TEXTS = ["the film was great", "bad " * 30, "", "quite 漢字"]


@pytest.fixture
def saved(fitted, tmp_path):
    fitted.save(tmp_path / "saved")
    return tmp_path / "saved"


def record_of(folder):
    return json.loads((folder / MANIFEST).read_text())


def assert_equal(loaded, clf):
    np.testing.assert_array_equal(loaded.predict_proba(TEXTS), clf.predict_proba(TEXTS))
    np.testing.assert_array_equal(loaded.transform(TEXTS), clf.transform(TEXTS))
    assert loaded.classes_.tolist() == clf.classes_.tolist()
    assert loaded.classes_.dtype == clf.classes_.dtype


def test_load__round_trip__keeps_everything(fitted, saved):
    loaded = TransformerTextClassifier.load(saved)
    assert_equal(loaded, fitted)
    assert loaded.get_params() == fitted.get_params()
    for name in PLAIN:
        assert getattr(loaded, name) == getattr(fitted, name), name
    assert loaded.tokenizer_.model_max_length == fitted.tokenizer_.model_max_length


def test_plain__every_fitted_attribute__is_saved(fitted):
    apart = {"classes_", "model_", "tokenizer_"}
    attributes = {n for n in vars(fitted) if n.endswith("_") or n.startswith("_")}
    assert attributes == set(PLAIN) | apart


READ_BACK = """
import os, sys
os.environ["HF_HUB_OFFLINE"] = "1"
import numpy as np
from sklearn_transformers import TransformerTextClassifier
clf = TransformerTextClassifier.load(sys.argv[1])
np.save(sys.argv[2], clf.predict_proba({texts!r}))
"""


def test_load__fresh_process__same_probabilities(fitted, saved, tmp_path):
    code = READ_BACK.format(texts=TEXTS)
    answers = str(tmp_path / "answers.npy")
    subprocess.run([sys.executable, "-c", code, str(saved), answers], check=True)
    np.testing.assert_array_equal(np.load(answers), fitted.predict_proba(TEXTS))


@pytest.mark.parametrize(
    "parameters",
    [
        {"tuning": "prompt", "n_prompt_tokens": 3},
        {"tuning": "lora"},
        {"head": "mlp"},
        {"head": "attention"},
        {"pooling": "max"},
        {"architecture": "gpt2"},
        {"architecture": "distilbert"},
        {"architecture": "roberta"},
    ],
    ids=str,
)
def test_load__every_kind_of_model__answers_bit_for_bit(make, binary, tmp_path, parameters):
    clf = make(max_epochs=1, early_stopping=False, **parameters).fit(*binary)
    clf.save(tmp_path / "saved")
    assert_equal(TransformerTextClassifier.load(tmp_path / "saved"), clf)


@pytest.mark.parametrize(
    "classes",
    [
        (0, 1),
        (-3, 7),
        (False, True),
        (0.0, 1.0),
        ("no", "yes"),
        ("0", "1"),
        (np.int8(1), np.int8(5)),
    ],
    ids=str,
)
def test_load__labels__keep_their_type(make, tmp_path, classes):
    texts, labels = toy_texts(40, classes=classes)
    clf = make(max_epochs=1, early_stopping=False).fit(texts, np.array(labels))
    clf.save(tmp_path / "saved")
    assert_equal(TransformerTextClassifier.load(tmp_path / "saved"), clf)


def test_load__labels_of_dtype_object__come_back(make, tmp_path):
    texts, labels = toy_texts(40)
    clf = make(max_epochs=1, early_stopping=False).fit(texts, np.array(labels, dtype=object))
    clf.save(tmp_path / "saved")
    assert_equal(TransformerTextClassifier.load(tmp_path / "saved"), clf)


def test_load__parameters_that_json_lacks__come_back(make, binary, tmp_path, checkpoints):
    clf = make(
        max_epochs=1,
        early_stopping=False,
        class_weight={"no": 1.5, "yes": 1},
        optimizer_params={"betas": (0.8, 0.9)},
        device=torch.device("cpu"),
        weight_decay=np.float32(0.5),
    ).fit(*binary)
    clf.save(tmp_path / "saved")
    loaded = TransformerTextClassifier.load(tmp_path / "saved")
    assert loaded.class_weight == {"no": 1.5, "yes": 1}
    assert loaded.optimizer_params == {"betas": [0.8, 0.9]}
    assert loaded.device == "cpu"
    assert loaded.weight_decay == 0.5


def test_save__objects_of_the_users__are_left_out_with_a_warning(make, binary, tmp_path):
    loss = nn.CrossEntropyLoss(reduction="none")
    clf = make(max_epochs=1, early_stopping=False, loss=loss).fit(*binary)
    with pytest.warns(UserWarning, match=r"cannot hold loss=CrossEntropyLoss\(\).*defaults"):
        clf.save(tmp_path / "saved")
    loaded = TransformerTextClassifier.load(tmp_path / "saved")
    assert loaded.loss == "cross_entropy"
    assert_equal(loaded, clf)


def test_save__head_of_the_users__is_refused(make, binary, tmp_path):
    clf = make(max_epochs=1, early_stopping=False, head=nn.Linear).fit(*binary)
    with pytest.raises(ValueError, match=r"is code of your own.*Use joblib\.dump"):
        clf.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_save__unfitted__is_refused(make, tmp_path):
    with pytest.raises(ValueError, match="not fitted yet"):
        make().save(tmp_path / "saved")


def test_load__goes_on_training__as_the_original(make, three_classes, tmp_path):
    clf = make(max_epochs=2, early_stopping=False).fit(*three_classes)
    clf.save(tmp_path / "saved")
    loaded = TransformerTextClassifier.load(tmp_path / "saved")
    expected = clf.partial_fit(*three_classes).predict_proba(TEXTS)
    np.testing.assert_array_equal(loaded.partial_fit(*three_classes).predict_proba(TEXTS), expected)


def test_save__estimator__is_not_changed(fitted, tmp_path):
    def state():
        attributes = fitted.__getstate__()
        packed = attributes.pop("model_")
        return (
            packed.pop("weights").tobytes(),
            packed,
            attributes.pop("classes_").tolist(),
            attributes,
        )

    before = state()
    fitted.save(tmp_path / "saved")
    assert state() == before


def test_save__files__hold_no_pickle(saved):
    kinds = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".md"}
    for path in saved.rglob("*.json"):
        json.loads(path.read_text())
    for path in saved.rglob("*.safetensors"):
        assert load(path.read_bytes())


def test_save__size__is_that_of_the_weights(make, binary, tmp_path):
    clf = make(max_epochs=1, early_stopping=False, pooling="max").fit(*binary)
    clf.save(tmp_path / "saved")
    weights = sum(4 * p.numel() for p in clf.model_.parameters())
    others = 30_000
    found = sum(path.stat().st_size for path in (tmp_path / "saved").iterdir())
    assert found < 1.02 * weights + others


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_store_dtype__half__takes_half_the_room(fitted, tmp_path, dtype):
    clf = pickle.loads(pickle.dumps(fitted))
    clf.store_dtype = dtype
    clf.save(tmp_path / "half")
    half = sum(p.stat().st_size for p in (tmp_path / "half").glob("*.safetensors"))
    weights = sum(4 * p.numel() for p in fitted.model_.parameters())
    assert half < 0.75 * weights
    loaded = TransformerTextClassifier.load(tmp_path / "half")
    assert next(loaded.model_.parameters()).dtype == torch.float32
    near = {"float16": 1e-2, "bfloat16": 5e-2}[dtype]
    np.testing.assert_allclose(
        loaded.predict_proba(TEXTS), fitted.predict_proba(TEXTS), rtol=0, atol=near
    )


# What somebody could do to a folder who knows how its digests are made.


@pytest.mark.parametrize("name", ["int8", "float64", "fp16"])
def test_store_dtype__set_after_fit_to_none_that_exists__writes_nothing(fitted, saved, name):
    before = record_of(saved)
    clf = copy.copy(fitted).set_params(store_dtype=name)
    for write in (lambda: pickle.dumps(clf), lambda: clf.save(saved)):
        with pytest.raises(ValueError, match=f"'store_dtype' parameter .* Got '{name}' instead"):
            write()
    assert record_of(saved) == before
    assert_equal(TransformerTextClassifier.load(saved), fitted)


HARMLESS = {"tokenizer_model_max_length": 10**30, "seed": 2**32, "classifier_layer_size": 768}
HARMLESS |= {"num_parameters": 6738415616, "vocab_size_per_layer_input": 262144}


def test_persistence__numbers_that_nothing_is_built_by__do_no_harm(
    make, binary, tmp_path, checkpoints
):
    shutil.copytree(checkpoints["bert"], tmp_path / "model")
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | HARMLESS))
    clf = make(model=tmp_path / "model", max_epochs=1).fit(*binary)
    clf.save(tmp_path / "saved")
    assert_equal(TransformerTextClassifier.load(tmp_path / "saved"), clf)
    assert_equal(pickle.loads(pickle.dumps(clf)), clf)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("num_hidden_layers", 10**6),
        ("num_layers_per_stack", 10**6),
        ("encoder_hash_byte_group_nb_functions", 10**6),
        ("inner_group_num", 10**6),
        ("num_experts", 10**6),
        ("num_hash_functions", 10**6),
        ("num_feedforward_networks", 10**6),
        ("block_sizes", [4, 10**6]),
        ("attention_types", [[["global"], 10**6]]),
        ("attention_window", [10**12]),
        ("hidden_size_per_layer_input", 10**12),
        ("max_position_embeddings", 10**12),
    ],
)
def test_harmless__numbers_that_would_keep_it_busy__are_refused(name, number):
    files = {"config.json": json.dumps({"text_config": {name: number}}).encode()}
    with pytest.raises(ValueError, match=f"{name}=1000"):
        harmless(files, 20)


def test_persistence__what_would_not_be_read__is_not_written(fitted, tmp_path):
    clf = copy.deepcopy(fitted)
    clf.model_.backbone.config.num_secret_layers = 10**6
    for write in (lambda: pickle.dumps(clf), lambda: clf.save(tmp_path / "saved")):
        with pytest.raises(ValueError, match="num_secret_layers=1000000"):
            write()
    assert not (tmp_path / "saved").exists()


def test_save__parameter_out_of_range_since_fit__writes_nothing(fitted, tmp_path):
    with pytest.raises(ValueError, match="'max_epochs' parameter"):
        copy.copy(fitted).set_params(max_epochs=0).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_save__parameters_that_are_numbers_of_numpy__come_back(make, binary, tmp_path):
    numbers = {
        "max_length": np.int64(16),
        "max_epochs": np.int64(1),
        "batch_size": np.int32(8),
        "dropout": np.float32(0.5),
        "learning_rate": np.float32(0.25e-3),
        "validation_fraction": np.float64(0.25),
        "early_stopping": np.bool_(True),
        "random_state": np.int64(3),
        "pooling": np.str_("mean"),
    }
    clf = make(**numbers).fit(*binary)
    clf.save(tmp_path / "saved")
    loaded = TransformerTextClassifier.load(tmp_path / "saved")
    assert_equal(loaded, clf)
    assert {name: getattr(loaded, name) for name in numbers} == numbers
    clf.export_onnx(tmp_path / "onnx")


def test_load__weights_that_are_a_pickle__are_refused_and_not_run(saved, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "went off"), "w"))

    forge_file(saved, "model.safetensors", pickle.dumps(Bomb()))
    with pytest.raises(SavedModelError, match="is damaged"):
        TransformerTextClassifier.load(saved)
    assert not (tmp_path / "went off").exists()


def test_load__code_in_the_configuration__is_not_run(saved, tmp_path):
    (saved / "evil.py").write_text(f"open({str(tmp_path / 'went off')!r}, 'w')")
    record = record_of(saved)
    own = record["own_files"]
    own["config.json"]["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    own["tokenizer_config.json"]["auto_map"] = {"AutoTokenizer": ["evil.A", "evil.B"]}
    own["config.json"]["attn_implementation"] = "somebody/kernel"
    forge(saved, own_files=own)
    try:
        TransformerTextClassifier.load(saved)
    except SavedModelError as error:
        assert "trust_remote_code" in str(error)  # noqa: PT017  (either is fine)
    assert not (tmp_path / "went off").exists()


def forge_tensors(folder, change):
    for name in ("model.safetensors", "own.safetensors"):
        tensors = load((folder / name).read_bytes())
        change(tensors)
        forge_file(folder, name, save(tensors))


def cut_layer(tensors):
    for name in [n for n in tensors if "layer.1.output.dense.weight" in n]:
        tensors[name] = tensors[name][:, :3].clone()


def drop_layer(tensors):
    for name in [n for n in tensors if "layer.1.output.dense.weight" in n]:
        del tensors[name]


def cut_head(tensors):
    if "head.weight" in tensors:
        tensors["head.weight"] = tensors["head.weight"][:1].clone()


def not_finite(tensors):
    if "head.weight" in tensors:
        tensors["head.weight"][:] = torch.nan


@pytest.mark.parametrize("change", [cut_layer, drop_layer, cut_head, not_finite])
def test_load__weights_that_do_not_fit__are_refused(saved, change):
    forge_tensors(saved, change)
    with pytest.raises(SavedModelError, match="is damaged"):
        TransformerTextClassifier.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**12},
        {"hidden_size": 10**8},
        {"num_hidden_layers": 10**8},
        {"num_hidden_layers": 3},
        {"vocab_size": 10**9},
        {"intermediate_size": -1},
        {"max_position_embeddings": 10**9},
        {"num_attention_heads": 0},
        {"model_type": "no such thing"},
        {"model_type": "gpt2"},
        {"hidden_size": "large"},
    ],
    ids=str,
)
def test_load__configuration_that_does_not_fit__is_refused(saved, changes):
    own = record_of(saved)["own_files"]
    own["config.json"] |= changes
    forge(saved, own_files=own)
    with pytest.raises(SavedModelError, match="is damaged"):
        TransformerTextClassifier.load(saved)


class Small(TransformerTextClassifier):
    """With fewer parameters than its base class."""

    def __init__(self, model=None, random_state=None):
        super().__init__(model, max_epochs=1, device="cpu", verbose=0, random_state=random_state)


def test_load__subclass_without_the_parameter__keeps_its_side(checkpoints, binary, tmp_path):
    clf = Small(checkpoints["bert"], random_state=0).fit(*binary)
    clf.save(tmp_path / "saved")
    loaded = Small.load(tmp_path / "saved")
    assert loaded.truncation_side == clf.truncation_side == "middle"
    assert loaded.partial_fit(*binary)._padding == clf._padding


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("fitted", {"temperature_": 0}),
        ("fitted", {"temperature_": float("nan")}),
        ("fitted", {"temperature_": "1"}),
        ("fitted", {"_padding": {"pad_id": 10**6, "longest": 20, "masked": True}}),
        ("fitted", {"_padding": {"pad_id": -1, "longest": 20, "masked": True}}),
        ("fitted", {"_padding": {}}),
        ("fitted", {"_padding": {"pad_id": 1, "longest": 0, "masked": True}}),
        ("fitted", {"_padding": {"pad_id": 1, "longest": 20, "masked": True, "cut": "centre"}}),
        ("form", {"n_classes": 10**9}),
        ("form", {"width": 10**9}),
        ("form", {"head": "os.system"}),
        ("form", {"head": None}),
        ("form", {"pooling": "none of these"}),
        ("parameters", {"max_epochs": -1}),
        ("parameters", {"no_such_parameter": 1}),
        ("classes", {"labels": ["a"]}),
        ("classes", {"labels": ["a", "a", "b"]}),
        ("classes", {"labels": [["a"], ["b"], ["c"]]}),
        ("classes", {"labels": 3}),
        ("classes", {"dtype": "<i8"}),
        ("classes", {"dtype": "<M8[s]"}),
        ("weights", {"head.weight": "no such place"}),
    ],
    ids=str,
)
def test_load__record_that_makes_no_sense__is_refused(saved, part, changes):
    forge(saved, **{part: record_of(saved)[part] | changes})
    with pytest.raises(SavedModelError, match="is damaged"):
        TransformerTextClassifier.load(saved)


@pytest.mark.parametrize(
    "part", ["fitted", "form", "parameters", "classes", "weights", "own_files"]
)
@pytest.mark.parametrize("content", [None, [], 1, {}], ids=str)
def test_load__record_without_a_part__is_refused(saved, part, content):
    if (part, content) == ("parameters", {}):
        return  # these all have defaults
    forge(saved, **{part: content})
    with pytest.raises(SavedModelError, match="is damaged"):
        TransformerTextClassifier.load(saved)


def test_load__device__is_where_it_answers(saved):
    forge(saved, fitted=record_of(saved)["fitted"] | {"device_": "cuda:99"})
    assert TransformerTextClassifier.load(saved, device="cpu").device_ == "cpu"
    with pytest.raises(ValueError, match="'device' parameter"):
        TransformerTextClassifier.load(saved, device="nowhere")


def test_load__checkpoint_dir_of_a_stranger__is_not_taken_over(saved, tmp_path):
    forge(saved, parameters=record_of(saved)["parameters"] | {"checkpoint_dir": str(tmp_path)})
    assert TransformerTextClassifier.load(saved).checkpoint_dir is None


@pytest.mark.parametrize(
    "golden", [{str(number): [] for number in range(200)}, {"x" * 2000: [1]}], ids=len
)
def test_load__probes_that_would_keep_it_busy__are_refused(saved, golden):
    forge(saved, fitted=record_of(saved)["fitted"] | {"_golden_ids": golden})
    with pytest.raises(SavedModelError, match="probes, or too long ones"):
        TransformerTextClassifier.load(saved)


def test_load__labels_without_end_in_the_configuration__are_not_read(saved):
    own = record_of(saved)["own_files"]
    own["config.json"]["num_labels"] = 2**31 - 1
    own["tokenizer_config.json"]["vocab_file"] = "/etc/passwd"
    forge(saved, own_files=own)
    assert len(TransformerTextClassifier.load(saved).model_.backbone.config.id2label) == 2


def test_load__tokenizer_that_panics__is_refused(saved):
    core = json.loads((saved / "tokenizer.json").read_text())
    core["post_processor"]["special_tokens"] = {}
    forge_file(saved, "tokenizer.json", json.dumps(core).encode())
    with pytest.raises(SavedModelError, match="is damaged"):
        TransformerTextClassifier.load(saved)


def test_save__set_output__is_said_to_be_left_out(fitted, tmp_path):
    clf = copy.copy(fitted).set_output(transform="pandas")
    with pytest.warns(UserWarning, match="cannot hold what set_output chose"):
        clf.save(tmp_path / "saved")


def test_deepcopy__store_dtype__makes_no_difference(fitted):
    clf = copy.copy(fitted)
    clf.store_dtype = "float16"
    np.testing.assert_array_equal(
        copy.deepcopy(clf).predict_proba(TEXTS), fitted.predict_proba(TEXTS)
    )


def test_skops__file_that_leads_elsewhere__is_refused(fitted, tmp_path, monkeypatch):
    def with_another(config, tokenizer):
        return files_of(config, tokenizer) | {str(tmp_path / "evil.sh"): b"rm -rf /"}

    monkeypatch.setattr("sklearn_transformers._persistence.files_of", with_another)
    content = skops.io.dumps(fitted)
    with pytest.raises(SavedModelError, match="which is refused"):
        skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))
    assert not (tmp_path / "evil.sh").exists()


def test_load__device_that_is_not_here__another_is_taken(saved):
    forge(saved, fitted=record_of(saved)["fitted"] | {"device_": "cuda:99"})
    assert TransformerTextClassifier.load(saved).device_ in {"cpu", "cuda", "mps"}


def test_load__foreign_attributes__do_not_arrive(saved):
    forge(saved, fitted=record_of(saved)["fitted"] | {"predict": "mine", "__class__": "mine"})
    assert callable(TransformerTextClassifier.load(saved).predict)


def test_load__longest_label_claimed_absurd__takes_no_memory(saved):
    forge(saved, classes=record_of(saved)["classes"] | {"dtype": "<U99999999"})
    assert TransformerTextClassifier.load(saved).classes_.nbytes < 1000


def test_push_to_hub__repository__gets_the_folder(fitted, tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append(("create", name, options))

        def upload_folder(self, **options):
            calls.append(("upload", options["repo_id"], options["folder_path"]))

    monkeypatch.setattr("sklearn_transformers._saved.HfApi", Api)
    assert huggingface_hub.HfApi is not Api
    fitted.save(tmp_path / "saved", push_to_hub="somebody/model")
    assert calls == [
        ("create", "somebody/model", {"private": True, "exist_ok": True}),
        ("upload", "somebody/model", tmp_path / "saved"),
    ]


def test_model_card__figures__are_those_of_the_fit(fitted, saved):
    card = (saved / "README.md").read_text()
    rows = dict(re.findall(r"^\| (.+) \| (.+) \|$", card, flags=re.MULTILINE))
    held_out = round(0.1 * 240)
    assert rows["texts trained on"] == str(240 - held_out)
    assert rows["held-out texts"] == str(held_out)
    best = fitted.history_[fitted.best_epoch_]
    assert rows["log loss"] == f"{best['valid_loss']:.3f}"
    assert rows["temperature"] == f"{fitted.temperature_:.3f}"
    assert 0 <= float(rows["expected calibration error"]) <= 1
    assert float(rows["accuracy"]) > 0.5
    assert rows["torch"] == torch.__version__
    assert "`bad`, `good`, `plain`" in card


def rows_of_card(folder):
    card = (folder / "README.md").read_text()
    return card, dict(re.findall(r"^\| (.+) \| (.+) \|$", card, flags=re.MULTILINE))


def test_model_card__training_went_on__tells_of_earlier_calls(make, binary, tmp_path):
    clf = make(max_epochs=1, early_stopping=True, validation_fraction=0.1).fit(*binary)
    n_train = round(0.9 * len(binary[0]))
    for part in (slice(0, 4), slice(4, 10)):
        clf.partial_fit(binary[0][part], binary[1][part])
    clf.save(tmp_path / "saved")
    card, rows = rows_of_card(tmp_path / "saved")
    assert rows["texts trained on"] == "6"
    assert rows["in earlier calls, some perhaps the same"] == str(n_train + 4)
    assert "The last call held out no rows to judge the model by." in card


@pytest.mark.parametrize("calibrate", [True, False])
def test_model_card__rows_that_chose_nothing__are_not_blamed(make, binary, tmp_path, calibrate):
    clf = make(max_epochs=1, early_stopping=False, calibrate=calibrate, bag_of_words=False)
    clf.fit(*binary, X_val=binary[0][:9], y_val=binary[1][:9]).save(tmp_path / "saved")
    card, rows = rows_of_card(tmp_path / "saved")
    assert rows["held-out texts"] == "9"
    assert ("The same texts chose the temperature" in card) == calibrate
    assert ("may do a little worse" in card) == calibrate
    clf.set_params(calibrate=not calibrate).save(tmp_path / "changed")  # which is for the next fit
    assert rows_of_card(tmp_path / "changed")[0] == card


def test_model_card__class_weights__leave_the_accuracy_what_it_is(make, three_classes, tmp_path):
    X, y = three_classes
    X_val, y_val, weights = X[:30], y[:30], np.arange(30.0) + 1
    clf = make(max_epochs=1, class_weight={"good": 50}, early_stopping=False)
    clf.fit(X[30:], y[30:], X_val=X_val, y_val=y_val, sample_weight_val=weights)
    clf.save(tmp_path / "saved")
    _, rows = rows_of_card(tmp_path / "saved")
    assert rows["accuracy"] == f"{clf.score(X_val, y_val, weights):.3f}"
    assert clf.score(X_val, y_val, weights) < 0.9
    loss = log_loss(y_val, clf.predict_proba(X_val), sample_weight=weights)
    assert rows["log loss"] == f"{loss:.3f}"
    assert loss != pytest.approx(-clf.best_score_, abs=0.01)  # which is by the class weights too


def test_model_card__weights_without_end__leave_its_figures_finite(make, binary, tmp_path):
    X, y = binary
    clf = make(max_epochs=1).fit(X, y, sample_weight=np.full(len(X), 1e308))
    clf.save(tmp_path / "saved")
    plain = make(max_epochs=1).fit(X, y)
    for name in ("accuracy", "log_loss", "calibration_error"):
        assert clf._report[name] == pytest.approx(plain._report[name], abs=1e-6)


def test_model_card__folder_with_a_name_like_the_hubs__is_none_of_its(
    make, binary, tmp_path, checkpoints, monkeypatch
):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "bert").symlink_to(checkpoints["bert"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for model in ("mine/bert", "~/mine/bert"):
        make(max_epochs=1, model=model).fit(*binary).save(tmp_path / "saved")
        loaded = TransformerTextClassifier.load(tmp_path / "saved")
        monkeypatch.chdir("/")  # from where that folder is not seen
        loaded.save(tmp_path / "again")
        monkeypatch.chdir(tmp_path)
        for folder in ("saved", "again"):
            card, _ = rows_of_card(tmp_path / folder)
            assert "base_model" not in card
            assert "Fine-tuned from `bert`" in card


@pytest.mark.pretrained
def test_model_card__model_of_the_hub__is_named(binary, tmp_path):
    clf = TransformerTextClassifier(max_epochs=1, tuning="head", random_state=0, verbose=0)
    clf.fit(*binary).partial_fit(*binary)
    clf.save(tmp_path / "saved")
    card, _ = rows_of_card(tmp_path / "saved")
    assert "base_model: sentence-transformers/all-MiniLM-L6-v2" in card
    assert "Fine-tuned from `sentence-transformers/all-MiniLM-L6-v2`" in card


def test_model_card__nothing_held_out__says_so(make, binary, tmp_path):
    make(max_epochs=1, early_stopping=False).fit(*binary).save(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "No rows were held out to judge the model by." in card
    assert "accuracy" not in card
