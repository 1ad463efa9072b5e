"""Families of tasks out of one store of classes: each has classes of its own, in every split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError
from innerloop.core.types import SPLITS
from innerloop.tasks.classes import ClassTasks
from innerloop.tasks.splits import by_class
from innerloop.tasks.store import ExampleStore, Pool
from innerloop.tasks.synthetic import stroke_store


@final
class ClassFamily(ClassTasks):
    """Some classes of a store as a source; the examples are the store's own, not a copy.

    Args:
        name: what errors call it.
        store: the examples of all families.
        groups: ids of its classes, group by group: a fifth of each group (at least one class) makes val, a
            fifth test, and the others train, drawn by a fixed seed.
        ways, shots, queries: sizes of its tasks in every split.
    """

    def __init__(
        self,
        name: str,
        store: ExampleStore,
        groups: Sequence[NDArray[np.int64]],
        *,
        ways: int,
        shots: int,
        queries: int,
    ) -> None:
        self.name = name
        self._set_sizes(
            ways=ways,
            shots=shots,
            queries=queries,
            train_ways=None,
            train_shots=None,
            train_queries=None,
        )
        cut = [by_class(len(ids)) for ids in groups]
        pools = {
            split: Pool.of(np.concatenate([ids[part[split]] for ids, part in zip(groups, cut, strict=True)]))
            for split in SPLITS
        }
        try:
            self._set_store(ExampleStore(store.examples, store.counts, store.names, pools))
        except ConfigError as error:
            raise ConfigError(
                f"{error.got} of family {name}",
                expected=error.expected,
                do="lower ways, or leave this family out",
            ) from error

    @classmethod
    def tiny(cls) -> Self:
        """25 synthetic classes with 8 drawings each, 3-way 1-shot."""
        classes = np.arange(25, dtype=np.int64)
        return cls("strokes", stroke_store(num_classes=25), [classes], ways=3, shots=1, queries=3)


def stroke_families(count: int) -> list[ClassFamily]:
    """Families of 25 synthetic classes with 8 drawings [1, 28, 28] each, 3-way 1-shot."""
    store, each = stroke_store(num_classes=25 * count), np.arange(25, dtype=np.int64)
    return [
        ClassFamily(f"strokes {i + 1}", store, [25 * i + each], ways=3, shots=1, queries=3)
        for i in range(count)
    ]
