"""Adagrad, differentiable everywhere."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch

from innerloop.core.types import Tree
from innerloop.rules.base import Params
from innerloop.rules.shared import Hyper, at, check_hyper, decayed, root


@dataclass(frozen=True)
class Adagrad:
    """Gradients over the root of all their squares so far, equal to `torch.optim.Adagrad` step by step.

        g = grads + weight_decay * params;  s = s + g^2
        params - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Args:
        lr: step size, > 0.
        lr_decay: how fast it falls from step to step, >= 0.
        weight_decay: factor of the squared norm, >= 0.
        initial_accumulator_value: s before the first step, >= 0.
        eps: added to the root of s, > 0.

    Each number may be a tensor without axes or a dict of tensors by parameter name, and is then learned.

    Reference: Duchi, Hazan and Singer 2011 (JMLR 12).

    >>> import torch
    >>> rule, params = Adagrad(lr=0.1, initial_accumulator_value=9.0), {"w": torch.tensor([1.0])}
    >>> rule.step({"w": torch.tensor([4.0])}, rule.init(params), params)[0]["w"]
    tensor([0.9200])
    """

    lr: Hyper
    _: KW_ONLY
    lr_decay: Hyper = 0.0
    weight_decay: Hyper = 0.0
    initial_accumulator_value: Hyper = 0.0
    eps: Hyper = 1e-10

    def __post_init__(self) -> None:
        check_hyper("inner_lr", self.lr, open_low=True)
        check_hyper("lr_decay", self.lr_decay)
        check_hyper("weight_decay", self.weight_decay)
        check_hyper("initial_accumulator_value", self.initial_accumulator_value)
        check_hyper("eps", self.eps, open_low=True)

    def init(self, params: Params) -> Tree:
        start = self.initial_accumulator_value
        return {
            "count": next(iter(params.values())).new_zeros(()),
            "sum": {n: torch.zeros_like(p) + at(start, n) for n, p in params.items()},
        }

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        grads = decayed(grads, params, self.weight_decay)
        total = {n: s + grads[n] * grads[n] for n, s in state["sum"].items()}
        new = {}
        for n, p in params.items():
            lr = at(self.lr, n) / (1 + state["count"] * at(self.lr_decay, n))
            new[n] = p - lr * grads[n] / (root(total[n]) + at(self.eps, n))
        return new, {"count": state["count"] + 1, "sum": total}
