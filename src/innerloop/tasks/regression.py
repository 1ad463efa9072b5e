"""What one-dimensional regression sources share: inputs, sizes and the spec."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError, check_count
from innerloop.core.rng import Keys, Rng, fold, uniform
from innerloop.core.types import Batch, Episode, Split, TaskSpec
from innerloop.tasks.episodes import split_keys
from innerloop.tasks.sizes import check_optional_count

X_LOW, X_HIGH = -5.0, 5.0  # inputs of every task are uniform on [-5, 5)


class RegressionTasks(ABC):
    """Tasks are functions drawn at random; every split has the same distribution, as independent streams.

    A concrete source says what its functions are (`_targets`). Support and query are independent draws
    of x, so they are disjoint with probability one.
    """

    shots: int
    queries: int
    train_shots: int | None
    train_queries: int | None

    @abstractmethod
    def _targets(self, keys: Keys, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The function of each key [T] at its inputs [T, S]."""

    def _set_sizes(
        self, *, shots: int, queries: int, train_shots: int | None, train_queries: int | None
    ) -> None:
        self.shots = check_count("shots", shots)
        self.queries = check_count("queries", queries)
        self.train_shots = check_optional_count("train_shots", train_shots)
        self.train_queries = check_optional_count("train_queries", train_queries)

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec((1,), 1, "mse", "mse", shots=self.shots, queries=self.queries)

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Tasks of a split: x and y are float32 [T, S, 1]; task i does not depend on `num_tasks`."""
        keys = split_keys(split, num_tasks, rng)
        training = split == "train"
        shots = self.train_shots if training and self.train_shots is not None else self.shots
        queries = self.train_queries if training and self.train_queries is not None else self.queries
        x = uniform(fold(keys, 0), shots + queries, X_LOW, X_HIGH)
        pair = np.stack([x, self._targets(keys, x)])[..., None].astype(np.float32)
        values = torch.from_numpy(pair)
        return Episode(
            Batch(values[0, :, :shots].contiguous(), values[1, :, :shots].contiguous()),
            Batch(values[0, :, shots:].contiguous(), values[1, :, shots:].contiguous()),
        )

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
