"""La-MAML's direction: learned rates move first, and then scale how the weights move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.errors import ContractError, check_range
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import TasksAxis
from innerloop.gradients.base import Carry, Record
from innerloop.gradients.sweep import Sweep


@dataclass(frozen=True)
class Asynchronous(Sweep):
    """The way that La-MAML's outer step goes, which an outer step of SGD with rate 1 takes whole.

    With the exact gradients g of the objective with respect to the weights theta and their rates a,

        a' = a - rate_lr * g_a;   theta' = theta - max(0, a') * g_theta

    and the result is `meta` less that. The rates are `meta["rates"]`, one for each number of the weights.
    Gupta et al. 2020 (arXiv 2007.13904), algorithm 1.

    Args:
        rate_lr: step size of the rates, > 0.
        first_order: whether inner gradients are constants, as in the official code's experiments on MNIST.
    """

    rate_lr: float = 0.3
    first_order: bool = False
    exact = False

    def __post_init__(self) -> None:
        check_range("rate_lr", self.rate_lr, low=0.0, open_low=True)

    def estimate(
        self,
        learner: MetaLearner,
        meta: Meta,
        episodes: Episode,
        carry: Carry = None,
        *,
        weights: Tensor | None = None,
        key: int = 0,
        axis: TasksAxis = "auto",
        compile: bool = False,
    ) -> tuple[Meta, Carry, Record]:
        params, rates = meta.get("params", {}), meta.get("rates", {})
        if {n: p.shape for n, p in params.items()} != {n: a.shape for n, a in tree.flatten(rates).items()}:
            raise ContractError(
                f"gradient Asynchronous with {type(learner).__name__}, which has no rates for its weights",
                expected="meta['rates'] shaped like meta['params']",
                do="use it with LaMAML or MetaSGD, or another gradient",
            )
        grads, carry, record = super().estimate(
            learner, meta, episodes, carry, weights=weights, key=key, axis=axis, compile=compile
        )
        moves = tree.map(lambda g: self.rate_lr * g, grads["rates"])
        after = tree.map(lambda a, move: torch.relu(a - move), rates, moves)
        scaled = tree.map(lambda a, g: a * g, after, grads["params"])
        return grads | {"rates": moves, "params": scaled}, carry, record
