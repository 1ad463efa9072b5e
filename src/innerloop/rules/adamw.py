"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from innerloop.core.types import Tree
from innerloop.rules.adam import Adam
from innerloop.rules.base import Params
from innerloop.rules.shared import Hyper, at, check_hyper


@dataclass(frozen=True)
class AdamW:
    """Adam whose weight decay does not pass through the moments, equal to `torch.optim.AdamW`.

    Adam's step without weight decay, taken from (1 - lr * weight_decay) * params.

    Args:
        lr: step size, > 0.
        beta1, beta2: decay of the two moments, in [0, 1).
        eps: added to the root of the second moment, > 0.
        weight_decay: share of the parameters, times `lr`, that a step takes away, >= 0.

    Each number may be a tensor without axes or a dict of tensors by parameter name, and is then learned.

    Reference: Loshchilov and Hutter 2019, arXiv 1711.05101.

    >>> import torch
    >>> rule, params = AdamW(lr=0.1, weight_decay=0.5), {"w": torch.tensor([1.0, 1.0])}
    >>> rule.step({"w": torch.tensor([2.0, 0.0])}, rule.init(params), params)[0]["w"]
    tensor([0.8500, 0.9500])
    """

    lr: Hyper
    _: KW_ONLY
    beta1: Hyper = 0.9
    beta2: Hyper = 0.999
    eps: Hyper = 1e-8
    weight_decay: Hyper = 1e-2

    def __post_init__(self) -> None:
        check_hyper("weight_decay", self.weight_decay)
        self._adam()  # checks the rest

    def init(self, params: Params) -> Tree:
        return self._adam().init(params)

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        shrunk = {n: p * (1 - at(self.lr, n) * at(self.weight_decay, n)) for n, p in params.items()}
        return self._adam().step(grads, state, shrunk)

    def _adam(self) -> Adam:
        return Adam(self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
