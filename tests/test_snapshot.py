"""Fits that are killed and go on, with the bits of fits that were not."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_texts
from filelock import FileLock
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import Callback

from sklearn_transformers import TrainingDivergedError, _snapshot
from sklearn_transformers._callbacks import ValidationScore
from sklearn_transformers._net import FineTuningNet
from sklearn_transformers._snapshot import Snapshots

X, Y = toy_texts(80)
N_STEPS, N_EPOCHS = 5, 3  # of 72 or 80 rows, in steps of 16
NAMES = {"fit.json", "fit.lock", "training.pt"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "unfinished"


@pytest.fixture
def small(make):
    """Make a classifier for three epochs of five steps."""

    def small(**parameters):
        defaults = {"batch_size": 16, "max_epochs": N_EPOCHS, "bag_of_words": True}
        return make(**(defaults | parameters))

    return small


@pytest.fixture(autouse=True)
def _snapshot_at_each_step(monkeypatch):
    monkeypatch.setattr(_snapshot, "SECONDS_BETWEEN_SNAPSHOTS", 0.0)


def stop_at(monkeypatch, owner, name, count=0, stop=None):
    """Call `stop` when a function is called for the `count`-th time: before it does anything.

    Returns the list that grows with each call.
    """
    original, calls = getattr(owner, name), []

    def counting(*args, **kwargs):
        calls.append(name)
        if len(calls) == count:
            stop()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counting)
    return calls


needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork"
)


def interrupt():
    raise KeyboardInterrupt


def die():
    os.kill(os.getpid(), signal.SIGKILL)


# Where a fit is killed: within a step, before a snapshot is written, or while it is.
STEP, BEFORE, WITHIN = (
    (FineTuningNet, "_make_step"),
    (Snapshots, "save"),
    (_snapshot, "get_unsafe_globals_in_checkpoint"),
)


def kill(clf, where, count, *data, **given):
    """Fit in a process of its own, which is killed on the way."""

    def fit():
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, *where, count, die)
            clf.fit(*(data or (X, Y)), **given)

    process = multiprocessing.get_context("fork").Process(target=fit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python is wary of torch's threads
        process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def cut_short(clf, where=STEP, count=8, *data, **given):
    """Interrupt a fit of this process, by default in its second epoch."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, *where, count, interrupt)
        with pytest.raises(KeyboardInterrupt):
            clf.fit(*(data or (X, Y)), **given)


def assert_same(clf, expected):
    state, expected_state = clf.model_.state_dict(), expected.model_.state_dict()
    assert state.keys() == expected_state.keys()
    for name, weight in state.items():
        assert torch.equal(weight, expected_state[name]), name
    measured = ("epoch", "train_loss", "valid_loss", "valid_score", "temperature", "learning_rate")
    for row, expected_row in zip(clf.history_, expected.history_, strict=True):
        assert [row.get(key) for key in measured] == [expected_row.get(key) for key in measured]
    for name in ("best_epoch_", "best_score_", "n_iter_", "temperature_", "seed_", "n_trainable_"):
        assert getattr(clf, name) == getattr(expected, name), name
    np.testing.assert_array_equal(clf.classes_, expected.classes_)
    np.testing.assert_array_equal(clf.predict_proba(X), expected.predict_proba(X))


WAYS = {
    "full": {},
    "without stopping": {"early_stopping": False},
    "stopping after a stall": {"n_iter_no_change": 1, "learning_rate": 1.0},
    "few rows": {"early_stopping": "auto", "head_init": "auto", "random_state": 1},
    "contrastive": {"tuning": "contrastive", "head_init": "auto", "head_learning_rate": "auto"},
    "lora": {"tuning": "lora", "lora_dropout": 0.1},
    "bias": {"tuning": "bias"},
    "prompt": {"tuning": "prompt"},
    "head": {"tuning": "head", "head_init": "auto"},
    "plateau": {"schedule": "plateau", "learning_rate": 1.0},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "sgd": {"optimizer": "sgd"},
    "adafactor": {"optimizer": "adafactor"},
}


@needs_fork
@pytest.mark.parametrize("way", WAYS)
def test_fit__killed_in_the_midst__ends_with_the_bits_of_one_that_was_not(small, folder, way):
    expected = small(**WAYS[way]).fit(X, Y)
    clf = small(checkpoint_dir=folder, **WAYS[way])
    kill(clf, BEFORE, 9)
    assert set(os.listdir(folder)) == NAMES
    assert_same(clf.fit(X, Y), expected)
    assert not folder.exists()


