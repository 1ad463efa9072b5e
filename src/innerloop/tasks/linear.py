"""Straight lines of random slope and intercept: the smallest regression tasks that can be checked by hand."""

from __future__ import annotations

from typing import Self, final

from innerloop.core.rng import Keys, uniform
from innerloop.tasks.regression import RegressionTasks, Values


@final
class Linear(RegressionTasks):
    """y = a x + b, with a ~ U[-2, 2], b ~ U[-2, 2] and x ~ U[-5, 5]; judged by mean squared error.

    Train, val and test draw from the same distribution, as independent streams.

    Args:
        shots: support points of a task, >= 1.
        queries: query points of a task, >= 1.
        train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Raises:
        ConfigError: a size is not a whole number of at least 1.

    Example:
        Five points of y = x + 1. A straight line (an MLP without hidden layers), meta-trained on such
        tasks, adapts to them and predicts the sixth.

        >>> import torch, innerloop as il
        >>> line = il.models.MLP(1, 1, hidden=())
        >>> learner = il.algorithms.MAML(line, inner_lr=0.05, inner_steps=5, loss="mse")
        >>> run = il.train(learner, Linear(), steps=20)
        >>> model = run.adapt([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 3.0, 4.0, 5.0, 6.0], inner_steps=500)
        >>> round(model.predict([6.0]).item(), 2)
        7.0

        Tasks drawn at random have the same shapes, and each lies on one line.

        >>> drawn = Linear(shots=5, queries=2).sample("train", 4, 0).support
        >>> drawn.x.shape, drawn.y.shape
        (torch.Size([4, 5, 1]), torch.Size([4, 5, 1]))
        >>> slopes = (drawn.y[:, 1:] - drawn.y[:, :-1]) / (drawn.x[:, 1:] - drawn.x[:, :-1])
        >>> bool(torch.allclose(slopes, slopes[:, :1].expand_as(slopes), atol=1e-2))
        True
    """

    def __init__(
        self,
        shots: int = 5,
        queries: int = 15,
        *,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_sizes(shots=shots, queries=queries, train_shots=train_shots, train_queries=train_queries)

    def _targets(self, keys: Keys, x: Values) -> Values:
        drawn = uniform(keys, 2, -2.0, 2.0)
        return drawn[:, :1] * x + drawn[:, 1:]

    @classmethod
    def tiny(cls) -> Self:
        """Few points a task; the distribution itself needs no data."""
        return cls(shots=4, queries=6)
