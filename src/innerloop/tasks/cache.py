"""Arrays kept on disk between runs: written atomically, checked by hash, rebuilt when damaged."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_log = logging.getLogger("innerloop")


def cache_dir() -> Path:
    """Where built arrays and downloads live: `INNERLOOP_CACHE`, or the platform's cache folder."""
    if chosen := os.environ.get("INNERLOOP_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "innerloop"


def content_hash(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, types, shapes and bytes of the arrays, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        digest.update(array.view(np.uint8).reshape(-1).data if array.size else b"")
    return digest.hexdigest()


def load_or_build(name: str, key: str, build: Callable[[], Arrays]) -> Arrays:
    """The arrays of `build()`, from disk if they were built before.

    A file that is damaged (its hash does not match, or it cannot be read) is built again. A cache
    folder that cannot be written is logged and otherwise ignored: it costs time, never a result.

    Args:
        name: start of the file's name, such as "omniglot".
        key: hash of everything that the arrays depend on.
    """
    path = cache_dir() / f"{name}-{key[:16]}.npz"
    found = _load(path)
    if found is not None:
        return found
    arrays = build()
    try:
        _save(path, arrays)
    except OSError as error:
        _log.warning("cannot cache %s at %s (%s): it will be built again next time", name, path, error)
    return arrays


def _load(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        # From memory: numpy leaves a file open when it finds it damaged.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        expected = str(arrays.pop("sha256"))
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        _log.warning("cache %s cannot be read (%s): building it again", path, error)
        return None
    if content_hash(arrays) != expected:
        _log.warning("cache %s does not match its hash: building it again", path)
        return None
    return arrays


def _save(path: Path, arrays: Arrays) -> None:
    """Write to a temporary file beside `path`, then rename: a reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            # numpy's stubs take keyword arrays for the flag allow_pickle, hence the untyped mapping.
            contents: dict[str, Any] = {**arrays, "sha256": np.array(content_hash(arrays))}
            np.savez(file, **contents)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
