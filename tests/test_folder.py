"""Folders are written whole or not at all, and nothing in them is trusted."""

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys

import pytest

from sklearn_transformers import SavedModelError
from sklearn_transformers._folder import FORMAT, MANIFEST, read_folder, write_folder

FILES = {"weights.safetensors": b"\0" * 1000, "vocabulary/words.txt": b"good bad"}
RECORD = {"labels": ["no", "yes"], "rate": 0.1}


@pytest.fixture
def saved(tmp_path):
    write_folder(tmp_path / "saved", "toy", RECORD, FILES)
    return tmp_path / "saved"


def forge(folder, **changes):
    """Rewrite the manifest as somebody would who knows how its digest is made."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest |= changes
    del manifest["sha256"]
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def forge_file(folder, name, content, target=None):
    """Put in a file and list it truthfully."""
    (target or folder / name).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    files[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    forge(folder, files=files)


def test_round_trip__record_and_files__come_back(saved):
    assert read_folder(saved, "toy") == (RECORD, FILES)


def test_read__files_that_are_not_listed__are_left_alone(saved):
    (saved / "notes.pkl").write_bytes(pickle.dumps("anything"))
    assert read_folder(saved, "toy") == (RECORD, FILES)


def test_write__folder_of_ours__is_replaced_whole(saved):
    write_folder(saved, "toy", RECORD, {"other.txt": b"new"})
    assert read_folder(saved, "toy") == (RECORD, {"other.txt": b"new"})
    assert not (saved / "weights.safetensors").exists()
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_write__something_else_there__is_left_alone(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no saved model: it is not replaced"):
        write_folder(tmp_path / "thesis", "toy", RECORD, FILES)
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds no saved model"):
        write_folder(tmp_path / "file", "toy", RECORD, FILES)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["notes.md", ".git/HEAD", "sub/model.onnx"])
def test_write__saved_folder_with_files_of_others__is_left_alone(saved, name):
    (saved / name).parent.mkdir(exist_ok=True)
    (saved / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds also {name}: it is not replaced"):
        write_folder(saved, "toy", RECORD, FILES)
    assert (saved / name).read_text() == "mine"


def test_write__saved_folder_of_another_kind__is_left_alone(saved):
    with pytest.raises(FileExistsError, match="holds a model of kind 'toy', not 'onnx'"):
        write_folder(saved, "onnx", RECORD, FILES)
    assert read_folder(saved, "toy") == (RECORD, FILES)


def test_write__link_to_a_saved_folder__stays_a_link(saved, tmp_path):
    (tmp_path / "latest").symlink_to(saved)
    write_folder(tmp_path / "latest", "toy", {"new": True}, FILES)
    assert (tmp_path / "latest").is_symlink()
    assert read_folder(saved, "toy") == ({"new": True}, FILES)


def test_write__permissions__are_those_of_any_new_folder(saved, tmp_path):
    (tmp_path / "plain").mkdir()
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write__disk_full__old_folder_stays(saved, monkeypatch):
    def fsync(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        write_folder(saved, "toy", {}, {"other.txt": b"new"})
    assert read_folder(saved, "toy") == (RECORD, FILES)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


WRITER = """
import os, signal, sys
from sklearn_transformers import _folder
countdown = int(sys.argv[2])
def killing(original):
    def call(*arguments, **named):
        global countdown
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        countdown -= 1
        return original(*arguments, **named)
    return call
for owner, name in ((os, "fsync"), (os, "rename"), (_folder.shutil, "rmtree"), (os, "mkdir")):
    setattr(owner, name, killing(getattr(owner, name)))
