"""What was exported answers as the classifier did, without torch, and trusts no folder."""

import copy
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, toy_texts
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import get_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from test_families import CONFIGS, save
from test_folder import forge, forge_file
from torch import nn
from transformers import AutoModel, CanineTokenizer

from sklearn_transformers import (
    InvalidTextError,
    OnnxTextClassifier,
    SavedModelError,
    TransformerTextClassifier,
    _onnx_export,
    clear_cache,
)
from sklearn_transformers._onnx_tokens import id_lists
from sklearn_transformers._tokenization import encode

ODD = [
    "",
    "naïve Café",
    "👩‍👩‍👧 good 👍🏽",
    "\u200b\ufeff",
    "[MASK] <s> </s>",
    "we ate the film was great and bad " * 50,  # other tokens at the start than at the end
    "良い",
]
TEXTS = [*toy_texts(40, seed=1)[0], *ODD]


def fit_quickly(make, **parameters):
    return make(max_epochs=2, early_stopping=False, **parameters).fit(*toy_texts(60))


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    """Folder of the fitted classifier; not to be changed."""
    folder = tmp_path_factory.mktemp("onnx") / "exported"
    fitted.export_onnx(folder)
    return folder


@pytest.fixture(scope="module")
def served(exported):
    return OnnxTextClassifier.load(exported)