MOMENTS = {
    "before the first snapshot": (STEP, 1),
    "before the second step": (STEP, 2),
    "writing the first snapshot": (WITHIN, 1),
    "writing the second": (WITHIN, 2),
    "in the second epoch": (STEP, 8),
    "writing that of an epoch": (WITHIN, N_STEPS + 1),
    "after the last step": (BEFORE, N_EPOCHS * (N_STEPS + 1)),
}


@needs_fork
@pytest.mark.parametrize("moment", MOMENTS)
def test_fit__killed_at_any_moment__goes_on_there(small, folder, monkeypatch, moment):
    expected = small().fit(X, Y)
    clf = small(checkpoint_dir=str(folder))
    kill(clf, *MOMENTS[moment])
    left = [name for name in os.listdir(folder) if name.endswith(".unfinished")]
    assert len(left) == ("writing" in moment)
    made = stop_at(monkeypatch, *STEP)
    assert_same(clf.fit(X, Y), expected)
    where, count = MOMENTS[moment]
    n_kept = {STEP: count - 1, WITHIN: count - 1, BEFORE: N_EPOCHS * N_STEPS}[where]
    n_kept -= (where == WITHIN) * (n_kept // (N_STEPS + 1))  # those at the ends of epochs
    assert len(made) == N_EPOCHS * N_STEPS - n_kept


@needs_fork
def test_fit__killed_after_its_best_epoch__knows_what_it_saw(small, folder, monkeypatch):
    scores = {1: 1.0, 2: 0.5, 3: 2.0, 4: 1.5, 5: 1.2}
    monkeypatch.setattr(
        ValidationScore,
        "on_epoch_end",
        lambda self, net, **_: net.record(
            "valid_score", scores[len(net.history)], lower_is_better=False
        ),
    )
    how = {"schedule": "plateau", "max_epochs": 8, "n_iter_no_change": 2, "warmup": 0.0}
    expected = small(**how).fit(X, Y)
    assert (expected.best_epoch_, expected.n_iter_) == (3, 5)
    rates = [row["learning_rate"] for row in expected.history_[1:]]
    assert rates == [5e-3, 5e-3, 2.5e-3, 2.5e-3, 1.25e-3]
    clf = small(checkpoint_dir=folder, **how)
    kill(clf, STEP, 4 * N_STEPS + 3)
    assert_same(clf.fit(X, Y), expected)


@needs_fork
def test_fit__killed_after_a_step_that_was_lost__makes_up_for_it(small, folder, monkeypatch):
    get_loss = FineTuningNet.get_loss

    def overflowing(net, *args, **kwargs):
        overflows = net.step_ == N_STEPS + 1 and net.precision == "bfloat16"
        return get_loss(net, *args, **kwargs) * (torch.nan if overflows else 1)

    monkeypatch.setattr(FineTuningNet, "get_loss", overflowing)
    made = stop_at(monkeypatch, *STEP)
    expected = small(precision="bfloat16").fit(X, Y)
    assert len(made) == N_EPOCHS * N_STEPS + 1
    clf = small(precision="bfloat16", checkpoint_dir=folder)
    kill(clf, STEP, N_STEPS + 4)
    assert_same(clf.fit(X, Y), expected)


@needs_fork
def test_fit__killed_again_and_again__ends_all_the_same(small, folder):
    expected = small().fit(X, Y)
    clf = small(checkpoint_dir=folder)
    for _ in range(3):
        kill(clf, STEP, 4)
    assert_same(clf.fit(X, Y), expected)


@needs_fork
def test_fit__killed_with_all_that_it_takes__goes_on(small, folder):
    X_val, y_val = toy_texts(20, seed=3)
    given = {"X_val": X_val, "y_val": y_val, "sample_weight_val": np.linspace(1, 2, 20)}
    given["sample_weight"] = np.linspace(0, 1, 80)
    how = {"class_weight": "balanced", "scoring": "accuracy", "head": "mlp"}
    expected = small(**how).fit(X, Y, **given)
    clf = small(checkpoint_dir=folder, **how)
    kill(clf, STEP, 8, X, Y, **given)
    assert_same(clf.fit(X, Y, **given), expected)


@needs_fork
@pytest.mark.parametrize("count", [1, 8])
def test_fit__killed_without_a_seed__goes_on_with_the_one_it_drew(small, folder, count):
    clf = small(random_state=None, checkpoint_dir=folder)
    kill(clf, STEP, count)
    drawn = json.loads((folder / "fit.json").read_text())["seed"]
    assert clf.fit(X, Y).seed_ == drawn
    assert_same(clf, small(random_state=drawn).fit(X, Y))
    assert small(random_state=None, checkpoint_dir=folder).fit(X, Y).seed_ != drawn


def test_warm_start__killed__goes_on_from_the_same_model_only(small, folder):
    clf = small(warm_start=True).fit(X, Y)
    before = clf.predict_proba(X)
    expected = clone(clf).fit(X, Y).fit(X, Y)
    clf.set_params(checkpoint_dir=folder)
    cut_short(clf)
    np.testing.assert_array_equal(clf.predict_proba(X), before)
    other = clone(clf).set_params(checkpoint_dir=None, learning_rate=1e-3).fit(X, Y)
    other.set_params(checkpoint_dir=folder, learning_rate=5e-3)
    with pytest.raises(ValueError, match=r"the model to start from was .* and is now"):
        other.fit(X, Y)
    assert_same(clf.fit(X, Y), expected)


def test_fit__not_interrupted__has_the_bits_of_one_without_a_folder(small, folder):
    assert_same(small(checkpoint_dir=folder).fit(X, Y), small().fit(X, Y))


# --- Ctrl-C ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_ctrl_c__within_an_epoch__leaves_the_estimator_as_it_was(small, folder, kept):
    clf = small(checkpoint_dir=folder if kept else None)
    before = dict(vars(clf))
    cut_short(clf)
    assert vars(clf) == before
    assert folder.exists() is kept
    assert_same(clf.fit(X, Y), small().fit(X, Y))


def test_folder__with_a_tilde__lies_in_the_home_of_the_user(small, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    clf = small(checkpoint_dir="~/unfinished")
    cut_short(clf)
    assert {path.name for path in (tmp_path / "unfinished").iterdir()} <= NAMES
    assert_same(clf.fit(X, Y), small().fit(X, Y))
    assert not (tmp_path / "unfinished").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_ctrl_c__before_the_first_snapshot__leaves_nothing(small, folder):
    cut_short(small(checkpoint_dir=folder), count=1)
    assert not folder.exists()


# --- refusals --------------------------------------------------------------------------------


CHANGED = {
    "rate": (
        {"learning_rate": 1e-3, "head_learning_rate": 0.05},
        r"learning_rate was 0\.005 and is now 0\.001[;.]",
    ),
    "optimizer": ({"optimizer": torch.optim.Adam}, "optimizer was 'adamw' and is now <class 't"),
    "seed": ({"random_state": 1}, "random_state was 0 and is now 1"),
    "precision": ({"precision": "bfloat16"}, "precision was 'float32' and is now 'bfloat16'"),
}


@pytest.mark.parametrize("changed", CHANGED)
def test_parameter__changed__is_named_with_both_values(small, folder, changed):
    parameters, words = CHANGED[changed]
    cut_short(small(checkpoint_dir=folder))
    clf = small(checkpoint_dir=folder, **parameters)
    with pytest.raises(ValueError, match=words) as caught:
        clf.fit(X, Y)
    said = str(caught.value)
    assert said.startswith(f"checkpoint_dir={str(folder)!r} has an unfinished fit that differs: ")
    assert said.endswith("Delete the folder to start over, or pass another.")
    assert said.count(" was ") == 1
    assert not hasattr(clf, "model_")
    # The other one can still be finished.
    assert_same(small(checkpoint_dir=folder).fit(X, Y), small().fit(X, Y))


def test_parameters__the_same_in_other_words__are_no_obstacle(small, folder, checkpoints):
    cut_short(small(checkpoint_dir=str(folder), verbose=0))
    clf = small(model=Path(checkpoints["bert"]), learning_rate=np.float64(5e-3), verbose=1)
    clf.set_params(checkpoint_dir=folder, callbacks=[])
    assert_same(clf.fit(X, Y), small().fit(X, Y))
    assert pickle.loads(pickle.dumps(clf)).checkpoint_dir == str(folder)


VALID = {"X_val": X[:9], "y_val": Y[:9]}
OTHER_DATA = {
    "X": ([*X[:-1], "good"], Y, {}),
    "y": (X, [*Y[:-1], "no"], {}),
    "sample_weight": (X, Y, {"sample_weight": np.linspace(1, 2, 80)}),
    "X_val": (X, Y, {"X_val": X[1:10]}),
    "y_val": (X, Y, {"y_val": Y[1:10]}),
    "sample_weight_val": (X, Y, {"sample_weight_val": np.linspace(1, 2, 9)}),
}


@pytest.mark.parametrize("name", OTHER_DATA)
def test_data__changed__is_named(small, folder, name):
    texts, labels, given = OTHER_DATA[name]
    clf = small(checkpoint_dir=folder)
    cut_short(clf, STEP, 8, X, Y, **VALID)
    with pytest.raises(ValueError, match=rf"differs: {name} was \d+ rows \w+ and is now \d+ rows"):
        clf.fit(texts, labels, **(VALID | given))


def test_validation_rows__left_out__are_named(small, folder):
    clf = small(checkpoint_dir=folder)
    cut_short(clf, STEP, 8, X, Y, **VALID)
    with pytest.raises(ValueError, match=r"differs: X_val was 9 rows \w+ and is now None; y_val"):
        clf.fit(X, Y)


def test_version__changed__is_named(small, folder, monkeypatch):
    from sklearn_transformers import _fingerprint

    clf = small(checkpoint_dir=folder)
    cut_short(clf)
    installed = _fingerprint._version
    monkeypatch.setattr(
        _fingerprint, "_version", lambda name: "99" if name == "torch" else installed(name)
    )
    with pytest.raises(ValueError, match=r"the version of torch was 2\..* and is now 99\."):
        clf.fit(X, Y)


def test_pretrained_model__changed_in_place__is_named(small, folder, tmp_path, checkpoints):
    from shutil import copytree

    from safetensors.torch import load_file, save_file

    model = copytree(checkpoints["bert"], tmp_path / "model")
    clf = small(model=model, checkpoint_dir=folder)
    cut_short(clf)
    weights = load_file(model / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7] += 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="the model to start from was"):
        clf.fit(X, Y)


@needs_fork
def test_fit__that_left_no_snapshot__is_no_obstacle(small, folder):
    kill(small(checkpoint_dir=folder), STEP, 1)
    assert_same(
        small(checkpoint_dir=folder, learning_rate=1e-3).fit(X[:40], Y[:40]),
        small(learning_rate=1e-3).fit(X[:40], Y[:40]),
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("training.pt", b"nonsense"),
        ("fit.json", b"nonsense"),
        ("fit.json", b"{}"),
        ("fit.json", b"[]"),
    ],
)
def test_folder__file_that_cannot_be_read__is_named(small, folder, name, content):
    clf = small(checkpoint_dir=folder)
    cut_short(clf)
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"has a {name} that cannot be read. Delete the folder"):
        clf.fit(X, Y)


