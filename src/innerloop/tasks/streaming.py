"""Families of tasks that come one after another: what is trained on depends on how far training is."""

from __future__ import annotations

import copy
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

from innerloop.core.errors import ConfigError, check_count, unknown
from innerloop.core.rng import Rng
from innerloop.core.types import Episode, Split, TaskSpec
from innerloop.tasks.base import TaskSource
from innerloop.tasks.mixture import Mixture, told
from innerloop.tasks.progression import alike_first

Schedule = Literal["sequence", "drift", "progressive", "joint"]


class Stage(NamedTuple):
    """A part of training in which one family prevails, or is new: the steps from share `start` to `end`."""

    family: int
    start: float
    end: float

    def steps(self, total: int) -> tuple[int, int]:
        """The outer steps of `total` that it begins with, and that the next one begins with.

        >>> [Stage(0, i / 3, (i + 1) / 3).steps(10) for i in range(3)]
        [(0, 4), (4, 7), (7, 10)]
        """
        first, last = (math.ceil(share * total - 1e-9 * total) for share in (self.start, self.end))
        return first, last


class StreamTasks(ABC):
    """What streams share: families, an order, and the mixture of them at every moment of training.

    As a source it is all families together, equally often: validation and tests judge that. Training asks
    `at`.

    Attributes:
        names: of the families, in the order in which they come.
        schedule: `sequence` is one family at a time, with equal shares of the outer steps; `drift` goes over
            from each to the next gradually; `progressive` lets them join one at a time and stay, the first,
            then always the one that is most like any of those before (`tasks/progression.py`); `joint` is all
            at once, from the first step to the last.
        rounds: how often the whole sequence comes: with more than one, families come back.
    """

    names: tuple[str, ...]
    schedule: Schedule
    rounds: int
    _parts: list[TaskSource]
    _all: Mixture
    _alike_first: list[int] | None = None

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A small synthetic stand-in of the same kind, made without data."""

    def _set_families(
        self,
        sources: list[Any],
        names: Sequence[str] | None,
        schedule: Schedule,
        rounds: int,
    ) -> None:
        if schedule not in get_args(Schedule):
            raise unknown("schedule", str(schedule), get_args(Schedule))
        self.schedule, self.rounds = schedule, check_count("rounds", rounds, low=1)
        if schedule == "progressive" and rounds > 1:
            raise ConfigError(
                f"rounds = {rounds} with schedule = 'progressive'",
                expected="one round: families that have joined stay",
                do="leave rounds out, or choose another schedule",
            )
        self._all = Mixture(sources)
        self._parts = list(self._all.parts)
        self.names = tuple(numbered(list(map(told, sources))) if names is None else names)
        if len(set(self.names)) < len(self.names) or len(self.names) != len(self._parts):
            raise ConfigError(
                f"names {', '.join(self.names)} for {len(self._parts)} families",
                expected="a name of its own for each family",
                do="give as many different names as there are families",
            )

    # --- in time -----------------------------------------------------------------------------------------

    @property
    def stages(self) -> list[Stage]:
        """The parts of training in which each family prevails, in order; none where all come at once."""
        if self.schedule == "joint":
            return []
        order = self._order()
        if self.schedule != "drift":
            edges = [i / len(order) for i in range(len(order) + 1)]
        else:  # the next one prevails from half-way between two
            edges = [0.0, *((i + 0.5) / (len(order) - 1) for i in range(len(order) - 1)), 1.0]
        return [Stage(f, a, b) for f, (a, b) in zip(order, itertools.pairwise(edges), strict=True)]

    def weights_at(self, progress: float) -> list[float]:
        """How often each family is drawn when `progress`, in [0, 1), of training is over; they sum to one.

        >>> from innerloop.tasks import TaskStream
        >>> TaskStream(["Sinusoid", "Linear"], schedule="drift").weights_at(0.25)
        [0.75, 0.25]
        """
        count = len(self.names)
        if self.schedule == "joint":
            return [1.0 / count] * count
        order, weights = self._order(), [0.0] * count
        if self.schedule != "drift":
            turn = min(int(progress * len(order) + 1e-9), len(order) - 1)
            there = order[: turn + 1] if self.schedule == "progressive" else [order[turn]]
            return [(family in there) / len(there) for family in range(count)]
        place = min(progress, 1.0) * (len(order) - 1)
        before = min(int(place), len(order) - 2)
        weights[order[before]] += before + 1 - place
        weights[order[before + 1]] += place - before
        return weights

    def at(self, progress: float) -> Mixture:
        """The tasks to train on when `progress`, in [0, 1), of training is over."""
        return Mixture(self._parts, self.weights_at(progress))

    def _order(self) -> list[int]:
        if self.schedule != "progressive":
            return list(range(len(self.names))) * self.rounds
        if self._alike_first is None:
            self._alike_first = alike_first(self._parts)
        return self._alike_first

    # --- as a source of all families ---------------------------------------------------------------------

    def family(self, number: int) -> TaskSource:
        """The source of family `number`, counted from 0 in the order of `names`."""
        return self._parts[number]

    @property
    def spec(self) -> TaskSpec:
        return self._all.spec

    def families(self, split: Split, num_tasks: int, rng: Rng) -> list[int]:
        """The family of each task that `sample` gives for the same arguments."""
        return self._all.families(split, num_tasks, rng)

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Tasks of all families, equally often, whatever the moment."""
        return self._all.sample(split, num_tasks, rng)

    def pooled(self, num_batches: int, rng: Rng) -> Episode:
        """As in `Mixture`: classes of several families have no labels in common."""
        return self._all.pooled(num_batches, rng)

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same families in the same order with other sizes at test; training keeps its sizes."""
        other = copy.copy(self)
        parts = [part.resized(ways=ways, shots=shots, queries=queries) for part in self._parts]
        other._set_families(parts, self.names, self.schedule, self.rounds)
        for name, size in {"ways": ways, "shots": shots, "queries": queries}.items():
            if size is not None and hasattr(other, name):
                setattr(other, name, size)
        return other


def numbered(names: list[str]) -> list[str]:
    """The names, with a number where several are the same."""
    return [
        f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
