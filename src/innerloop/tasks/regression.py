"""What sources of tasks with targets share: sizes and the spec; and tasks that are functions of a number."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError, check_count, check_range
from innerloop.core.rng import Keys, Rng, fold, normal, uniform
from innerloop.core.types import Batch, Episode, Split, TaskSpec
from innerloop.tasks.episodes import split_keys
from innerloop.tasks.sizes import check_optional_count

X_LOW, X_HIGH = -5.0, 5.0  # inputs of a function are uniform on [-5, 5), unless it says otherwise
OUTLIER = 10.0  # what stands in for a support target is uniform within this: twice the largest amplitude

Values = NDArray[np.float64]


class TargetTasks(ABC):
    """Tasks of numbers, not of classes; every split has the same distribution, as independent streams.

    A concrete source says what the examples of its tasks are (`_examples`): first the support, then the
    query.

    Attributes:
        inputs, outputs: widths of an example and of its target.
    """

    inputs: ClassVar[int] = 1
    outputs: ClassVar[int] = 1
    shots: int
    queries: int
    train_shots: int | None
    train_queries: int | None

    @abstractmethod
    def _examples(self, keys: Keys, shots: int, queries: int) -> tuple[Values, Values]:
        """Inputs [T, shots + queries, inputs] and targets [T, shots + queries, outputs] of each key [T]."""

    def _set_sizes(
        self, *, shots: int, queries: int, train_shots: int | None, train_queries: int | None
    ) -> None:
        self.shots = check_count("shots", shots)
        self.queries = check_count("queries", queries)
        self.train_shots = check_optional_count("train_shots", train_shots)
        self.train_queries = check_optional_count("train_queries", train_queries)

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec((self.inputs,), self.outputs, "mse", "mse", shots=self.shots, queries=self.queries)

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Tasks of a split: x is float32 [T, S, inputs], y [T, S, outputs]; task i does not depend on T."""
        keys = split_keys(split, num_tasks, rng)
        training = split == "train"
        shots = self.train_shots if training and self.train_shots is not None else self.shots
        queries = self.train_queries if training and self.train_queries is not None else self.queries
        x, y = (
            torch.from_numpy(values.astype(np.float32)) for values in self._examples(keys, shots, queries)
        )
        return Episode(
            Batch(x[:, :shots].contiguous(), y[:, :shots].contiguous()),
            Batch(x[:, shots:].contiguous(), y[:, shots:].contiguous()),
        )

    def pooled(self, num_batches: int, rng: Rng) -> Episode:
        """Training tasks: without classes there is nothing else to pool."""
        return self.sample("train", num_batches, rng)

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same tasks with other sizes at test; training keeps its sizes.

        Raises:
            ConfigError: `ways` is given (a regression task has no classes), or a size is below 1.
        """
        if ways is not None:
            raise ConfigError(
                f"ways = {ways!r} for {type(self).__name__}",
                expected="no ways: a regression task has no classes",
                do="leave ways out; set shots and queries",
            )
        other = copy.copy(self)
        other._set_sizes(
            shots=self.shots if shots is None else shots,
            queries=self.queries if queries is None else queries,
            train_shots=self.shots if self.train_shots is None else self.train_shots,
            train_queries=self.queries if self.train_queries is None else self.train_queries,
        )
        return other


class RegressionTasks(TargetTasks, ABC):
    """Tasks are functions of one number, drawn at random.

    A concrete source says what its functions are (`_targets`), and may say where they are looked at
    (`_inputs`). Inputs are independent draws, so support and query are disjoint with probability one.

    Attributes:
        noise: standard deviation of Gaussian noise on every target, of support and query alike.
        outliers: probability that a support target is none of the function's: a uniform draw on
            [-10, 10) stands in its place. Queries are never touched.
    """

    noise: float = 0.0
    outliers: float = 0.0

    @abstractmethod
    def _targets(self, keys: Keys, x: Values) -> Values:
        """The function of each key [T] at its inputs [T, S]."""

    def _inputs(self, keys: Keys, num: int) -> Values:
        """`num` inputs of each task, [T, num]."""
        return uniform(fold(keys, 0), num, X_LOW, X_HIGH)

    def _set_disturbance(self, *, noise: float = 0.0, outliers: float = 0.0) -> None:
        check_range("noise", noise, low=0.0)
        check_range("outliers", outliers, low=0.0, high=1.0)
        self.noise, self.outliers = noise, outliers

    def _examples(self, keys: Keys, shots: int, queries: int) -> tuple[Values, Values]:
        x = self._inputs(keys, shots + queries)
        y = self._targets(keys, x)
        if self.noise:
            y = y + self.noise * normal(fold(keys, 1), shots + queries)
        if self.outliers:
            struck = uniform(fold(keys, 2), shots) < self.outliers
            y[:, :shots] = np.where(struck, uniform(fold(keys, 3), shots, -OUTLIER, OUTLIER), y[:, :shots])
        return x[..., None], y[..., None]
