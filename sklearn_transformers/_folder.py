"""A folder of files: written whole or not at all, and trusted in nothing when it is read."""

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sklearn_transformers.exceptions import SavedModelError

__all__ = ["FORMAT", "MANIFEST", "check_name", "damage_named", "read_folder", "write_folder"]

# Raised when a folder or pickle of this version could not be read by the one before.
FORMAT = 1

MANIFEST = "sklearn_transformers.json"

# What a model consists of. Nothing that could hold code: no .py, .bin, .pt, .pkl.
KINDS_OF_FILE = {".safetensors", ".onnx", ".json", ".txt", ".model", ".codes", ".jinja", ".md"}
MOST_FILES = 1_000
# Vocabularies take tens of megabytes; only weights are larger.
MOST_BYTES_OF_TEXT = 2**28
LARGE = {".safetensors", ".onnx"}


def write_folder(
    path: str | os.PathLike[str], kind: str, record: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    """Write a folder that appears under its name only when all of it is on the disk.

    Parameters
    ----------
    path : str or path-like
        A folder of that kind is replaced, if it has no other files; anything else is left alone.
    kind : str
        What the folder holds.
    record : dict
        What JSON can express.
    files : dict of str to bytes
        Name -> content. Names may have folders in front, with slashes.

    Raises
    ------
    FileExistsError
        When `path` holds something else.
    ValueError
        When a file is of a kind that would not be read.
    OSError
        When it cannot be written; then what was there is there still.
    """
    for name in files:
        if PurePosixPath(name).suffix not in KINDS_OF_FILE:
            raise ValueError(
                f"A saved model cannot have a file {name!r}, because only files of the kinds "
                f"{', '.join(sorted(KINDS_OF_FILE))} are read: others could hold code."
            )
    path = Path(os.path.realpath(os.path.expanduser(path)))  # a link stays a link
    if path.exists():
        _check_replaceable(path, kind)
    digests = {name: _describe(content) for name, content in sorted(files.items())}
    manifest = {"format": FORMAT, "kind": kind, **record, "files": digests}
    manifest["sha256"] = _digest_of(manifest)
    content = {**files, MANIFEST: json.dumps(manifest, indent=1).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.parent / f".{path.name}.{secrets.token_hex(8)}.new"
    try:
        for name, data in content.items():
            _write(fresh / name, data)
        _put_in_place(fresh, path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def read_folder(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read what `write_folder` wrote, and nothing else that may lie there.

    Whoever wrote the folder may mean harm: nothing of it is run, only the files of the manifest
    are read, and their sizes and digests have to be those that it states.

    Parameters
    ----------
    path : str or path-like
    kind : str
        What it must hold.

    Returns
    -------
    record : dict
    files : dict of str to bytes

    Raises
    ------
    SavedModelError
        When there is no such folder, or anything is wrong with it.
    """
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    record = _read_manifest(folder, kind)
    stated = record.pop("files")
    if not isinstance(stated, dict) or len(stated) > MOST_FILES:
        raise SavedModelError(f"{folder / MANIFEST} is damaged: it lists no files, or too many.")
    files: dict[str, bytes] = {}
    for name, about in stated.items():
        files[name] = _read(folder, name, about)
        texts = (content for name, content in files.items() if Path(name).suffix not in LARGE)
        if sum(map(len, texts)) > MOST_BYTES_OF_TEXT:
            raise SavedModelError(f"{folder} has more text than any model needs: it is refused.")
    return record, files


def _read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise SavedModelError(
            f"{folder} is no saved model: there is no {MANIFEST}. Only folders that `save` wrote "
            "can be loaded; from_pretrained reads those of transformers."
        )
    try:
        manifest = json.loads(_content(folder, MANIFEST))
        digest = manifest.pop("sha256")
        whole = digest == _digest_of(manifest)
        number, found = manifest.pop("format"), manifest.pop("kind")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise SavedModelError(f"{file} is damaged: {_in_words(error)}.") from error
    if isinstance(number, int) and number > FORMAT:
        raise SavedModelError(
            f"{folder} has format {number}, of a newer version of sklearn-transformers; this one "
            f"reads formats up to {FORMAT}. Upgrade it."
        )
    if not whole or not isinstance(number, int) or number < 1:
        raise SavedModelError(f"{file} is damaged: its digest is not that of its content.")
    if found != kind:
        raise SavedModelError(f"{folder} holds a model of kind {found!r}, not {kind!r}.")
    return manifest


def check_name(name: str) -> None:
    """Refuse names that lead out of a folder, and kinds of files that could hold code.

    Raises
    ------
    SavedModelError
    """
    parts = PurePosixPath(name).parts
    harmless = name and "\\" not in name and ":" not in name and "\0" not in name
    if not harmless or name.startswith("/") or ".." in parts or name != "/".join(parts):
        raise SavedModelError(f"There is a file of the name {name!r}, which is refused.")
    if PurePosixPath(name).suffix not in KINDS_OF_FILE:
        raise SavedModelError(
            f"There is a file {name}, which is none of {', '.join(sorted(KINDS_OF_FILE))}: "
            "files of other kinds could hold code and are refused."
        )


def _read(folder: Path, name: str, stated: Any) -> bytes:
    check_name(name)
    size = stated.get("bytes") if isinstance(stated, dict) else None
    if _size(folder, name) != size or _describe(content := _content(folder, name)) != stated:
        raise SavedModelError(
            f"{folder / name} is not the file that was saved: size or digest differ. It was "
            "changed, or copied in part; copy the folder anew."
        )
    return content


def _content(folder: Path, name: str) -> bytes:
    _size(folder, name)
    with _in_words_of(folder / name):
        return (folder / name).read_bytes()


def _size(folder: Path, name: str) -> int:
    """Bytes of an ordinary file, no link and no device; a large one only where it may be large."""
    file = folder / name
    with _in_words_of(file):
        inside = file.resolve(strict=True).is_relative_to(folder.resolve())
        status = file.lstat()
    if not inside or not stat.S_ISREG(status.st_mode):
        raise SavedModelError(f"{file} is no ordinary file inside the folder: it is refused.")
    if file.suffix not in LARGE and status.st_size > MOST_BYTES_OF_TEXT:
        raise SavedModelError(
            f"{file} has {status.st_size:,} bytes, more than any such file needs "
            f"({MOST_BYTES_OF_TEXT:,}): it is refused."
        )
    return status.st_size


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Raise whatever goes wrong with content from strangers as a `SavedModelError`.

    It fails in as many ways as there are formats inside, and a tokenizer that panics raises what
    is no Exception.
    """
    try:
        yield
    except (MemoryError, KeyboardInterrupt, SystemExit, SavedModelError):
        raise
    except BaseException as error:
        raise SavedModelError(f"{what} {_in_words(error)}.") from error


@contextmanager
def _in_words_of(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SavedModelError(f"{file} cannot be read: {_in_words(error)}.") from error


def _put_in_place(fresh: Path, path: Path) -> None:
    """Let the new folder take the name. Nothing half-written ever has it."""
    _flush(fresh)
    if not path.exists():
        fresh.rename(path)
    else:
        old = fresh.with_suffix(".old")
        path.rename(old)
        try:
            fresh.rename(path)
        except BaseException:
            old.rename(path)
            raise
        shutil.rmtree(old)
    _flush(path.parent)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _flush(folder: Path) -> None:
    """Have the names in a folder written to the disk, where the system can do that."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _check_replaceable(path: Path, kind: str) -> None:
    """Refuse to replace what is no folder of this kind, or has files of somebody else in it."""
    if path.is_dir() and not any(path.iterdir()):
        return
    try:
        listed = json.loads(_content(path, MANIFEST))
        held, names = listed["kind"], {MANIFEST, *listed["files"]}
    except (SavedModelError, ValueError, KeyError, TypeError):
        raise FileExistsError(
            f"{path} exists and holds no saved model: it is not replaced. Remove it, or save to "
            "another path."
        ) from None
    others = (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())
    foreign = sorted(set(others) - names)
    if held != kind or foreign:
        what = f"a model of kind {held!r}, not {kind!r}" if held != kind else f"also {foreign[0]}"
        raise FileExistsError(
            f"{path} holds {what}: it is not replaced. Remove what is there, or save to another "
            "path."
        )


def _describe(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _digest_of(manifest: Mapping[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200] or 'no more is known'}"
