"""Tasks from features on disk: what a pretrained network made of examples, once and for all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import DataError, check_count, nearest
from innerloop.core.types import SPLITS
from innerloop.tasks.arrays import as_examples, as_labels, sorted_by_class
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.splits import by_class
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store

_LABELS = ("label", "labels", "y", "target", "targets")  # what an array of labels is usually called


@final
class Features(ClassTasks):
    """Examples are rows of an array in an `.npz` file; a class is a value of another, its labels.

    Args:
        path: the file, as `np.savez` writes it.
        features: name of the array of examples [N, ...]; None is the only one with more than one axis.
        labels: name of the array of labels [N], whole numbers or strings; None is the one that is called
            label, labels, y, target or targets.
        split: name of an array [N] that says train, val or test (or 0, 1 or 2) of each example, the same for
            all of a class; None splits classes by `split_seed`.
        ways: classes of a task, >= 2.
        shots, queries: support and query examples of each class.
        train_ways, train_shots, train_queries: sizes of training tasks; None means the same as at test.
        val_fraction, test_fraction: share of the classes in these splits, in [0, 1); train has the rest.
        split_seed: which classes go where.

    Raises:
        ConfigError: a size or fraction is out of range, or a split has fewer classes than `ways`.
        DataError: no such file or array, values that are no numbers or not finite, a class in two splits, or
            one with fewer than `shots + queries` examples.

    >>> Features.tiny().sample("test", 4, 0).query.x.shape
    torch.Size([4, 9, 144])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        features: str | None = None,
        labels: str | None = None,
        split: str | None = None,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        self.path: str = os.fspath(path)
        self.features, self.labels, self.split = features, labels, split
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
        arrays = _read(self.path)
        x = as_examples(arrays[_features_among(arrays) if features is None else _named(features, arrays)])
        y = as_labels(arrays[_labels_among(arrays) if labels is None else _named(labels, arrays)])
        examples, counts, names = sorted_by_class(x, y)
        if split is None:
            fractions = {"val_fraction": val_fraction, "test_fraction": test_fraction}
            members = by_class(len(names), **fractions, seed=split_seed)
        else:
            members = _told(arrays[_named(split, arrays)], y)
        pools = {name: Pool.of(ids) for name, ids in members.items()}
        self._set_store(ExampleStore(examples, counts, names, pools))

    @classmethod
    def tiny(cls) -> Self:
        """24 synthetic classes with 8 vectors [144] each, 3-way 1-shot; needs no file."""
        source = cls.__new__(cls)
        source.path, source.features, source.labels, source.split = "", None, None, None
        source.val_fraction, source.test_fraction, source.split_seed = 0.2, 0.2, 0
        source._set_sizes(ways=3, shots=1, queries=3, train_ways=None, train_shots=None, train_queries=None)
        drawn = stroke_store(size=12)
        vectors = drawn.examples.reshape(len(drawn.examples), -1) / np.float32(255.0)
        source._set_store(ExampleStore(vectors, drawn.counts, drawn.names, drawn.pools))
        return source


def _read(path: str) -> Mapping[str, NDArray[Any]]:
    """The arrays of a file by name; pickled objects in it are never opened."""
    file = Path(path).expanduser()
    expected = "an .npz file with an array of features and one of labels, as np.savez writes it"
    try:
        with file.open("rb") as opened:  # numpy leaves a file open that turns out to be no archive
            found = np.load(opened, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            return {name: found[name] for name in found.files}
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"features {path!r}: {reason}", expected=expected, do="check the path") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        told = " ".join(str(error).split())[:100]
        raise DataError(
            f"features {path!r}: {told}", expected=expected, do="write it again with np.savez"
        ) from error


def _named(name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    if name not in arrays:
        near = nearest(name, arrays)
        raise DataError(
            f"no array {name!r} in the file",
            expected=f"one of {', '.join(arrays)}",
            do=f"did you mean {near!r}?" if near else "name one of these",
        )
    return name


def _features_among(arrays: Mapping[str, NDArray[Any]]) -> str:
    found = [name for name, values in arrays.items() if values.ndim >= 2]
    return _only(found, arrays, "array with more than one axis", "features")


def _labels_among(arrays: Mapping[str, NDArray[Any]]) -> str:
    found = [name for name in arrays if name.lower() in _LABELS]
    return _only(found, arrays, f"array called one of {', '.join(_LABELS)}", "labels")


def _only(found: list[str], arrays: Mapping[str, NDArray[Any]], what: str, setting: str) -> str:
    if len(found) == 1:
        return found[0]
    held = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
    raise DataError(
        f"arrays {held or 'none'}",
        expected=f"one {what}, not {len(found)}",
        do=f"say which holds the {setting}: set {setting}",
    )


def _told(split: NDArray[Any], labels: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """The classes of each split, in the order of their labels, as an array says of their examples."""
    values = split.astype(str)
    numbered = dict(zip(("0", "1", "2"), SPLITS, strict=True))
    values = np.array([numbered.get(value, value) for value in values.tolist()])
    unknown = sorted(set(values.tolist()) - set(SPLITS))
    if split.ndim != 1 or len(split) != len(labels) or unknown:
        raise DataError(
            f"a split of shape {split.shape}" + (f" with {', '.join(unknown[:3])}" if unknown else ""),
            expected=f"train, val or test (or 0, 1, 2) for each of {len(labels)} examples",
            do="mend the array, or leave split out",
        )
    names, ids = np.unique(labels, return_inverse=True)
    members = {name: np.unique(ids[values == name]).astype(np.int64) for name in SPLITS}
    for a, b in (("train", "val"), ("train", "test"), ("val", "test")):
        both = np.intersect1d(members[a], members[b])
        if len(both):
            raise DataError(
                f"class {str(names[both[0]])!r} with examples in {a} and in {b}",
                expected="every class in exactly one split",
                do="split by class, or leave split out",
            )
    return members
