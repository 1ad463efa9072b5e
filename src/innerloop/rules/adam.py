"""Adam, differentiable everywhere."""

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
    more_weight,
    no_weight,
    root,
    squared,
)


@dataclass(frozen=True)
class Adam:
    """Adam, equal to `torch.optim.Adam` step by step.

        g = grads + weight_decay * params
        m = beta1 * m + (1 - beta1) * g;  v = beta2 * v + (1 - beta2) * g^2
        params - lr * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    Args:
        lr: step size, > 0.
        beta1, beta2: decay of the two moments, in [0, 1).
        eps: added to the root of the second moment, > 0.
        weight_decay: factor of the squared norm, >= 0, which passes through the moments; see `AdamW`.

    Each number may be a tensor without axes or a dict of tensors by parameter name, and is then learned.

    Reference: Kingma and Ba 2015, arXiv 1412.6980.

    >>> import torch
    >>> rule, params = Adam(lr=0.1), {"w": torch.tensor([1.0, 1.0])}
    >>> rule.step({"w": torch.tensor([2.0, -0.01])}, rule.init(params), params)[0]["w"]
    tensor([0.9000, 1.1000])
    """

    lr: Hyper
    _: KW_ONLY
    beta1: Hyper = 0.9
    beta2: Hyper = 0.999
    eps: Hyper = 1e-8
    weight_decay: Hyper = 0.0

    def __post_init__(self) -> None:
        check_hyper("inner_lr", self.lr, open_low=True)
        check_hyper("beta1", self.beta1, high=BELOW_ONE)
        check_hyper("beta2", self.beta2, high=BELOW_ONE)
        check_hyper("eps", self.eps, open_low=True)
        check_hyper("weight_decay", self.weight_decay)

    def init(self, params: Params) -> Tree:
        return {
            "m": tree.zeros_like(params),
            "v": tree.zeros_like(params),
            "unbias1": no_weight(self.beta1, params),
            "unbias2": no_weight(self.beta2, params),
        }

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        grads = decayed(grads, params, self.weight_decay)
        m = averaged(self.beta1, state["m"], grads)
        v = averaged(self.beta2, state["v"], squared(grads))
        unbias1 = more_weight(self.beta1, state["unbias1"])
        unbias2 = more_weight(self.beta2, state["unbias2"])
        new = {}
        for n, p in params.items():
            scale = root(v[n] / at(unbias2, n)) + at(self.eps, n)
            new[n] = p - at(self.lr, n) * (m[n] / at(unbias1, n)) / scale
        return new, {"m": m, "v": v, "unbias1": unbias1, "unbias2": unbias2}
