"""What goes wrong while it runs: killed workers, broken files, a silent Hub, full disks, NaN."""

import errno
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from joblib.externals.loky.process_executor import TerminatedWorkerError
from safetensors.torch import load_file, save_file
from sklearn.model_selection import GridSearchCV

from sklearn_transformers import PretrainedModelError

TEXTS = ["the film was great", "a sad book", ""]


@pytest.fixture
def folder(checkpoints, tmp_path):
    """A copy of the tiny BERT checkpoint that a test may break."""
    shutil.copytree(checkpoints["bert"], tmp_path / "model")
    return tmp_path / "model"


# --- workers ---------------------------------------------------------------------------------


def dies_in_a_worker(estimator, X, y):
    """A scorer that has its process killed, as the system does where memory runs out."""
    assert multiprocessing.current_process().name != "MainProcess"
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_search__worker_killed__says_so_and_the_next_search_works(make, binary):
    def search(scoring):
        grid = {"learning_rate": [1e-3, 5e-3]}
        clf = make(max_epochs=1, early_stopping=False)
        return GridSearchCV(clf, grid, cv=2, n_jobs=2, scoring=scoring).fit(*binary)

    with pytest.raises(TerminatedWorkerError, match=r"SIGKILL\(-9\)"):
        search(dies_in_a_worker)
    assert search("accuracy").best_estimator_.predict(TEXTS).shape == (3,)


# --- files -----------------------------------------------------------------------------------


def _lose_a_shard(folder):
    """Weights in two files, of which the second never arrived."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    first = {name: weights[name] for name in names[::2]}
    save_file(first, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    file_of = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    index = {"metadata": {"total_size": 0}, "weight_map": file_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def _halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


UNFINISHED = {
    "a shard is missing": _lose_a_shard,
    "half of the weights": lambda folder: _halve(folder / "model.safetensors"),
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "half of the configuration": lambda folder: _halve(folder / "config.json"),
    "empty configuration": lambda folder: (folder / "config.json").write_bytes(b""),
    "half of the tokenizer": lambda folder: _halve(folder / "tokenizer.json"),
    "empty tokenizer": lambda folder: (folder / "tokenizer.json").write_bytes(b""),
    "half of the tokenizer's settings": lambda folder: _halve(folder / "tokenizer_config.json"),
}


@pytest.mark.parametrize("kind", UNFINISHED)
def test_fit__download_unfinished__names_the_model_and_works_once_it_is_complete(
    make, three_classes, checkpoints, folder, kind
):
    UNFINISHED[kind](folder)
    clf = make(model=folder, max_epochs=1, early_stopping=False)
    with pytest.raises(PretrainedModelError) as caught:
        clf.fit(*three_classes)
    assert f"model={str(folder)!r} could not be loaded" in str(caught.value)
    assert "Two ways out" in str(caught.value)
    assert not hasattr(clf, "model_")
    shutil.copytree(checkpoints["bert"], folder, dirs_exist_ok=True)
    assert clf.fit(*three_classes).predict(TEXTS).shape == (3,)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_fit__file_that_may_not_be_read__is_said_with_the_model(
    make, three_classes, folder, monkeypatch, name
):
    # Root may read everything, so permissions cannot be taken away: opening is refused instead.
    plain_open = open

    def refusing_open(file, *arguments, **keywords):
        if not isinstance(file, int) and Path(file) == folder / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return plain_open(file, *arguments, **keywords)

    monkeypatch.setattr("builtins.open", refusing_open)
    with pytest.raises(PretrainedModelError) as caught:
        make(model=folder).fit(*three_classes)
    assert f"model={str(folder)!r} could not be loaded" in str(caught.value)
    assert "Permission denied" in str(caught.value)


# --- the Hub ---------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"

FIT = """
import sys
from sklearn_transformers import PretrainedModelError, TransformerTextClassifier
for model in sys.argv[1:]:
    clf = TransformerTextClassifier(model, max_epochs=1, verbose=0)
    try:
        print(clf.fit(["good", "bad"] * 8, [1, 0] * 8).predict(["good"]).shape)
    except PretrainedModelError as error:
        print(error)
