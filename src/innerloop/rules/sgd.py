"""Gradient descent."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Tree
from innerloop.rules.base import Params
from innerloop.rules.shared import BELOW_ONE, Hyper, at, check_hyper, decayed, is_off, moved


@dataclass(frozen=True)
class SGD:
    """Gradient descent, equal to `torch.optim.SGD` step by step.

        g = grads + weight_decay * params;  b = momentum * b + g;  params - lr * b

    or, with Nesterov's momentum, params - lr * (g + momentum * b).

    Args:
        lr: step size, > 0.
        momentum: how much of the last direction is kept, in [0, 1); at 0 there is no state.
        weight_decay: factor of the squared norm, >= 0.
        nesterov: look ahead along the momentum, which must then be > 0.

    Each number may be a tensor without axes or a dict of tensors by parameter name, and is then learned.

    Reference: Sutskever, Martens, Dahl and Hinton 2013 (ICML, PMLR 28) for both momenta.

    >>> import torch
    >>> params, grads = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    >>> rule = SGD(lr=0.1)
    >>> rule.step(grads, rule.init(params), params)
    ({'w': tensor([0.8000])}, {})

    A rate that is learned, such as `SGD(lr=meta["lr"])` inside a learner's step:

    >>> lr = torch.tensor(0.1, requires_grad=True)
    >>> torch.autograd.grad(SGD(lr).step(grads, {}, params)[0]["w"], lr)
    (tensor(-2.),)
    """

    lr: Hyper
    _: KW_ONLY
    momentum: Hyper = 0.0
    weight_decay: Hyper = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_hyper("inner_lr", self.lr, open_low=True)
        check_hyper("momentum", self.momentum, high=BELOW_ONE)
        check_hyper("weight_decay", self.weight_decay)
        if self.nesterov and is_off(self.momentum):
            raise ConfigError(
                "nesterov without momentum", expected="momentum > 0", do="set momentum, such as 0.9"
            )

    def init(self, params: Params) -> Tree:
        return {} if is_off(self.momentum) else {"momentum": tree.zeros_like(params)}

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        direction = grads = decayed(grads, params, self.weight_decay)
        if not is_off(self.momentum):
            kept = {n: at(self.momentum, n) * b + grads[n] for n, b in state["momentum"].items()}
            direction, state = kept, {"momentum": kept}
            if self.nesterov:
                direction = {n: grads[n] + at(self.momentum, n) * b for n, b in kept.items()}
        return {n: moved(p, direction[n], at(self.lr, n)) for n, p in params.items()}, state
