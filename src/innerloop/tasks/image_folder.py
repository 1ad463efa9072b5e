"""Tasks from a folder of images, one sub-folder a class: one line for own data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError, DataError, check_count
from innerloop.core.types import SPLITS
from innerloop.tasks.cache import load_or_build
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.images import SUFFIXES, read_image
from innerloop.tasks.splits import assert_disjoint, by_class
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store

_FORMAT = "1"  # raise it when the same files are to give other pixels


@final
class ImageFolder(ClassTasks):
    """A class is a sub-folder of `root`; its examples are the images in it, float32 [C, size, size] up to 1.

    Where `root` has exactly the sub-folders train, val and test (val may be missing), the classes are the
    folders in these, and the split is theirs. Otherwise classes are split by `split_seed`.
    Images are decoded once and cached; hidden files, and files not named as images, are left out.

    Args:
        root: the folder.
        ways: classes of a task, >= 2.
        shots, queries: support and query images of each class.
        train_ways, train_shots, train_queries: sizes of training tasks; None means the same as at test.
        size: pixels of an image each way, 4 to 512; pictures are resized to a square, not cropped.
        grey: one channel instead of three.
        invert: dark ink on light paper becomes bright on black, as Omniglot and Glyphs have it.
        val_fraction, test_fraction: share of the classes in these splits, in [0, 1); train has the rest.
        split_seed: which classes go where.

    Raises:
        ConfigError: a size or fraction is out of range, or a split has fewer classes than `ways`.
        DataError: `root` is missing or empty, an image does not decode, a class stands in two splits, or a
            folder has fewer than `shots + queries` images; the message names it.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        size: int = 28,
        grey: bool = False,
        invert: bool = False,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        self.root: str = os.fspath(root)
        self.size, self.grey, self.invert = check_count("size", size, low=4), bool(grey), bool(invert)
        if size > 512:
            raise ConfigError(f"size = {size}", expected="4 <= size <= 512", do="set size within that range")
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.split_seed = check_count("split_seed", split_seed, low=0)
        self._set_sizes(
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=train_ways,
            train_shots=train_shots,
            train_queries=train_queries,
        )
        folders, splits = self._find_classes()
        files = [_images_in(folder) for folder in folders]
        # Too few images are seen before minutes go into decoding the rest.
        counts = np.array([len(inside) for inside in files], dtype=np.int64)
        names = tuple(os.path.relpath(folder, self.root) for folder in folders)
        pools = {split: Pool.of(members) for split, members in splits.items()}
        blank = np.zeros((1, 1, 1, 1), dtype=np.uint8)
        planned = np.broadcast_to(blank, (int(counts.sum()), 1, 1, 1))
        self._set_store(ExampleStore(planned, counts, names, pools))
        images = self._load([file for inside in files for file in inside])
        self._set_store(ExampleStore(images, counts, names, pools))

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """Another image as this source has them: uint8 [C, size, size]."""
        return read_image(path, self.size, grey=self.grey, invert=self.invert)

    @classmethod
    def tiny(cls) -> Self:
        """24 synthetic classes with 8 images [3, 28, 28] each, 3-way 1-shot; needs no folder."""
        source = cls.__new__(cls)
        source.root, source.size, source.grey, source.invert = "", 28, False, False
        source.val_fraction, source.test_fraction, source.split_seed = 0.2, 0.2, 0
        source._set_sizes(ways=3, shots=1, queries=3, train_ways=None, train_shots=None, train_queries=None)
        source._set_store(stroke_store(channels=3))
        return source

    def _find_classes(self) -> tuple[list[Path], dict[str, NDArray[np.int64]]]:
        """The folder of each class, and the class ids of each split."""
        root = Path(self.root).expanduser()
        top = class_folders(root)
        if {folder.name for folder in top} not in ({"train", "test"}, set(SPLITS)):
            fractions = {"val_fraction": self.val_fraction, "test_fraction": self.test_fraction}
            return top, by_class(len(top), **fractions, seed=self.split_seed)
        inside = {folder.name: class_folders(folder) for folder in top}
        assert_disjoint({split: [folder.name for folder in folders] for split, folders in inside.items()})
        folders: list[Path] = []
        splits: dict[str, NDArray[np.int64]] = {}
        for split in SPLITS:
            members = inside.get(split, [])
            splits[split] = np.arange(len(folders), len(folders) + len(members))
            folders += members
        return folders, splits

    def _load(self, files: list[Path]) -> NDArray[Any]:
        """All images, uint8 [N, C, size, size], decoded once for one state of the files."""
        digest = hashlib.sha256(f"{_FORMAT} {self.size} {self.grey} {self.invert}".encode())
        for file in files:
            state = file.stat()
            digest.update(f"{file.absolute()}:{state.st_size}:{state.st_mtime_ns}\n".encode())
        name = f"image_folder-{hashlib.sha256(os.path.abspath(self.root).encode()).hexdigest()[:8]}"
        return load_or_build(
            name, digest.hexdigest(), lambda: {"images": np.stack([self.read(file) for file in files])}
        )["images"]


def class_folders(root: Path) -> list[Path]:
    """The sub-folders of `root` that are not hidden, sorted by name.

    Raises:
        DataError: `root` is missing, not a folder, cannot be read, or has no sub-folder.
    """
    expected = "a folder with one sub-folder of images for each class"
    try:
        found = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"folder {str(root)!r}: {error.strerror}",
            expected=expected,
            do="check the path and its permissions",
        ) from error
    if not found:
        raise DataError(
            f"folder {str(root)!r} without sub-folders",
            expected=expected,
            do="put the images of each class in one",
        )
    return found


def _images_in(folder: Path) -> list[Path]:
    """Image files of a class, sorted, also in folders below it."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
