"""Sinusoids of random amplitude and phase: the standard test of few-shot regression."""

from __future__ import annotations

from typing import Self, final

import numpy as np

from innerloop.core.rng import Keys, uniform
from innerloop.tasks.regression import RegressionTasks, Values


@final
class Sinusoid(RegressionTasks):
    """y = A sin(x - p), with A ~ U[0.1, 5], p ~ U[0, pi] and x ~ U[-5, 5]; judged by mean squared error.

    Train, val and test draw from the same distribution, as independent streams.

    Args:
        shots: support points of a task, >= 1.
        queries: query points of a task, >= 1.
        outliers: probability, in [0, 1], that the target of a support point is not the sinusoid's but a
            uniform draw on [-10, 10); queries are never touched. The literature has none.
        train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Raises:
        ConfigError: a size is not a whole number of at least 1, or `outliers` is no probability.

    Example:
        >>> support, query = Sinusoid(shots=5, queries=10).sample("test", 3, 0)
        >>> support.x.shape, query.y.shape
        (torch.Size([3, 5, 1]), torch.Size([3, 10, 1]))

    Reference: Finn, Abbeel, Levine, *Model-Agnostic Meta-Learning*, section 5.1, arXiv:1703.03400.
    """

    def __init__(
        self,
        shots: int = 5,
        queries: int = 15,
        *,
        outliers: float = 0.0,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_sizes(shots=shots, queries=queries, train_shots=train_shots, train_queries=train_queries)
        self._set_disturbance(outliers=outliers)

    def _targets(self, keys: Keys, x: Values) -> Values:
        drawn = uniform(keys, 2)
        amplitude = 0.1 + 4.9 * drawn[:, :1]
        phase = np.pi * drawn[:, 1:]
        return amplitude * np.sin(x - phase)

    @classmethod
    def tiny(cls) -> Self:
        """Few points a task; the distribution itself needs no data."""
        return cls(shots=4, queries=6)
