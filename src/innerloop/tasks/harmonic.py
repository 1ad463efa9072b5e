"""Two harmonics of a fast wave, each task seen around a place of its own."""

from __future__ import annotations

from typing import Self, final

import numpy as np

from innerloop.core.rng import Keys, fold, normal, uniform
from innerloop.tasks.regression import RegressionTasks, Values


@final
class Harmonic(RegressionTasks):
    """y = a1 sin(w x + b1) + a2 sin(2 w x + b2), seen around one place; judged by mean squared error.

    a1, a2 ~ N(0, 1), b1, b2 ~ U[0, 2 pi], w ~ U[5, 7], and x ~ N(m, 1) with m ~ U[-4, 4]. Train, val and
    test draw from the same distribution, as independent streams.

    Args:
        shots: support points of a task, >= 1. Five unknowns and a place: the default of 10 is ours.
        queries: query points of a task, >= 1.
        noise: standard deviation of Gaussian noise on all targets, >= 0.
        train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Raises:
        ConfigError: a size is not a whole number of at least 1, or `noise` is negative.

    Example:
        >>> support, query = Harmonic(shots=10, queries=15).sample("test", 3, 0)
        >>> support.x.shape, query.y.shape
        (torch.Size([3, 10, 1]), torch.Size([3, 15, 1]))

    The equation and its ranges are those of torchmeta's code (its page gives the range of w to the
    amplitudes).

    Reference: Lacoste, Oreshkin, Chung, Boquet, Rostamzadeh and Krueger 2018, arXiv 1806.07528.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 15,
        *,
        noise: float = 0.0,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_sizes(shots=shots, queries=queries, train_shots=train_shots, train_queries=train_queries)
        self._set_disturbance(noise=noise)

    def _inputs(self, keys: Keys, num: int) -> Values:
        place = -4.0 + 8.0 * uniform(keys, 1)
        return place + normal(fold(keys, 0), num)

    def _targets(self, keys: Keys, x: Values) -> Values:
        drawn = uniform(keys, 4)
        frequency = 5.0 + 2.0 * drawn[:, 1:2]
        phases = 2.0 * np.pi * drawn[:, 2:]
        amplitudes = normal(fold(keys, 4), 2)
        angles = np.stack([frequency * x, 2.0 * frequency * x]) + phases.T[..., None]
        return (amplitudes.T[..., None] * np.sin(angles)).sum(0)

    @classmethod
    def tiny(cls) -> Self:
        """Few points a task; the distribution itself needs no data."""
        return cls(shots=4, queries=6)
