"""Adam, differentiable everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.core.errors import check_range
from innerloop.core.types import Tree
from innerloop.rules.base import Params


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980), equal to `torch.optim.Adam` step by step.

    The square root's derivative at zero is infinite, so a parameter whose gradient is exactly
    zero (a dead unit) would turn every meta-gradient into NaN; here its derivative is zero.

    Args:
        lr: step size, > 0.
        beta1, beta2: decay of the two moments, in [0, 1).
        eps: added to the root of the second moment, > 0.
    """

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_range("inner_lr", self.lr, low=0.0, open_low=True)
        check_range("eps", self.eps, low=0.0, open_low=True)
        for name in ("beta1", "beta2"):
            check_range(name, getattr(self, name), low=0.0, high=1.0 - 1e-9)

    def init(self, params: Params) -> Tree:
        first = next(iter(params.values()))
        return {
            "count": torch.zeros((), dtype=first.dtype, device=first.device),
            "m": {name: torch.zeros_like(p) for name, p in params.items()},
            "v": {name: torch.zeros_like(p) for name, p in params.items()},
        }

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        count = state["count"] + 1
        m = {n: self.beta1 * state["m"][n] + (1 - self.beta1) * g for n, g in grads.items()}
        v = {n: self.beta2 * state["v"][n] + (1 - self.beta2) * g * g for n, g in grads.items()}
        unbias1, unbias2 = 1 - self.beta1**count, 1 - self.beta2**count
        new = {
            n: p - self.lr * (m[n] / unbias1) / (_root(v[n] / unbias2) + self.eps) for n, p in params.items()
        }
        return new, {"count": count, "m": m, "v": v}


def _root(v: Tensor) -> Tensor:
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, torch.ones_like(v)).sqrt(), torch.zeros_like(v))
