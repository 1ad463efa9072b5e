"""Splits by class: seeded, disjoint, and asserted to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError, DataError, check_range
from innerloop.core.rng import choose, key
from innerloop.core.types import SPLITS


def by_class(
    num_classes: int, *, val_fraction: float = 0.2, test_fraction: float = 0.2, seed: int = 0
) -> dict[str, NDArray[np.int64]]:
    """Class ids of train, val and test: a seeded shuffle, cut in three.

    A positive fraction gives at least one class; train holds the rest. Ids are sorted within a split.

    Raises:
        ConfigError: a fraction is not in [0, 1), or nothing is left to train on.
    """
    check_range("val_fraction", val_fraction, low=0.0, high=1.0)
    check_range("test_fraction", test_fraction, low=0.0, high=1.0)
    num_val, num_test = (
        max(1, round(fraction * num_classes)) if fraction > 0 else 0
        for fraction in (val_fraction, test_fraction)
    )
    if num_val + num_test >= num_classes:
        raise ConfigError(
            f"{num_classes} classes with val_fraction={val_fraction}, test_fraction={test_fraction}",
            expected="at least one class left to train on",
            do="lower the fractions, or add classes",
        )
    order = choose(np.array(key(seed, "split by class"), dtype=np.uint64), num_classes, num_classes)
    return {
        "train": np.sort(order[num_test + num_val :]),
        "val": np.sort(order[num_test : num_test + num_val]),
        "test": np.sort(order[:num_test]),
    }


def assert_disjoint(classes: Mapping[str, Iterable[str]]) -> None:
    """Raise `DataError` naming the first class that stands in two splits (or twice in one)."""
    seen: dict[str, str] = {}
    for split in (*SPLITS, *(name for name in classes if name not in SPLITS)):
        for name in classes.get(split, ()):
            if name in seen:
                raise DataError(
                    f"class {name!r} in {seen[name]} and in {split}",
                    expected="every class in exactly one split",
                    do=f"remove {name!r} from one of them, or rename it if the two differ",
                )
            seen[name] = split
