"""Omniglot's files: found, checked, decoded once, and cut into published splits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import DataError
from innerloop.tasks.cache import cache_dir, load_or_build
from innerloop.tasks.download import fetch
from innerloop.tasks.images import decode

IMAGE_SIZE = 28
DRAWINGS = 20
#: Characters of each part, and the official checksum of its zip.
PARTS = {
    "images_background": (964, "md5:68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation": (659, "md5:6b91aef0f799c5bb55b94e3f2daec811"),
}
_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{}.zip"
_MEMBER = re.compile(r"(?:^|/)([^/]+)/(character\d\d)/\d{4}_(\d\d)\.png$")
_FORMAT = "1"  # raise it when the same files are to give other pixels


class Characters(NamedTuple):
    """All drawings: images uint8 [N, 1, 28, 28] with ink 255; names are "part/alphabet/character"."""

    images: NDArray[np.uint8]
    counts: NDArray[np.int64]
    names: tuple[str, ...]


def load_characters(root: str | None) -> Characters:
    """The 1,623 characters of the files at `root` (None: the cache folder), decoded once and then cached.

    Raises:
        DataError: a file is missing and cannot be downloaded, or is not what it should be.
    """
    folder = cache_dir() / "omniglot" if root is None else Path(root).expanduser()
    if root is not None and folder.is_file():
        raise DataError(
            f"root {root!r} is a file",
            expected="the folder that holds images_background.zip and images_evaluation.zip",
            do=f"pass {str(folder.parent)!r}",
        )
    sources = {part: _find(folder, part) for part in PARTS}
    fingerprint = hashlib.sha256(
        "\n".join([_FORMAT, *map(_fingerprint, sources.values())]).encode()
    ).hexdigest()
    built = load_or_build("omniglot", fingerprint, lambda: _build(sources))
    return Characters(built["images"], built["counts"], tuple(str(name) for name in built["names"]))


def split_characters(names: tuple[str, ...], protocol: str) -> dict[str, NDArray[np.int64]]:
    """Character ids of each split: "vinyals" 1028/172/423, or "lake" 792/172/659."""
    text = resources.files("innerloop.tasks").joinpath("data/omniglot_vinyals.json").read_text("utf-8")
    ranges: dict[str, dict[str, list[int]]] = json.loads(text)["splits"]
    where: dict[str, str] = {
        f"{alphabet}/character{number:02d}": split
        for split, alphabets in ranges.items()
        for alphabet, (first, last) in alphabets.items()
        for number in range(first, last + 1)
    }
    found: dict[str, list[int]] = {split: [] for split in ("train", "val", "test")}
    for index, name in enumerate(names):
        part, character = name.split("/", 1)
        split = where.get(character)
        if split is None:
            raise DataError(
                f"character {name!r}, which is in no published split",
                expected="the 50 alphabets of Omniglot under their own names",
                do="restore the official folder names",
            )
        if protocol == "lake":
            # The Vinyals validation alphabets are whole background alphabets, so both protocols share them.
            split = "test" if part == "images_evaluation" else "val" if split == "val" else "train"
        found[split].append(index)
    return {split: np.array(ids, dtype=np.int64) for split, ids in found.items()}


def _find(folder: Path, part: str) -> Path:
    """The zip or extracted folder of one part, downloaded into `folder` if neither is there."""
    for candidate in (folder / f"{part}.zip", folder / part):
        if candidate.exists():
            return candidate
    return fetch(_URL.format(part), PARTS[part][1], folder / f"{part}.zip")


def _fingerprint(source: Path) -> str:
    """What tells one state of the files from another: a zip's bytes; names, sizes and times in a folder."""
    digest = hashlib.sha256()
    try:
        if source.is_file():
            digest.update(source.read_bytes())
        else:
            for base, folders, files in os.walk(source):
                folders.sort()
                for name in sorted(files):
                    state = os.stat(os.path.join(base, name))
                    place = f"{os.path.relpath(base, source)}/{name}"
                    digest.update(f"{place}:{state.st_size}:{state.st_mtime_ns}\n".encode())
    except OSError as error:
        raise DataError(
            f"{str(source)!r}: {error.strerror}", expected="readable files", do="check the permissions"
        ) from error
    return digest.hexdigest()


def _build(sources: dict[str, Path]) -> dict[str, NDArray[np.generic]]:
    """Decode every drawing; rows are sorted by part, alphabet, character and drawing."""
    images: list[NDArray[np.uint8]] = []
    counts: dict[str, int] = {}
    for part, source in sources.items():
        files = _zip_members(source) if source.is_file() else _folder_files(source)
        before = len(counts)
        for path, raw in files:
            match = _MEMBER.search(path)
            if match is None:
                continue
            name = f"{part}/{match[1]}/{match[2]}"
            counts[name] = counts.get(name, 0) + 1
            images.append(decode(raw, f"{source}/{path}", IMAGE_SIZE, grey=True, invert=True))
        _check_part(source, part, dict(list(counts.items())[before:]))
    return {
        "images": np.stack(images),
        "counts": np.array(list(counts.values()), dtype=np.int64),
        "names": np.array(list(counts)),
    }


def _check_part(source: Path, part: str, counts: dict[str, int]) -> None:
    expected = PARTS[part][0]
    short = next((name for name, count in counts.items() if count != DRAWINGS), None)
    if short is not None:
        got = f"{counts[short]} drawings of {short!r} in {str(source)!r}"
    elif len(counts) != expected:
        got = f"{len(counts)} characters in {str(source)!r}"
    else:
        return
    raise DataError(
        got,
        expected=f"{expected} characters of {DRAWINGS} drawings each, as <alphabet>/characterNN/*.png",
        do=f"restore {part}.zip from {_URL.format(part)}",
    )


def _zip_members(source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of a zip's files, sorted, read in memory; nothing is ever extracted."""
    broken = DataError(
        f"{str(source)!r} is truncated or not a zip",
        expected="an intact zip file",
        do=f"delete it and download it again from {_URL.format(source.stem)}",
    )
    try:
        with zipfile.ZipFile(source) as archive:
            for name in sorted(archive.namelist()):
                if (
                    name.startswith(("/", "\\"))
                    or ".." in PurePosixPath(name.replace("\\", "/")).parts
                    or ":" in name
                ):
                    raise DataError(
                        f"{str(source)!r} holds {name!r}, a path outside itself",
                        expected="members inside the archive",
                        do="do not trust this file; download the official one",
                    )
                if not name.endswith("/"):
                    yield name, archive.read(name)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise broken from error


def _folder_files(source: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(source.glob("*/character*/*.png")):
        try:
            yield path.relative_to(source).as_posix(), path.read_bytes()
        except OSError as error:
            raise DataError(
                f"image {str(path)!r}: {error.strerror}",
                expected="a readable file",
                do="check its permissions",
            ) from error
