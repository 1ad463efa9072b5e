"""Reptile: move towards where ordinary training on each task ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from innerloop.algorithms.base import GradientLearner
from innerloop.core.errors import check_count, unknown
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Loss
from innerloop.gradients import Displacement
from innerloop.rules import SGD, Adam, UpdateRule

_RULES: dict[str, Callable[[float, float], UpdateRule]] = {
    "Adam": lambda lr, beta2: Adam(lr, beta1=0.0, beta2=beta2),
    "SGD": lambda lr, _: SGD(lr),
}


class Reptile(GradientLearner):
    """Moves the initialisation towards the weights at which training on each task ends.

    Inner loop: phi_{k+1} = rule(phi_k, grad L_B(phi_k)) on minibatches B of the support; the rule is
    Adam with beta1 = 0, or SGD.
    Outer direction: theta - phi_K, so that an outer SGD step of rate eps is theta + eps (phi_K - theta).
    Meta-learned: theta. Adapted: all of it. The query set takes no part in training.

    Cost per inner step: one forward and backward pass on a minibatch; no second derivatives.

    Strengths: the simplest, for large models and long inner loops: it needs neither a query set nor a graph
    of the inner loop. Behind MAML where a task has a single example a class.
    Published: Omniglot 5-way 1-shot 95.39 +- 0.09, 5-way 5-shot 98.90 +- 0.10, 20-way 1-shot 88.14 +- 0.15,
    20-way 5-shot 96.65 +- 0.33; miniImageNet 5-way 1-shot 47.07 +- 0.26, 5-way 5-shot 62.74 +- 0.37 (the
    paper, tables 1 and 2, without transduction).

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: inner step size, > 0. The paper: 1e-3, with Adam.
        inner_steps: steps in training, >= 1 to learn anything. The paper: 5 on Omniglot 5-way.
        test_inner_steps: steps at test; None is the same number. The paper: 50.
        inner_batch: support examples of a step, drawn anew for each; None takes them all. The paper: 10.
        inner_rule: `Adam`, as in the paper, or `SGD`, which needs a rate some hundred times larger.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        beta2: decay of Adam's second moment.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`.

    Train it with an outer SGD, a rate of 1 that falls linearly to 0, and more shots than at test
    (`train_shots=10` on Omniglot).

    >>> import innerloop as il
    >>> il.algorithms.Reptile(il.models.MLP(1, 1), inner_steps=5, loss="mse").gradient.exact
    False

    Differences from the paper: the official code keeps Adam's second moment from one task to the
    next; here each task starts with a fresh one, so that tasks do not depend on their order. A fresh Adam
    makes steps of one size whatever the gradient; on short schedules SGD learns much faster.
    Minibatches are drawn afresh for each step, without passing through the support set in turn.

    Reference: Nichol, Achiam and Schulman 2018, arXiv 1803.02999.
    """

    gradient = Displacement()
    small = {"inner_lr": 0.1, "inner_steps": 5, "inner_rule": "SGD"}

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 1e-3,
        inner_steps: int = 5,
        test_inner_steps: int | None = None,
        inner_batch: int | None = None,
        inner_rule: Literal["Adam", "SGD"] = "Adam",
        inner_clip: float | None = None,
        beta2: float = 0.999,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            inner_clip=inner_clip,
            loss=loss,
            batch_norm=batch_norm,
        )
        if inner_batch is not None:
            check_count("inner_batch", inner_batch, low=1)
        if inner_rule not in _RULES:
            raise unknown("inner_rule", str(inner_rule), _RULES)
        self.inner_batch, self.inner_rule, self.beta2 = inner_batch, inner_rule, beta2
        self.rule = _RULES[inner_rule](inner_lr, beta2)