@pytest.fixture
def hostile(exported, tmp_path):
    """A copy of the folder to do harm with."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def record_of(folder):
    return json.loads((folder / "sklearn_transformers.json").read_text())


def assert_answers_alike(clf, folder):
    clf.export_onnx(folder)
    served = OnnxTextClassifier.load(folder)
    expected = clf.predict_proba(TEXTS)
    np.testing.assert_allclose(served.predict_proba(TEXTS), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(served.predict(TEXTS), clf.predict(TEXTS))
    tokens = id_lists(served._tokenizer.encode(TEXTS))
    padding = clf._padding
    assert tokens == id_lists(encode(clf.tokenizer_, TEXTS, padding["longest"], padding["cut"]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_export__each_architecture__answers_and_splits_as_torch(make, tmp_path, architecture):
    clf = fit_quickly(make, architecture=architecture, max_length=30)
    assert_answers_alike(clf, tmp_path / "out")


@pytest.mark.parametrize("side", ["right", "left"])
def test_export__each_side__cuts_as_torch(make, tmp_path, side):
    clf = fit_quickly(make, max_length=30, truncation_side=side)
    assert_answers_alike(clf, tmp_path / "out")


def test_load__folder_from_before_there_was_a_choice__cuts_at_the_end(make, tmp_path):
    clf = fit_quickly(make, max_length=30, truncation_side="right")
    clf.export_onnx(tmp_path / "out")
    padding = record_of(tmp_path / "out")["padding"]
    assert padding.pop("cut") == "right"
    forge(tmp_path / "out", padding=padding)
    tokens = OnnxTextClassifier.load(tmp_path / "out")._tokenizer.encode(TEXTS)
    assert id_lists(tokens) == id_lists(encode(clf.tokenizer_, TEXTS, 30, "right"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deberta-v2", "t5", "fnet", "llama"])
def test_export__peculiar_family__answers_and_splits_as_torch(make, tmp_path, kind):
    folder = save(tmp_path / "in", kind, lambda **ids: AutoModel.from_config(CONFIGS[kind](**ids)))
    assert_answers_alike(fit_quickly(make, model=folder), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"tuning": "prompt", "n_prompt_tokens": 3},
        {"head": "attention"},
        {"head": "mlp", "pooling": "max"},
        {"head": lambda width, n_classes: nn.Sequential(nn.Linear(width, n_classes), nn.Tanh())},
    ],
    ids=["prompt", "attention", "mlp", "own"],
)
def test_export__other_parts_of_the_model__answer_as_torch(make, tmp_path, parameters):
    assert_answers_alike(fit_quickly(make, **parameters), tmp_path / "out")


def test_export__temperature__is_kept(fitted, served, tmp_path):
    assert fitted.temperature_ != 1.0
    np.testing.assert_allclose(
        served.predict_proba(TEXTS), fitted.predict_proba(TEXTS), rtol=0, atol=1e-4
    )
    np.testing.assert_array_equal(served.classes_, fitted.classes_)


def test_export__int8__is_smaller_and_mostly_agrees(fitted, exported, tmp_path, three_classes):
    X, _ = three_classes
    fitted.export_onnx(tmp_path / "int8", int8=True)
    served = OnnxTextClassifier.load(tmp_path / "int8")
    sizes = [(folder / "model.onnx").stat().st_size for folder in (exported, tmp_path / "int8")]
    assert sizes[1] < 0.6 * sizes[0]
    assert np.mean(served.predict(X) == fitted.predict(X)) >= 0.98
    difference = np.abs(served.predict_proba(X) - fitted.predict_proba(X)).max()
    assert 1e-6 < difference < 0.1
    alone = np.vstack([served.predict_proba([text]) for text in X[:9]])
    np.testing.assert_allclose(served.predict_proba(X)[:9], alone, rtol=0, atol=1e-5)


def test_export__graph__names_no_file_of_this_machine(exported):
    assert b"site-packages" not in (exported / "model.onnx").read_bytes()
    assert record_of(exported)["versions"]["torch"] == torch.__version__


def test_export__classifier__is_left_as_it_was(fitted, exported, tmp_path):
    before = fitted.predict_proba(TEXTS)
    fitted.export_onnx(exported)  # in the place of the one before
    np.testing.assert_array_equal(fitted.predict_proba(TEXTS), before)
    assert fitted.fit is not None


def test_predict__ten_copies_of_a_text__computes_it_once(served):
    counted = copy.copy(served)
    counted._content = served._content
    counted.__setstate__(served.__getstate__())
    rows = []

    class Counting:
        def run(self, names, inputs):
            rows.append(len(inputs["input_ids"]))
            return served._session.run(names, inputs)

    counted._session = Counting()
    answers = counted.predict_proba(["good film"] * 10 + ["bad film"])
    assert sum(rows) == 2
    np.testing.assert_allclose(answers[3], served.predict_proba(["good film"])[0], atol=1e-6)


def test_predict__wrong_texts__are_refused_as_by_the_estimator(fitted, served):
    for wrong in ([], "one text", ["good", None], ["good", "\ud800"]):
        with pytest.raises(InvalidTextError) as expected:
            fitted.predict(wrong)
        with pytest.raises(InvalidTextError) as found:
            served.predict(wrong)
        assert str(found.value) == str(expected.value)


def test_predict__eight_threads__answer_as_one(served):
    parts = [TEXTS[i::8] for i in range(8)] * 3
    expected = [served.predict_proba(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(served.predict_proba, parts))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_pickle__folder_gone__answers_the_same(hostile, served):
    loaded = OnnxTextClassifier.load(hostile, n_threads=1)
    packed = pickle.dumps(loaded)
    for file in hostile.iterdir():
        file.unlink()
    again = pickle.loads(packed)
    assert again.n_threads == 1
    np.testing.assert_allclose(
        again.predict_proba(TEXTS), served.predict_proba(TEXTS), rtol=0, atol=1e-6
    )


def test_threads__set_after_loading__are_those_of_the_next_prediction(hostile, served):
    loaded = OnnxTextClassifier.load(hostile, n_threads=1)
    loaded.predict(TEXTS)
    session = loaded._session
    loaded.predict(TEXTS)
    assert loaded._session is session
    loaded.set_params(n_threads=2)
    np.testing.assert_allclose(
        loaded.predict_proba(TEXTS), served.predict_proba(TEXTS), rtol=0, atol=1e-6
    )
    assert loaded._session.get_session_options().intra_op_num_threads == 2


def test_threads__that_cannot_be__fail_each_time(hostile):
    loaded = OnnxTextClassifier.load(hostile, n_threads=1).set_params(n_threads="two")
    for _ in range(2):
        with pytest.raises(ValueError, match="two"):
            loaded.predict(TEXTS)
    assert len(loaded.set_params(n_threads=1).predict(TEXTS)) == len(TEXTS)


def test_scikit_learn__scorers_pipelines_clones__take_it(served, fitted, three_classes):
    X, y = three_classes
    assert get_scorer("neg_log_loss")(served, X, y) == pytest.approx(
        get_scorer("neg_log_loss")(fitted, X, y), abs=1e-4
    )
    assert served.score(X, y) == fitted.score(X, y)
    assert clone(served) is served
    assert repr(served).startswith("OnnxTextClassifier(path=")
    cleaning = FunctionTransformer(lambda texts: [text.strip() for text in texts])
    pipeline = make_pipeline(cleaning, FrozenEstimator(served)).fit(X, y)
    np.testing.assert_array_equal(pipeline.predict(X), fitted.predict(X))


def test_fit__exported_model__is_refused_in_words(served):
    with pytest.raises(NotImplementedError, match="cannot be trained: fit a Transformer"):
        served.fit(["a"], ["b"])


def test_predict__not_loaded__is_refused(exported):
    with pytest.raises(NotFittedError):
        OnnxTextClassifier(exported).predict(["good"])


WITHOUT_TORCH = """
import os, sys
from sklearn_transformers import OnnxTextClassifier
served = OnnxTextClassifier.load(sys.argv[1], n_threads=2)
before = served.predict(["good film", "bad film"]).tolist()
print(before, sorted({"torch", "transformers", "skorch", "onnx"} & set(sys.modules)), flush=True)
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        os._exit(0 if served.predict(["good film", "bad film"]).tolist() == before else 1)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_process__that_only_serves__loads_no_torch_and_may_fork(exported, fitted):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(exported)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = fitted.predict(["good film", "bad film"]).tolist()
    assert done.stdout.strip() == f"{expected} []"


