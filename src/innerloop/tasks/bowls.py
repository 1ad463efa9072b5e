"""Quadratic bowls: tasks on which everything that meta-learning computes has a closed form."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError, check_range
from innerloop.core.rng import Rng, fold, normal
from innerloop.core.types import Batch, Episode, Split, TaskSpec
from innerloop.tasks.episodes import split_keys


@final
class Bowls:
    """Tasks L(theta) = 1/2 sum_i h_i (theta_i - c_i)^2 with curvatures h and centres c ~ N(centre, spread^2).

    They are regression tasks for a linear model without bias: row i of the inputs has sqrt(d h_i / 2) on the
    diagonal, its target is that times c_i, and the mean squared error of the d rows is L. Support and query
    are the same rows, so a task is its own test. Train, val and test draw from the same distribution, as
    independent streams.

    Gradient descent with rate a moves each coordinate for itself, so with A = (1 - a h)^N all is known: the
    adapted parameters, the meta-loss and its gradient, exact and first-order, the largest curvature, the
    derivative of the adapted parameters, and the loss that no initialisation undercuts. `descent` gives them:
    what measures a training is held against them.

    Args:
        curvatures: h, one number for each coordinate, > 0; the largest decides which inner rates are stable.
        centre: mean of the tasks' centres, the same in every coordinate: the best initialisation.
        spread: standard deviation of the centres, >= 0; 0 makes all tasks one.

    Raises:
        ConfigError: there is no curvature, or one is not positive, or the spread is negative.

    Example:
        >>> import torch
        >>> bowls = Bowls((0.5, 2.0))
        >>> support, query = bowls.sample("train", 1, 0)
        >>> theta = torch.tensor([1.0, -1.0])
        >>> away = theta - bowls.centres(Episode(support, query))[0]
        >>> loss = (support.x[0] @ theta - support.y[0, :, 0]).square().mean()
        >>> torch.testing.assert_close(loss.double(), 0.25 * away[0] ** 2 + 1.0 * away[1] ** 2)

    Reference: closed forms of MAML on quadratics as in Fallah, Mokhtari and Ozdaglar 2020, arXiv 1908.10400.
    """

    #: A task's query is its support.
    own_test = True

    def __init__(
        self, curvatures: tuple[float, ...] = (0.1, 0.5, 1.0), *, centre: float = 0.0, spread: float = 1.0
    ) -> None:
        if not curvatures:
            raise ConfigError("no curvatures", expected="one number or more", do="give curvatures")
        for curvature in curvatures:
            check_range("curvatures", curvature, low=0.0, open_low=True)
        check_range("centre", centre)
        check_range("spread", spread, low=0.0)
        self.curvatures = tuple(float(curvature) for curvature in curvatures)
        self.centre, self.spread = centre, spread

    @property
    def spec(self) -> TaskSpec:
        size = len(self.curvatures)
        return TaskSpec((size,), 1, "mse", "mse", shots=size, queries=size)

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Tasks of a split: x float32 [T, d, d], y [T, d, 1]; task i does not depend on T."""
        size = len(self.curvatures)
        keys = split_keys(split, num_tasks, rng)
        centres = self.centre + self.spread * normal(fold(keys, 0), size)
        scale = np.sqrt(0.5 * size * np.array(self.curvatures))
        x = torch.from_numpy(np.diag(scale).astype(np.float32)).repeat(num_tasks, 1, 1)
        y = torch.from_numpy((scale * centres).astype(np.float32))[..., None]
        batch = Batch(x, y)
        return Episode(batch, batch)

    def pooled(self, num_batches: int, rng: Rng) -> Episode:
        """Training tasks: without classes there is nothing else to pool."""
        return self.sample("train", num_batches, rng)

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same source: a task has as many rows as there are curvatures.

        Raises:
            ConfigError: a size is given that it does not have.
        """
        if ways is not None or {shots, queries} - {None, len(self.curvatures)}:
            raise ConfigError(
                f"ways = {ways}, shots = {shots}, queries = {queries} for {len(self.curvatures)} curvatures",
                expected="no ways, and no other sizes: a task has as many rows as curvatures",
                do="set curvatures",
            )
        return copy.copy(self)

    @classmethod
    def tiny(cls) -> Self:
        """Three curvatures; the distribution itself needs no data."""
        return cls()

    def centres(self, episodes: Episode) -> Tensor:
        """The centres [T, d] of some `episodes`, float64, read from their rows."""
        x, y = episodes.support
        return y[..., 0].double() / x.double().diagonal(dim1=-2, dim2=-1)

    def descent(self, inner_lr: float, inner_steps: int) -> Descent:
        """What `inner_steps` of gradient descent with rate `inner_lr` do to these tasks, in closed form."""
        curvatures = torch.tensor(self.curvatures, dtype=torch.float64)
        return Descent(curvatures, self.centre, self.spread, inner_lr, inner_steps)


@final
@dataclass(frozen=True)
class Descent:
    """Gradient descent on bowls in closed form, in float64: theta is [d] or [T, d], centres are [T, d].

    Attributes:
        curvatures: h [d].
        centre, spread: mean and standard deviation of the tasks' centres.
        inner_lr: the rate a.
        inner_steps: the number of steps N.
    """

    curvatures: Tensor
    centre: float
    spread: float
    inner_lr: float
    inner_steps: int

    @property
    def contraction(self) -> Tensor:
        """A = (1 - a h)^N [d]: the share of its distance to the centre that each coordinate keeps."""
        return self.contraction_of(self.inner_steps)

    def contraction_of(self, steps: int) -> Tensor:
        """The same for another number of `steps`."""
        return (1 - self.inner_lr * self.curvatures) ** steps

    def adapted(self, theta: Tensor, centres: Tensor) -> Tensor:
        """Parameters [T, d] that descent from theta reaches: theta - (1 - A) (theta - c), c the `centres`."""
        return theta - (1 - self.contraction) * (theta - centres)

    def meta_losses(self, theta: Tensor, centres: Tensor) -> Tensor:
        """The loss [T] of each task after adaptation: 1/2 sum h A^2 (theta - c)^2, c the `centres`."""
        away = self.adapted(theta, centres) - centres
        return 0.5 * (self.curvatures * away.square()).sum(-1)

    def expected_meta_loss(self, theta: Tensor) -> float:
        """The meta-loss of `theta` over all tasks: that of a task at the mean centre, plus the floor."""
        middle = torch.full_like(self.curvatures, self.centre)
        return float(self.meta_losses(theta, middle)) + self.floor

    def meta_gradients(self, theta: Tensor, centres: Tensor, *, first_order: bool = False) -> Tensor:
        """Each task's gradient [T, d], A h A (theta - c), c of `centres`; one A less if `first_order`."""
        slope = self.curvatures * self.contraction * (theta - centres)
        return slope if first_order else self.contraction * slope

    @property
    def curvature(self) -> float:
        """a max h: descent is stable below 2."""
        return self.inner_lr * float(self.curvatures.max())

    @property
    def sensitivity(self) -> float:
        """The largest singular value of the derivative of the adapted parameters by theta: max |A|."""
        return float(self.contraction.abs().max())

    @property
    def floor(self) -> float:
        """The meta-loss of the best initialisation, 1/2 tr(A H A S): what the spread S of tasks leaves."""
        return 0.5 * self.spread**2 * float((self.curvatures * self.contraction.square()).sum())
