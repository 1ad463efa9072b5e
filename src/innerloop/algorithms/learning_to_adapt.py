"""Learning to adapt (GrBAL): a model of dynamics, fitted anew at every moment to what just happened."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner
from innerloop.core import tree
from innerloop.core.errors import unknown
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Meta
from innerloop.gradients import Unrolled
from innerloop.rules import SGD, UpdateRule

Rates = Literal["shared", "layer", "fixed"]


class LearningToAdapt(GradientLearner):
    """Learns a prior over dynamics, and how far to move from it on the last transitions.

    A task is a stretch of a trajectory: the support its first M transitions, the query the K after them.
    With a Gaussian likelihood of fixed variance, -log p is the squared error but for constants:

        phi_0 = theta;   phi_{k+1} = phi_k - a * grad mean over the last M of |f(x, phi_k) - y|^2

    Outer objective: the same error on the next K transitions, differentiated through the steps.
    Meta-learned: theta, and the rate a. Adapted: all of theta.

    Cost per inner step: as MAML's: one forward and backward pass on M transitions, in training the backward
    pass of both. Online, that is the price of every moment.

    Strengths: for systems whose physics change while they run, and are smooth from one moment to the next;
    where they never change, a model without adaptation does as well and costs nothing.
    Published: none verified.

    Args:
        module: any `nn.Module` from (state, action) [S, I] to a change of state [S, F].
        inner_lr: the rate at first, > 0. The official code: 0.01.
        inner_steps: steps in training, >= 0. The paper: 1; 0 is an ordinary model of the dynamics.
        test_inner_steps: steps at test; None is the same number.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        rates: `shared`, the paper's one learned step size; `layer`, one for each parameter tensor; `fixed`,
            as in the official code, which does not learn it.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    `innerloop.training.online` adapts it along a trajectory, and plans with it.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.LearningToAdapt(il.models.MLP(3, 2))
    >>> meta = learner.init(torch.Generator().manual_seed(0))
    >>> meta["rates"]
    {'all': tensor(0.0100)}
    >>> il.meta_gradient(learner, meta, il.tasks.Cart().sample("train", 4, 0))[1].losses.shape
    torch.Size([4])

    Differences from the paper: trajectories come from tasks, not from the controller that is being trained.

    Reference: Nagabandi, Clavera, Liu, Fearing, Abbeel, Levine and Finn 2019, arXiv 1803.11347.
    """

    solves = ("mse",)
    gradient = Unrolled()

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.01,
        inner_steps: int = 1,
        test_inner_steps: int | None = None,
        inner_clip: float | None = None,
        rates: Rates = "shared",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            inner_clip=inner_clip,
            loss="mse",
            batch_norm=batch_norm,
        )
        if rates not in get_args(Rates):
            raise unknown("rates", str(rates), get_args(Rates))
        self.rates: Rates = rates

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        if self.rates == "fixed":
            return meta

        def rate(leaf: Tensor) -> Tensor:
            return torch.full((), self.inner_lr, dtype=leaf.dtype)

        params = meta["params"]
        each = tree.map(rate, params if self.rates == "layer" else {"all": next(iter(params.values()))})
        return meta | {"rates": each}

    def rule_at(self, meta: Meta) -> UpdateRule:
        if self.rates == "fixed":
            return self.rule
        return SGD(lr=meta["rates"] if self.rates == "layer" else meta["rates"]["all"])