# --- what cannot be exported ---------------------------------------------------------------------


def test_export__not_fitted__is_refused(make, tmp_path):
    with pytest.raises(NotFittedError):
        make().export_onnx(tmp_path / "out")


def test_export__tokenizer_in_python__is_refused_by_name(fitted, tmp_path):
    clf = copy.copy(fitted)
    clf.tokenizer_ = CanineTokenizer()
    with pytest.raises(ValueError, match="CanineTokenizer is a tokenizer in Python"):
        clf.export_onnx(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export__tokenizer_that_does_more_than_its_core__is_refused(fitted, tmp_path):
    class Shouting(type(fitted.tokenizer_)):
        def __call__(self, text, **settings):
            return super().__call__([f"{one} good" for one in text], **settings)

    clf = copy.copy(fitted)
    clf.tokenizer_ = copy.deepcopy(fitted.tokenizer_)
    clf.tokenizer_.__class__ = Shouting
    with pytest.raises(ValueError, match="Shouting does more than its core"):
        clf.export_onnx(tmp_path / "out")
    clear_cache()  # it passes for the tokenizer that it is not


def test_export__labels_that_json_lacks__are_refused_by_value(fitted, tmp_path):
    clf = copy.copy(fitted)
    clf.classes_ = np.array([b"no", b"so", b"yes"])
    with pytest.raises(ValueError, match=r"must be str, int, float or bool.*b'no' of type bytes"):
        clf.export_onnx(tmp_path / "out")


def test_export__more_than_a_file_can_hold__is_refused(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(_onnx_export, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"weights take 0.0 GiB, but one ONNX file can hold"):
        fitted.export_onnx(tmp_path / "out")


@pytest.mark.slow
def test_export__family_that_torch_cannot_export__says_so(make, tmp_path):
    make_config = CONFIGS["xlnet"]
    folder = save(tmp_path / "in", "xlnet", lambda **i: AutoModel.from_config(make_config(**i)))
    with pytest.raises(RuntimeError, match="torch cannot export XLNetModel with this head"):
        fit_quickly(make, model=folder).export_onnx(tmp_path / "out")


class Wavering(nn.Module):
    """Answers otherwise once it has been traced."""

    def __init__(self, width, n_classes):
        super().__init__()
        self.linear = nn.Linear(width, n_classes)

    def forward(self, vectors):
        logits = self.linear(vectors)
        return logits + 1 if torch.compiler.is_compiling() else logits


def test_export__head_that_decides_in_python__is_refused(make, tmp_path):
    clf = fit_quickly(make, head=Wavering)
    with pytest.raises(RuntimeError, match="answers otherwise than the model"):
        clf.export_onnx(tmp_path / "out")


def test_export__something_else_in_its_place__is_left_alone(fitted, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no saved model"):
        fitted.export_onnx(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_export__package_missing__names_the_extra(fitted, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"export_onnx needs {package}: pip install 'sklearn-transformers\[onnx\]'"
    with pytest.raises(ImportError, match=words):
        fitted.export_onnx(tmp_path / "out")


@pytest.mark.parametrize("package", ["tokenizers", "onnxruntime"])
def test_load__package_missing__names_the_extra(exported, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"OnnxTextClassifier needs {package}: pip install 'sklearn-transformers\[onnx\]'"
    with pytest.raises(ImportError, match=words):
        OnnxTextClassifier.load(exported)


# --- what cannot be loaded -----------------------------------------------------------------------


def test_load__no_folder__says_so(tmp_path):
    with pytest.raises(SavedModelError, match="is no saved model"):
        OnnxTextClassifier.load(tmp_path / "nothing")


@pytest.mark.parametrize("n_threads", [0, -1, 1.5, "2"])
def test_load__impossible_number_of_threads__is_refused(exported, n_threads):
    with pytest.raises(ValueError, match=r"n_threads must be an int in the range \[1, inf\)"):
        OnnxTextClassifier.load(exported, n_threads=n_threads)


def test_load__other_golden_ids__warns_that_predictions_may_differ(hostile, served):
    golden = record_of(hostile)["golden_ids"]
    next(iter(golden.values()))[1] += 1
    forge(hostile, golden_ids=golden)
    with pytest.warns(UserWarning, match="splits texts otherwise than .*predictions may differ"):
        other = OnnxTextClassifier.load(hostile)
    np.testing.assert_array_equal(other.predict(TEXTS), served.predict(TEXTS))


@pytest.mark.parametrize("cut", [0, 1, 1000, -10], ids=["empty", "a byte", "begun", "nearly all"])
def test_load__graph_cut_short__is_refused(hostile, cut):
    content = (hostile / "model.onnx").read_bytes()
    forge_file(hostile, "model.onnx", content[:cut])
    with pytest.raises(SavedModelError, match="is damaged"):
        OnnxTextClassifier.load(hostile)


def test_load__no_tokenizer__is_refused(hostile):
    forge_file(hostile, "tokenizer.json", b"{}")
    with pytest.raises(SavedModelError, match="is damaged"):
        OnnxTextClassifier.load(hostile)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": {"dtype": "<U3", "labels": ["a", "b"]}},  # the graph has three
        {"classes": {"dtype": "<U3", "labels": ["a", "b", 3]}},
        {"classes": {"dtype": "<U3", "labels": ["a", "b", "b"]}},
        {"classes": {"dtype": "V8", "labels": ["a", "b", "c"]}},
        {"temperature": 0.0},
        {"temperature": "warm"},
        {"padding": {"pad_id": 10**6, "longest": 256, "masked": True}},  # no such token
        {"padding": {"pad_id": 0, "longest": 256, "masked": True, "cut": "centre"}},
        {"padding": {}},
        {"tokenizer": {"max_length": -1, "splits_specials": False, "neutral_id": 0}},
        {"tokenizer": None},
        {"golden_ids": None, "versions": None},
    ],
    ids=lambda changes: json.dumps(changes)[:40],
)
def test_load__record_that_does_not_fit__is_refused(hostile, changes):
    forge(hostile, **changes)
    with pytest.raises(SavedModelError, match="is damaged"):
        OnnxTextClassifier.load(hostile)


def test_predict__answer_that_is_no_number__raises_as_torch_does(served):
    broken = copy.copy(served)
    broken._logits = lambda texts: np.full((len(texts), 3), np.nan, np.float32)
    for method in (broken.predict, broken.predict_proba, broken.predict_log_proba):
        with pytest.raises(FloatingPointError, match=r"X\[0\] is infinite or not a number"):
            method(["good"])


def test_predict_log_proba__finite_logarithms__of_the_probabilities(served):
    np.testing.assert_allclose(
        np.exp(served.predict_log_proba(TEXTS)), served.predict_proba(TEXTS), atol=1e-12
    )


def test_decision_function__several_classes_and_two__is_that_of_the_estimator(
    served, fitted, make, binary, tmp_path
):
    scores = served.decision_function(TEXTS)
    np.testing.assert_allclose(scores, fitted.decision_function(TEXTS), atol=1e-4)
    clf = make(max_epochs=1).fit(*binary)
    clf.export_onnx(tmp_path / "two")
    two = OnnxTextClassifier.load(tmp_path / "two", n_threads=np.int64(1))
    scores = two.decision_function(TEXTS)
    assert scores.shape == (len(TEXTS),)
    np.testing.assert_allclose(scores, clf.decision_function(TEXTS), atol=1e-4)


def test_predict__constructed_by_hand__says_how_to_load(exported):
    with pytest.raises(NotFittedError, match=r"OnnxTextClassifier\.load\(path\)"):
        OnnxTextClassifier(exported).predict(["good"])


def test_load__graph_of_another_kind__is_refused(hostile):
    import onnx

    graph = onnx.load(hostile / "model.onnx")
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT32
    forge_file(hostile, "model.onnx", graph.SerializeToString())
    with pytest.raises(SavedModelError, match="is damaged"):
        OnnxTextClassifier.load(hostile)


@pytest.mark.parametrize("place", ["elsewhere", "where the process runs"])
def test_load__weights_in_a_file_outside__are_refused(hostile, tmp_path, monkeypatch, place):
    import onnx
    from onnx.external_data_helper import set_external_data

    graph = onnx.load(hostile / "model.onnx")
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (tmp_path / "secret").write_bytes(weight.raw_data)
    if place == "where the process runs":
        monkeypatch.chdir(tmp_path)
    set_external_data(weight, location=os.path.relpath(tmp_path / "secret"))
    weight.ClearField("raw_data")
    forge_file(hostile, "model.onnx", graph.SerializeToString())
    with pytest.raises(SavedModelError, match="is damaged"):
        OnnxTextClassifier.load(hostile)


# --- with real weights ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.pretrained
def test_bundled_encoder__fine_tuned_a_little__keeps_its_labels(tmp_path):
    """Sentences of docstrings, by the package that they are from."""
    import inspect

    X, y = [], []
    for label, module in (("numpy", np), ("torch", torch.nn.functional)):
        for name in sorted(dir(module)):
            summary = (inspect.getdoc(getattr(module, name)) or "").split("\n\n")[-1]
            if not name.startswith("_") and 30 < len(summary) < 300:
                X.append(summary)
                y.append(label)
    X, places = np.unique(X, return_index=True)
    y = np.array(y)[places]
    assert len(X) > 200
    clf = TransformerTextClassifier(
        max_length=48, tuning="full", max_epochs=1, early_stopping=False, random_state=0, verbose=0
    ).fit(X[::4], y[::4])
    expected = clf.predict(X)
    assert len(set(expected)) == 2
    for int8, least in ((False, 0.999), (True, 0.99)):
        clf.export_onnx(tmp_path / "out", int8=int8)
        served = OnnxTextClassifier.load(tmp_path / "out")
        assert np.mean(served.predict(X) == expected) >= least
