"""Sinusoids and straight lines in one distribution: a learner has to find out which kind it looks at."""

from __future__ import annotations

from typing import Self, final

import numpy as np

from innerloop.core.rng import Keys, uniform
from innerloop.tasks.regression import RegressionTasks, Values


@final
class SinusoidAndLine(RegressionTasks):
    """Each task is with equal chances y = A sin(x - p) or y = a x + b; judged by mean squared error.

    A ~ U[0.1, 5], p ~ U[0, pi], a ~ U[-3, 3], b ~ U[-3, 3] and x ~ U[-5, 5]. Few points may fit both.
    Train, val and test draw from the same distribution, as independent streams.

    Args:
        shots: support points of a task, >= 1.
        queries: query points of a task, >= 1.
        noise: standard deviation of Gaussian noise on all targets, >= 0.
        train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Raises:
        ConfigError: a size is not a whole number of at least 1, or `noise` is negative.

    Example:
        >>> support, query = SinusoidAndLine(shots=5, queries=10).sample("test", 3, 0)
        >>> support.x.shape, query.y.shape
        (torch.Size([3, 5, 1]), torch.Size([3, 10, 1]))

    The ranges are those of torchmeta's code, where every second task of a data set is a line; here each
    task is tossed for on its own, so that it does not depend on how many there are.

    Reference: Finn, Xu and Levine 2018 (Probabilistic MAML), arXiv 1806.02817.
    """

    def __init__(
        self,
        shots: int = 5,
        queries: int = 15,
        *,
        noise: float = 0.0,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_sizes(shots=shots, queries=queries, train_shots=train_shots, train_queries=train_queries)
        self._set_disturbance(noise=noise)

    def _targets(self, keys: Keys, x: Values) -> Values:
        coin, first, second = np.split(uniform(keys, 3), 3, axis=1)
        wave = (0.1 + 4.9 * first) * np.sin(x - np.pi * second)
        line = (-3.0 + 6.0 * first) * x + (-3.0 + 6.0 * second)
        return np.where(coin < 0.5, wave, line)

    @classmethod
    def tiny(cls) -> Self:
        """Few points a task; the distribution itself needs no data."""
        return cls(shots=4, queries=6)
