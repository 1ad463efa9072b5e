"""Random quadratics: the first problems that optimizers were learned on."""

from __future__ import annotations

import copy
from typing import Literal, Self, final

import numpy as np
import torch
from numpy.typing import NDArray

from innerloop.core.errors import ConfigError, check_count, unknown
from innerloop.core.rng import Keys, Rng, fold, normal, uniform
from innerloop.core.types import Batch, Episode, Split, TaskSpec
from innerloop.tasks.episodes import split_keys

_VARIANTS = ("paper", "code")


@final
class Quadratics:
    """Problems f(theta) = |W theta - y|^2 with W [dim, dim] and y [dim], for a linear model without bias.

    An example is a row of W with its entry of y, so that the mean squared error of a linear model theta
    is f. The mean over `dim` rows is the sum because W and y are given times sqrt(dim). A problem is its own
    test: support and query are the same rows. Train, val and test draw from the same distribution, as
    independent streams.

    Args:
        dim: number of coordinates, >= 1.
        variant: `paper` draws W and y from N(0, 1), `code` (the official one) from U[0, 1): these are
            different problems, the second of which has one direction much steeper than the others.

    Raises:
        ConfigError: `dim` is not a whole number of at least 1, or the variant is unknown.

    Example:
        >>> import torch
        >>> theta = torch.nn.Linear(10, 1, bias=False)
        >>> support, query = Quadratics().sample("test", 3, 0)
        >>> f = (theta(support.x[0]) - support.y[0]).square().mean()
        >>> w, y = support.x[0] / 10**0.5, support.y[0] / 10**0.5
        >>> torch.testing.assert_close(f, (w @ theta.weight.T - y).square().sum())

    Reference: Andrychowicz et al. 2016, arXiv 1606.04474, section 3.1.
    """

    #: A task's query is its support.
    own_test = True

    def __init__(self, dim: int = 10, *, variant: Literal["paper", "code"] = "paper") -> None:
        self.dim = check_count("dim", dim)
        if variant not in _VARIANTS:
            raise unknown("variant", str(variant), _VARIANTS)
        self.variant: Literal["paper", "code"] = variant

    @property
    def spec(self) -> TaskSpec:
        return TaskSpec((self.dim,), 1, "mse", "mse", shots=self.dim, queries=self.dim)

    def sample(self, split: Split, num_tasks: int, rng: Rng) -> Episode:
        """Problems of a split: x float32 [T, dim, dim], y [T, dim, 1]; problem i does not depend on T."""
        keys = split_keys(split, num_tasks, rng)
        rows = self._drawn(keys, self.dim * (self.dim + 1)).reshape(num_tasks, self.dim, self.dim + 1)
        scaled = torch.from_numpy((np.sqrt(self.dim) * rows).astype(np.float32))
        batch = Batch(scaled[..., :-1].contiguous(), scaled[..., -1:].contiguous())
        return Episode(batch, batch)

    def _drawn(self, keys: Keys, n: int) -> NDArray[np.float64]:
        return normal(fold(keys, 0), n) if self.variant == "paper" else uniform(fold(keys, 0), n)

    def pooled(self, num_batches: int, rng: Rng) -> Episode:
        """Training problems: without classes there is nothing else to pool."""
        return self.sample("train", num_batches, rng)

    def resized(
        self, *, ways: int | None = None, shots: int | None = None, queries: int | None = None
    ) -> Self:
        """The same source: a problem of another size is another `dim`.

        Raises:
            ConfigError: a size is given that it does not have.
        """
        if ways is not None or {shots, queries} - {None, self.dim}:
            raise ConfigError(
                f"ways = {ways}, shots = {shots}, queries = {queries} for Quadratics({self.dim})",
                expected="no ways, and no other sizes: a problem has as many rows as dimensions",
                do="set dim",
            )
        return copy.copy(self)

    @classmethod
    def tiny(cls) -> Self:
        """Three dimensions; the distribution itself needs no data."""
        return cls(dim=3)