"""


class StallsInDownloads(BaseHTTPRequestHandler):
    """Tells of a model, and sends nothing of its files but their heads."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            body = json.dumps({"id": "nobody/tiny", "sha": COMMIT, "siblings": []}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.rfile.read(1)  # which never comes

    def do_HEAD(self):
        self.send_response(200)
        for name, value in (("X-Repo-Commit", COMMIT), ("ETag", '"a"'), ("Content-Length", "500")):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def silent():
    """A Hub that takes every call and never says a word; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]  # the system takes calls that nobody answers


@contextmanager
def stalling():
    """A Hub whose downloads never begin; its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), StallsInDownloads)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def fit_from_hub(port, home, *models):
    """What a process says of each model of a Hub that it waits for one second at most."""
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", FIT, *models],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def check_told_of_silence(message, port):
    assert message.startswith("model='nobody/tiny' could not be loaded. Tried: ")
    assert f"The Hub (http://127.0.0.1:{port}) did not answer within 1 s" in message
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_OFFLINE=1"):
        assert name in message
    assert "Two ways out" in message


@pytest.mark.slow
def test_hub__keeps_silent__the_local_cache_will_do_or_the_time_out_is_explained(
    checkpoints, tmp_path
):
    repository = tmp_path / "hub" / "models--nobody--cached"
    shutil.copytree(checkpoints["bert"], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    with silent() as port:
        cached, message = fit_from_hub(port, tmp_path, "nobody/cached", "nobody/tiny")
    assert cached == "(1,)"
    check_told_of_silence(message, port)


@pytest.mark.slow
def test_hub__stalls_in_a_download__the_time_out_is_explained(tmp_path):
    with stalling() as port:
        (message,) = fit_from_hub(port, tmp_path, "nobody/tiny")
    check_told_of_silence(message, port)


# --- disks -----------------------------------------------------------------------------------


class FailingFile(io.RawIOBase):
    """A file on a disk that takes so many bytes, and then no more."""

    def __init__(self, room, code):
        super().__init__()
        self.room, self.code = room, code

    def writable(self):
        return True

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(self.code, os.strerror(self.code))
        return len(data)


@pytest.mark.parametrize("room", [0, 1000, 50_000])
@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC])
def test_dump__disk_read_only_or_full__leaves_the_estimator_usable(fitted, code, room):
    expected = fitted.predict_proba(TEXTS)
    before = dict(vars(fitted))
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        joblib.dump(fitted, FailingFile(room, code))
    assert caught.value.errno == code
    assert vars(fitted) == before
    again = pickle.loads(pickle.dumps(fitted))
    for clf in (fitted, again):
        np.testing.assert_array_equal(clf.predict_proba(TEXTS), expected)


def test_dump__no_room_for_temporary_files__leaves_the_estimator_usable(
    fitted, monkeypatch, tmp_path
):
    expected, before = fitted.predict_proba(TEXTS), dict(vars(fitted))
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(FileNotFoundError, match="gone"):
            pickle.dumps(fitted)
    assert vars(fitted) == before
    np.testing.assert_array_equal(fitted.predict_proba(TEXTS), expected)


# --- answers that are no numbers -------------------------------------------------------------

ANSWERS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "transform")


@pytest.fixture
def damaged(fitted):
    """A classifier that knows no number for texts with the word "sad"."""
    clf = pickle.loads(pickle.dumps(fitted))
    (token,) = clf.tokenizer_("sad", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        clf.model_.backbone.get_input_embeddings().weight[token] = float("nan")
    return clf


@pytest.mark.parametrize("method", ANSWERS)
def test_answers__not_a_number__are_refused_by_row(damaged, method):
    with pytest.raises(FloatingPointError, match=r"answer to X\[1\] is infinite or not a number"):
        getattr(damaged, method)(TEXTS)


@pytest.mark.parametrize("method", ANSWERS)
def test_answers__not_a_number_for_another_text__are_given(damaged, fitted, method):
    X = [TEXTS[0], TEXTS[2]]
    np.testing.assert_array_equal(getattr(damaged, method)(X), getattr(fitted, method)(X))


def test_answers__not_a_number_in_float32__say_to_fit_again(damaged):
    with pytest.raises(FloatingPointError, match=r"weights are damaged.*lower learning_rate"):
        damaged.predict_proba(TEXTS)


def test_answers__beyond_the_range_of_float16__say_which_precision_to_take(fitted):
    clf = pickle.loads(pickle.dumps(fitted))
    with torch.no_grad():
        clf.model_.backbone.encoder.layer[0].intermediate.dense.weight.mul_(1e6)
    clf.set_params(predict_precision="float16")
    with pytest.raises(FloatingPointError, match=r"float16 may be too coarse.*'float32'"):
        clf.predict_proba(TEXTS)
    clf.set_params(predict_precision="float32")
    assert np.isfinite(clf.predict_proba(TEXTS)).all()
