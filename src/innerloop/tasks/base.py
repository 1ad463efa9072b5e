"""What a distribution over tasks offers: its spec, and episodes on demand."""

from __future__ import annotations

from typing import Protocol, Self

from innerloop.core.rng import Rng
from innerloop.core.types import Episode, Split, TaskSpec


class TaskSource(Protocol):
    """A distribution over tasks, sampled twice over: first tasks, then support and query of each.

    The constructor's arguments stand on `self` under their own names, so that a source can be
    written to a configuration and rebuilt from it. A source whose tasks are judged on the very examples that
    they adapt to, by design, says so by a class attribute `own_test = True`; then no check takes that for a
    leak. One whose training labels name the same class in every task, so that a model has an output for each,
    says so by `absolute = True`; then `spec.outputs` is the number of these.
    """

    @property
    def spec(self) -> TaskSpec:
        """Shapes, loss, metric and sizes at test: all that a learner may know."""
        ...

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """`num_tasks` stacked episodes of a split, a pure function of `(split, num_tasks, rng)`.

        Task *i* does not depend on `num_tasks`. Support and query of a task are disjoint.
        """
        ...

    def pooled(self, num_batches: int, rng: Rng) -> Episode:
        """Stacked batches of examples of all training classes at once, whose labels mean the same in each.

        Asked for only by learners that declare themselves `pooled`.
        """
        ...

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same source with other sizes at test; None keeps a size."""
        ...

    @classmethod
    def tiny(cls) -> Self:
        """A small synthetic stand-in of the same kind, made without data."""
        ...