def test_folder__in_use__is_refused(small, folder):
    folder.mkdir()
    clf = small(checkpoint_dir=folder)
    with FileLock(folder / "fit.lock"), pytest.raises(RuntimeError, match="in use by another fit"):
        clf.fit(X, Y)
    clf.fit(X, Y)


def test_callbacks__of_the_user__are_refused_before_anything_is_loaded(small, folder):
    clf = small(model="no/such model", callbacks=[Callback()], checkpoint_dir=folder)
    with pytest.raises(ValueError, match=r"checkpoint_dir=.* but what callbacks=\[<skorch"):
        clf.fit(X, Y)
    assert not folder.exists()
    with pytest.raises(OSError, match="no/such model"):
        clf.set_params(callbacks=[]).fit(X, Y)


class Odd(torch.optim.SGD):
    """Keeps an object of its own."""

    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["odd"] = FileLock
        return super().step(closure)


def test_optimizer__whose_state_is_no_plain_value__is_refused_at_once(small, folder):
    clf = small(optimizer=Odd, checkpoint_dir=folder)
    with pytest.raises(ValueError, match=r"\(Odd\) holds filelock\..*only tensors and plain"):
        clf.fit(X, Y)
    assert not folder.exists()


# --- the folder ------------------------------------------------------------------------------


