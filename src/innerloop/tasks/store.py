"""Examples by class in one array, and which classes make up each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError, DataError
from innerloop.tasks.sizes import Sizes
from innerloop.tasks.splits import assert_disjoint


@dataclass(frozen=True, eq=False)
class Pool:
    """The classes that tasks of one split are made of.

    Attributes:
        ids: class ids [P]; an id stands here several times if its rotations count as classes.
        turns: quarter turns anticlockwise [P] that make the class out of the stored one.
    """

    ids: NDArray[np.int64]
    turns: NDArray[np.int64]

    @classmethod
    def of(cls, ids: Sequence[int] | NDArray[np.int64], *, rotations: bool = False) -> Pool:
        """A pool of `ids`; with `rotations` each id counts as four classes (0, 90, 180, 270 degrees)."""
        base = np.asarray(ids, dtype=np.int64)
        count = 4 if rotations else 1
        return cls(np.repeat(base, count), np.tile(np.arange(count, dtype=np.int64), len(base)))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class ExampleStore:
    """Examples sorted by class, ragged counts allowed; shared by every source that is made of classes.

    Attributes:
        examples: [N, ...], uint8 (read as value / 255) or float32 (read as it is).
        counts: examples of each class [num_classes]; class c holds the rows after those of c - 1.
        names: a name for each class, for errors and plots.
        pools: the classes of each split.
    """

    examples: NDArray[Any]
    counts: NDArray[np.int64]
    names: tuple[str, ...]
    pools: Mapping[str, Pool]

    def __post_init__(self) -> None:
        if int(self.counts.sum()) != len(self.examples) or len(self.names) != len(self.counts):
            raise DataError(
                f"{len(self.examples)} examples, counts of {int(self.counts.sum())}, {len(self.names)} names",
                expected="one count and one name for each class, and a row for each example",
                do="rebuild the store from its source",
            )
        assert_disjoint({split: [self.names[i] for i in np.unique(p.ids)] for split, p in self.pools.items()})

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of each class [num_classes]."""
        return np.concatenate([[0], np.cumsum(self.counts)[:-1]]).astype(np.int64)

    @property
    def example_shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self.examples.shape[1:])

    @property
    def num_classes(self) -> dict[str, int]:
        """Number of classes that tasks of each split draw from, rotations counted."""
        return {split: len(pool) for split, pool in self.pools.items()}

    @cached_property
    def _smallest(self) -> dict[str, int]:
        """The class with the fewest examples in each split that has classes."""
        return {s: int(p.ids[np.argmin(self.counts[p.ids])]) for s, p in self.pools.items() if len(p)}

    def check(self, split: str, sizes: Sizes) -> None:
        """Raise unless tasks of these sizes can be made from `split`.

        Raises:
            ConfigError: more ways than the split has classes.
            DataError: a class has fewer examples than shots + queries; the message names it.
        """
        have = len(self.pools[split])
        if sizes.ways > have:
            raise ConfigError(
                f"ways = {sizes.ways} with {have} classes in split {split!r}",
                expected=f"ways <= {have} in {split}",
                do="lower ways (or train_ways), or give the split more classes",
            )
        smallest = self._smallest[split]
        count = int(self.counts[smallest])
        if sizes.shots + sizes.queries > count:
            raise DataError(
                f"class {self.names[smallest]!r} of split {split!r} has {count} examples",
                expected=f"at least shots + queries = {sizes.shots} + {sizes.queries}",
                do="lower shots or queries, or add examples to this class or remove it",
            )
