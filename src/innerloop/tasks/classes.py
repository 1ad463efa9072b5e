"""What sources made of classes share: sizes by split, the spec, sampling, resizing."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Self

from innerloop.core.errors import check_count
from innerloop.core.rng import Rng
from innerloop.core.types import Episode, Split, TaskSpec, check_split
from innerloop.tasks.episodes import pooled_batches, sample_classes
from innerloop.tasks.sizes import Sizes, check_optional_count
from innerloop.tasks.store import ExampleStore


class ClassTasks(ABC):
    """Tasks of `ways` classes with `shots` support and `queries` query examples of each class.

    A concrete source fills an `ExampleStore`; everything about tasks is here. Train may have sizes
    of its own (ProtoNet trains on 20 ways and is tested on 5); None means the same as at test.
    """

    ways: int
    shots: int
    queries: int
    train_ways: int | None
    train_shots: int | None
    train_queries: int | None
    _store: ExampleStore

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A small synthetic stand-in of the same kind, made without data."""

    def _set_sizes(
        self,
        *,
        ways: int,
        shots: int,
        queries: int,
        train_ways: int | None,
        train_shots: int | None,
        train_queries: int | None,
    ) -> None:
        """Check the sizes alone, before any data are read."""
        self.ways = check_count("ways", ways, low=2)
        self.shots = check_count("shots", shots)
        self.queries = check_count("queries", queries)
        self.train_ways = check_optional_count("train_ways", train_ways, low=2)
        self.train_shots = check_optional_count("train_shots", train_shots)
        self.train_queries = check_optional_count("train_queries", train_queries)

    def _set_store(self, store: ExampleStore) -> None:
        """Take the data, once every split is seen to be large enough; only val may have no classes at all."""
        self._store = store
        for split in ("train", "test", "val"):
            if split != "val" or len(store.pools[split]):
                store.check(split, self.sizes(split))

    def sizes(self, split: Split) -> Sizes:
        """Ways, shots and queries of the tasks of a split."""
        check_split(split)
        if split != "train":
            return Sizes(self.ways, self.shots, self.queries)
        return Sizes(
            self.ways if self.train_ways is None else self.train_ways,
            self.shots if self.train_shots is None else self.train_shots,
            self.queries if self.train_queries is None else self.train_queries,
        )

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec(
            self._store.example_shape,
            self.ways,
            "cross_entropy",
            "accuracy",
            shots=self.shots,
            queries=self.queries,
            classes=self._store.num_classes,
        )

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Stacked tasks, class by class: x float32 [T, ways * shots, ...] and y int64 [T, ways * shots].

        Task i does not depend on `num_tasks`; support and query are disjoint; labels are permuted per task.
        """
        return sample_classes(self._store, split, sizes=self.sizes(split), num_tasks=num_tasks, rng=rng)

    def pooled(self, num_batches: int, rng: Rng) -> Episode:
        """Batches of examples of all training classes at once, for a learner that is `pooled`.

        A label is the class's number among the training classes, and each batch is as large as a training
        task: x float32 [T, ways * shots, ...] and y int64 [T, ways * shots] in the support.
        """
        return pooled_batches(self._store, sizes=self.sizes("train"), num_batches=num_batches, rng=rng)

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same classes with other sizes at test; training keeps its sizes, and no data are read again.

        Raises:
            ConfigError, DataError: split test cannot make tasks of these sizes; val is asked when sampled.
        """
        training = self.sizes("train")
        other = copy.copy(self)
        other._set_sizes(
            ways=self.ways if ways is None else ways,
            shots=self.shots if shots is None else shots,
            queries=self.queries if queries is None else queries,
            train_ways=training.ways,
            train_shots=training.shots,
            train_queries=training.queries,
        )
        self._store.check("test", other.sizes("test"))
        return other