def test_folder__at_any_time__holds_two_snapshots_at_most(small, folder, monkeypatch):
    seen = []
    replace = os.replace

    def looking(source, target):
        seen.append(set(os.listdir(folder)))
        replace(source, target)
        seen.append(set(os.listdir(folder)))

    monkeypatch.setattr(os, "replace", looking)
    small(checkpoint_dir=folder).fit(X, Y)
    assert len(seen) == 2 * (2 + N_EPOCHS * (N_STEPS + 1))
    assert set.union(*seen) == NAMES | {"training.pt.unfinished", "fit.json.unfinished"}
    assert all(len([name for name in names if "training" in name]) <= 2 for names in seen)
    assert seen[-1] == NAMES


@needs_fork
def test_folder__of_the_user__stays_with_what_lies_there(small, folder):
    folder.mkdir()
    (folder / "notes").write_text("mine")
    clf = small(checkpoint_dir=folder)
    kill(clf, WITHIN, 3)
    clf.fit(X, Y)
    assert os.listdir(folder) == ["notes"]
    (folder / "notes").unlink()
    clf.fit(X, Y)
    assert folder.exists()


@needs_fork
def test_snapshots__without_haste__are_those_at_the_ends_of_epochs(small, folder, monkeypatch):
    monkeypatch.setattr(_snapshot, "SECONDS_BETWEEN_SNAPSHOTS", 60.0)
    clf = small(checkpoint_dir=folder)
    kill(clf, BEFORE, 2)
    made = stop_at(monkeypatch, *STEP)
    assert_same(clf.fit(X, Y), small().fit(X, Y))
    assert len(made) == (N_EPOCHS - 1) * N_STEPS + N_EPOCHS * N_STEPS


