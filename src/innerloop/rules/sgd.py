"""Gradient descent."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.core.errors import check_range
from innerloop.core.types import Tree
from innerloop.rules.base import Params


@dataclass(frozen=True)
class SGD:
    """`params - lr * grads`.

    Args:
        lr: step size, > 0.

    >>> import torch
    >>> rule, params = SGD(lr=0.1), {"w": torch.tensor([1.0])}
    >>> rule.step({"w": torch.tensor([2.0])}, rule.init(params), params)[0]["w"]
    tensor([0.8000])
    """

    lr: float

    def __post_init__(self) -> None:
        check_range("inner_lr", self.lr, low=0.0, open_low=True)

    def init(self, params: Params) -> Tree:
        return {}

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        return {name: p - self.lr * grads[name] for name, p in params.items()}, state
