"""Curves drawn from a Gaussian process: regression tasks whose best possible prediction is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Self, final

import numpy as np
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError, DataError, check_range, unknown
from innerloop.core.rng import Keys, fold, normal, uniform
from innerloop.core.types import Batch
from innerloop.tasks.regression import TargetTasks, Values

KernelName = Literal["Matern12", "Matern52", "RBF"]

#: Correlation of two points by their distance in length scales.
_KERNELS: dict[str, Callable[[Values], Values]] = {
    "Matern12": lambda d: np.exp(-d),
    "Matern52": lambda d: (1.0 + 5**0.5 * d + 5.0 / 3.0 * d**2) * np.exp(-(5**0.5) * d),
    "RBF": lambda d: np.exp(-0.5 * d**2),
}


@final
class GaussianProcessCurves(TargetTasks):
    """y ~ N(0, K + noise^2 I), with K_ij = output_scale^2 k(|x_i - x_j| / length_scale) and x uniform.

    Support and query of a task are points of one curve. What any learner could know of a task is its
    exact posterior (`posterior`), so a prediction can be compared with the best there is.
    Train, val and test draw from the same distribution, as independent streams.

    Args:
        shots: support points of a task, >= 1.
        queries: query points of a task, >= 1.
        kernel: `RBF` (smooth), `Matern52` (twice differentiable) or `Matern12` (rough).
        length_scale: distance over which a curve changes, > 0.
        output_scale: standard deviation of a curve at any point, > 0.
        noise: standard deviation of the noise on every observation; at least 1e-5 of `output_scale`, below
            which a covariance of smooth curves is singular in floating point.
        x_low, x_high: inputs are uniform on [x_low, x_high).
        train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Raises:
        ConfigError: a size is not a whole number of at least 1, or a scale is out of its range.

    Example:
        >>> tasks = GaussianProcessCurves(shots=10, queries=50)
        >>> support, query = tasks.sample("test", 3, 0)
        >>> mean, sd = tasks.posterior(support, query.x)
        >>> mean.shape, sd.shape
        (torch.Size([3, 50, 1]), torch.Size([3, 50, 1]))

    Reference: Rasmussen and Williams 2006, *Gaussian Processes for Machine Learning*, chapter 2. As tasks
    for a meta-learner: Garnelo et al. 2018, *Conditional Neural Processes*, arXiv 1807.01613.
    """

    def __init__(
        self,
        shots: int = 10,
        queries: int = 15,
        *,
        kernel: KernelName = "RBF",
        length_scale: float = 0.4,
        output_scale: float = 1.0,
        noise: float = 0.1,
        x_low: float = -2.0,
        x_high: float = 2.0,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_sizes(shots=shots, queries=queries, train_shots=train_shots, train_queries=train_queries)
        if kernel not in _KERNELS:
            raise unknown("kernel", str(kernel), _KERNELS)
        for name, scale in (("length_scale", length_scale), ("output_scale", output_scale)):
            check_range(name, scale, low=0.0, open_low=True)
        check_range("noise", noise, low=1e-5 * output_scale)
        for name, end in (("x_low", x_low), ("x_high", x_high)):
            check_range(name, end)
        if x_low >= x_high:
            raise ConfigError(
                f"x_low = {x_low!r}, x_high = {x_high!r}", expected="x_low < x_high", do="swap them"
            )
        self.kernel: str = kernel
        self.length_scale, self.output_scale, self.noise = length_scale, output_scale, noise
        self.x_low, self.x_high = x_low, x_high

    def posterior(self, support: Batch, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the support tells of an observation at each x: mean and standard deviation, noise included.

        Args:
            support: points of one task, x and y [S, 1], or of stacked tasks, [T, S, 1].
            x: where to predict, [Q, 1] or [T, Q, 1].

        Returns:
            Mean and standard deviation, both shaped like `x`: exactly those of the process.

        Raises:
            DataError: the shapes do not fit each other.
        """
        fits = support.x.shape == support.y.shape and x.shape[:-2] == support.x.shape[:-2]
        if not fits or x.ndim < 2 or not x.shape[-1] == support.x.shape[-1] == 1:
            shapes = [tuple(values.shape) for values in (support.x, support.y, x)]
            raise DataError(
                f"support x {shapes[0]}, support y {shapes[1]}, x {shapes[2]}",
                expected="[S, 1], [S, 1] and [Q, 1], or all three with the same task axis in front",
                do="reshape them",
            )
        given, seen, asked = (t.detach().cpu().double().numpy()[..., 0] for t in (*support, x))
        between = self._covariance(asked, given)
        solved = np.linalg.solve(
            self._observed(given), np.concatenate([seen[..., None], between.swapaxes(-1, -2)], -1)
        )
        mean, explained = between @ solved[..., :1], (between.swapaxes(-1, -2) * solved[..., 1:]).sum(-2)
        unexplained = np.maximum(self.output_scale**2 - explained, 0.0)  # below zero by rounding alone
        sd = np.sqrt(unexplained + self.noise**2)[..., None]
        return torch.from_numpy(mean).to(x), torch.from_numpy(sd).to(x)

    def _examples(self, keys: Keys, shots: int, queries: int) -> tuple[Values, Values]:
        x = uniform(fold(keys, 0), shots + queries, self.x_low, self.x_high)
        # A triangular factor: the first points of a curve are the same however many follow.
        factor = np.linalg.cholesky(self._observed(x))
        y = factor @ normal(fold(keys, 1), shots + queries)[..., None]
        return x[..., None], y

    def _covariance(self, a: Values, b: Values) -> Values:
        """Of the curve at points [..., n] and [..., m]."""
        distance = np.abs(a[..., :, None] - b[..., None, :]) / self.length_scale
        return self.output_scale**2 * _KERNELS[self.kernel](distance)

    def _observed(self, x: Values) -> Values:
        """The covariance of observations at points [..., n]."""
        return self._covariance(x, x) + self.noise**2 * np.eye(x.shape[-1])

    @classmethod
    def tiny(cls) -> Self:
        """Few points a task; the distribution itself needs no data."""
        return cls(shots=4, queries=6)