@pytest.mark.parametrize("count", [1, 4])
def test_disk__full__is_an_error_that_names_the_folder(small, folder, monkeypatch, count):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    clf = small(checkpoint_dir=folder)
    before = dict(vars(clf))
    stop_at(monkeypatch, os, "fsync", count, full)
    with pytest.raises(OSError, match=r"cannot be written to .No space left") as caught:
        clf.fit(X, Y)
    assert caught.value.errno == errno.ENOSPC
    assert f"checkpoint_dir={str(folder)!r}" in str(caught.value)
    assert vars(clf) == before
    assert folder.exists() is (count == 4)  # where there is something to go on from
    assert_same(clf.fit(X, Y), small().fit(X, Y))


def test_folder__that_cannot_be_made__is_an_error_that_names_it(small, tmp_path):
    (tmp_path / "file").write_text("")
    clf = small(checkpoint_dir=tmp_path / "file" / "below")
    with pytest.raises(NotADirectoryError, match=r"checkpoint_dir=.*below' cannot be written to"):
        clf.fit(X, Y)
    assert not hasattr(clf, "model_")


def test_fit__that_diverged__leaves_nothing(small, folder):
    clf = small(learning_rate=1e30, max_grad_norm=None, checkpoint_dir=folder)
    with pytest.raises(TrainingDivergedError):
        clf.fit(X, Y)
    assert not folder.exists()


def test_partial_fit__takes_no_snapshots(small, folder, monkeypatch):
    stop_at(monkeypatch, Snapshots, "save", 1, interrupt)
    small(checkpoint_dir=folder).partial_fit(X, Y, classes=["no", "yes"])
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_search__one_folder_for_all__gives_the_same_and_leaves_it_empty(small, folder, n_jobs):
    grid = {"learning_rate": [1e-3, 5e-3]}
    search = GridSearchCV(small(checkpoint_dir=folder), grid, cv=2, n_jobs=n_jobs).fit(X, Y)
    plain = GridSearchCV(small(), grid, cv=2).fit(X, Y)
    np.testing.assert_array_equal(
        search.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
    assert_same(search.best_estimator_, plain.best_estimator_)
    assert os.listdir(folder) == []


@pytest.mark.slow
def test_search__interrupted__goes_on_with_the_fit_that_was_not_finished(
    small, folder, monkeypatch
):
    search = GridSearchCV(small(checkpoint_dir=folder), {"tol": [0.0, 0.1]}, cv=2)
    plain = GridSearchCV(small(), {"tol": [0.0, 0.1]}, cv=2).fit(X, Y)
    n_steps = 3 * N_EPOCHS  # of a fit of 40 rows
    cut_short(search, STEP, n_steps + 5)
    (own,) = os.listdir(folder)
    assert set(os.listdir(folder / own)) == NAMES
    calls = []
    resume = Snapshots.resume

    def looking(self, net):
        resume(self, net)
        calls.append((self.folder.name, len(net.history)))

    monkeypatch.setattr(Snapshots, "resume", looking)
    search.fit(X, Y)
    assert [n for name, n in calls if name == own] == [1]
    assert sum(n for _, n in calls) == 1
    assert_same(search.best_estimator_, plain.best_estimator_)
