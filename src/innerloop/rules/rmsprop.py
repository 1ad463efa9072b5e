"""RMSprop, differentiable everywhere."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from innerloop.core import tree
from innerloop.core.types import Tree
from innerloop.rules.base import Params
from innerloop.rules.shared import (
    BELOW_ONE,
    Hyper,
    at,
    averaged,
    check_hyper,
    decayed,
    is_off,
    root,
    squared,
)


@dataclass(frozen=True)
class RMSprop:
    """Gradients over the root of their mean square, equal to `torch.optim.RMSprop` step by step.

        g = grads + weight_decay * params;  v = alpha * v + (1 - alpha) * g^2
        b = momentum * b + g / (sqrt(v) + eps);  params - lr * b

    Args:
        lr: step size, > 0.
        alpha: decay of the mean square, in [0, 1).
        eps: added to its root, > 0.
        momentum: how much of the last direction is kept, in [0, 1).
        weight_decay: factor of the squared norm, >= 0.
        centered: take the variance, v less the squared moving average of g, instead of v.

    Each number may be a tensor without axes or a dict of tensors by parameter name, and is then learned.

    Reference: Tieleman and Hinton 2012 (Coursera, lecture 6.5); centered: Graves 2013, arXiv 1308.0850.

    >>> import torch
    >>> rule, params = RMSprop(lr=0.1, alpha=0.75), {"w": torch.tensor([1.0, 1.0])}
    >>> rule.step({"w": torch.tensor([2.0, -0.01])}, rule.init(params), params)[0]["w"]
    tensor([0.8000, 1.2000])
    """

    lr: Hyper
    _: KW_ONLY
    alpha: Hyper = 0.99
    eps: Hyper = 1e-8
    momentum: Hyper = 0.0
    weight_decay: Hyper = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        check_hyper("inner_lr", self.lr, open_low=True)
        check_hyper("alpha", self.alpha, high=BELOW_ONE)
        check_hyper("eps", self.eps, open_low=True)
        check_hyper("momentum", self.momentum, high=BELOW_ONE)
        check_hyper("weight_decay", self.weight_decay)

    def init(self, params: Params) -> Tree:
        kept = ["v"] + ["mean"] * self.centered + ["momentum"] * (not is_off(self.momentum))
        return {what: tree.zeros_like(params) for what in kept}

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        grads = decayed(grads, params, self.weight_decay)
        spread = v = averaged(self.alpha, state["v"], squared(grads))
        after = {"v": v}
        if self.centered:
            mean = after["mean"] = averaged(self.alpha, state["mean"], grads)
            spread = {n: v[n] - mean[n] * mean[n] for n in v}
        direction = {n: g / (root(spread[n]) + at(self.eps, n)) for n, g in grads.items()}
        if not is_off(self.momentum):
            kept = state["momentum"]
            direction = {n: at(self.momentum, n) * kept[n] + d for n, d in direction.items()}
            after["momentum"] = direction
        return {n: p - at(self.lr, n) * direction[n] for n, p in params.items()}, after