_folder.write_folder(sys.argv[1], "toy", {"new": True}, {"a.txt": b"a", "b/c.txt": b"c"})
"""


def kill_after(n_calls, path):
    """Write a folder in a process that is killed before its n-th step; whether it was."""
    command = [sys.executable, "-c", WRITER, str(path), str(n_calls)]
    return subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_write__killed_at_any_step__leaves_old_folder_or_new_one_or_none(tmp_path, old):
    path, outcomes = tmp_path / "saved", []
    for n_calls in range(100):
        if old:
            write_folder(path, "toy", RECORD, FILES)
        killed = kill_after(n_calls, path)
        if path.exists():
            record, _ = read_folder(path, "toy")
            outcomes.append("new" if record == {"new": True} else "old")
        else:
            outcomes.append("none")
            kept = list(tmp_path.glob(".saved.*.old"))
            assert not old or read_folder(kept[-1], "toy") == (RECORD, FILES)
        for leftover in tmp_path.iterdir():
            if old or leftover != path:
                subprocess.run(["rm", "-rf", str(leftover)], check=True)
        if not killed:
            break
    assert outcomes[0] == ("old" if old else "none")
    assert outcomes[-1] == "new"
    assert len(outcomes) > 6


def test_read__no_folder__says_what_can_be_loaded(tmp_path):
    with pytest.raises(SavedModelError, match="is no saved model: there is no sklearn_tra"):
        read_folder(tmp_path, "toy")


def test_read__other_kind__is_refused(saved):
    with pytest.raises(SavedModelError, match="holds a model of kind 'toy', not 'onnx'"):
        read_folder(saved, "onnx")


def test_read__newer_format__asks_for_an_upgrade(saved):
    forge(saved, format=FORMAT + 1)
    with pytest.raises(SavedModelError, match=r"of a newer version .* Upgrade it"):
        read_folder(saved, "toy")


@pytest.mark.parametrize("number", [0, -1, "1", None, 1.5])
def test_read__format_that_never_was__is_refused(saved, number):
    forge(saved, format=number)
    with pytest.raises(SavedModelError, match="is damaged"):
        read_folder(saved, "toy")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-1], lambda c: c + b"\0", lambda c: bytes([c[0] ^ 1]) + c[1:], lambda c: b""],
    ids=["cut", "longer", "one bit", "empty"],
)
def test_read__changed_file__is_refused_by_name(saved, name, damage):
    (saved / name).write_bytes(damage(FILES[name]))
    with pytest.raises(SavedModelError, match=f"{name} is not the file that was saved"):
        read_folder(saved, "toy")


def test_read__missing_file__is_refused_by_name(saved):
    (saved / "weights.safetensors").unlink()
    with pytest.raises(SavedModelError, match=r"weights\.safetensors cannot be read"):
        read_folder(saved, "toy")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"sha256": 1' + b"1" * 10_000 + b"}",
        pickle.dumps({"format": 1}),
    ],
    ids=["empty", "half", "list", "null", "str", "no text", "deep", "huge number", "pickle"],
)
def test_read__manifest_that_is_none__is_refused(saved, content):
    (saved / MANIFEST).write_bytes(content)
    with pytest.raises(SavedModelError, match=rf"{MANIFEST} is damaged"):
        read_folder(saved, "toy")


def test_read__manifest_with_one_changed_number__is_refused(saved):
    text = (saved / MANIFEST).read_text()
    assert "0.1" in text
    (saved / MANIFEST).write_text(text.replace("0.1", "0.2"))
    with pytest.raises(SavedModelError, match="its digest is not that of its content"):
        read_folder(saved, "toy")


@pytest.mark.parametrize("files", [None, [], 1, {f"{i}.txt": {} for i in range(1001)}])
def test_read__list_of_files_that_is_none__is_refused(saved, files):
    forge(saved, files=files)
    with pytest.raises(SavedModelError, match="lists no files, or too many"):
        read_folder(saved, "toy")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.txt",
        "/etc/passwd.txt",
        "a/../../secret.txt",
        "..\\secret.txt",
        "C:secret.txt",
        "a//b.txt",
        "./a.txt",
        "a/./b.txt",
        "a\0.txt",
        "",
    ],
)
def test_read__path_tricks__are_refused(saved, tmp_path, name):
    forge_file(saved, name, b"secret", target=tmp_path / "secret.txt")
    with pytest.raises(SavedModelError, match="which is refused"):
        read_folder(saved, "toy")


@pytest.mark.parametrize("name", ["model.pkl", "code.py", "pytorch_model.bin", "model.pt", "run"])
def test_read__files_that_may_hold_code__are_refused(saved, name):
    forge_file(saved, name, b"content")
    with pytest.raises(SavedModelError, match="could hold code and are refused"):
        read_folder(saved, "toy")


def test_read__links__are_refused(saved, tmp_path):
    (tmp_path / "secret.txt").write_bytes(b"secret")
    forge_file(saved, "link.txt", b"secret", target=tmp_path / "secret.txt")
    (saved / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(SavedModelError, match="no ordinary file"):
        read_folder(saved, "toy")


def test_read__linked_folder__is_refused(saved, tmp_path):
    (tmp_path / "outside").mkdir()
    forge_file(saved, "sub/secret.txt", b"secret", target=tmp_path / "outside" / "secret.txt")
    (saved / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(SavedModelError, match="no ordinary file"):
        read_folder(saved, "toy")


def test_read__pipe_in_place_of_a_file__is_refused_without_waiting(saved):
    (saved / "weights.safetensors").unlink()
    os.mkfifo(saved / "weights.safetensors")
    with pytest.raises(SavedModelError, match="no ordinary file"):
        read_folder(saved, "toy")


@pytest.mark.parametrize("name", [MANIFEST, "vocabulary/words.txt"])
def test_read__absurd_size__is_refused_before_reading(saved, name):
    with (saved / name).open("r+b") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(SavedModelError, match=r"1,099,511,627,776 bytes, more than any such file"):
        read_folder(saved, "toy")


def test_read__much_text_in_many_files__is_refused(saved, monkeypatch):
    monkeypatch.setattr("sklearn_transformers._folder.MOST_BYTES_OF_TEXT", 2000)
    for name in ("a.txt", "b.txt", "c.txt"):
        forge_file(saved, name, b"x" * 900)
    with pytest.raises(SavedModelError, match="has more text than any model needs"):
        read_folder(saved, "toy")


def test_read__weights_larger_than_stated__are_refused_before_reading(saved):
    with (saved / "weights.safetensors").open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(SavedModelError, match="is not the file that was saved"):
        read_folder(saved, "toy")
