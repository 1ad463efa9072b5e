"""La-MAML: rates that are learned online, so that no weight is moved that old tasks need."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from innerloop.algorithms.base import GradientLearner
from innerloop.algorithms.trajectory import turn
from innerloop.core import tree
from innerloop.core.errors import check_count
from innerloop.core.functional import BatchNormPolicy
from innerloop.core.types import Batch, Fast, Loss, Meta
from innerloop.gradients import Asynchronous
from innerloop.rules import SGD, UpdateRule


class LaMAML(GradientLearner):
    """Learns a rate for every weight while it learns, from how a step on new examples does on old ones.

    Inner loop, along the support in its order, a few examples B_k a step:

        phi_{k+1} = phi_k - max(0, a) * grad L(phi_k, B_k),   from phi_0 = theta

    Outer objective: the query loss, the mean over the states after each step. With examples of old classes
    beside new ones in the query, a rate grows where the two agree and shrinks to nothing where they do not.
    Outer step: the rates first, and then the weights by the new rates (`Asynchronous`).
    Meta-learned: theta, and a rate `a` for every number in it. Adapted: all of theta.

    Cost per inner step: as MAML's on so few examples, and a forward and backward pass on the query. `meta` is
    twice as large.

    Strengths: one network on a stream of tasks that are seen once, with a small memory to replay. Train it
    with `--optimizer.name SGD --optimizer.lr 1`, which takes the outer step as it is.
    Published: none verified.

    Args:
        module: any `nn.Module` from [S, ...] to [S, outputs]; pretrained weights are kept.
        inner_lr: where every rate begins, > 0. The official code: 0.15 on MNIST, 0.1 on CIFAR.
        inner_steps: steps in training, >= 0; as many as the support has batches are one pass over it.
        test_inner_steps: steps at test; None is the same number.
        inner_batch: examples a step, >= 1.
        inner_clip: bound on the norm of an inner gradient over all that adapts, > 0; None is none.
        step_weights: the outer objective as weights of the query loss after each inner step; None is an equal
            share of each.
        loss: `cross_entropy` or `mse`.
        batch_norm: `support`, `transductive` or `running`; see `core.functional.FunctionalModule`. A step's
            examples are normalised by themselves, so BatchNorm needs more than one.

    >>> import torch, innerloop as il
    >>> learner = il.algorithms.LaMAML(il.models.MLP(1, 1, hidden=(4,)), inner_steps=2, loss="mse")
    >>> learner.init(torch.Generator().manual_seed(0))["rates"]["head.bias"]
    tensor([0.1500])
    >>> learner.objective_weights()
    (0.5, 0.5)

    Differences from the paper: inner gradients are clipped where `inner_clip` says so; the official code
    computes clipped ones and drops them. Rates below zero stand still, as in the paper and the official code;
    Avalanche's port leaves max(0, a) out. Outer gradients are bounded after they are scaled by the rates
    (`--optimizer.clip_norm`), there before. Several `glances` at a batch are several outer steps on it, which
    need a source that repeats it. There the query is the new batch and examples from a memory, as with
    `ClassIncrementalOmniglot`; tasks that `--retain.replay` brings back adapt to supports of their own, so
    that rates do not learn from what a step on a new task does to them. With `--gradient Unrolled` it is Sync
    La-MAML.

    Reference: Gupta, Yadav and Paull 2020, arXiv 2007.13904.
    """

    ordered = True
    steps_alike = False
    gradient = Asynchronous()
    small = {"inner_lr": 0.3, "inner_steps": 3}

    def __init__(
        self,
        module: nn.Module,
        *,
        inner_lr: float = 0.15,
        inner_steps: int = 10,
        test_inner_steps: int | None = None,
        inner_batch: int = 1,
        inner_clip: float | None = None,
        step_weights: tuple[float, ...] | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormPolicy = "support",
    ) -> None:
        super().__init__(
            module,
            inner_lr=inner_lr,
            inner_steps=inner_steps,
            test_inner_steps=test_inner_steps,
            inner_clip=inner_clip,
            step_weights=step_weights,
            loss=loss,
            batch_norm=batch_norm,
        )
        self.inner_batch = check_count("inner_batch", inner_batch)

    def init(self, rng: torch.Generator) -> Meta:
        meta = super().init(rng)
        return meta | {"rates": tree.map(lambda leaf: torch.full_like(leaf, self.inner_lr), meta["params"])}

    def objective_weights(self) -> Sequence[float | Tensor] | None:
        """`step_weights`, or an equal share of each step."""
        if self.step_weights is not None or not self.inner_steps:
            return self.step_weights
        return (1.0 / self.inner_steps,) * self.inner_steps

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        rows = turn(len(support.y), k, self.inner_batch or 1)
        return super().step(meta, fast, Batch(support.x[rows], support.y[rows]), k)

    def rule_at(self, meta: Meta) -> UpdateRule:
        return SGD(lr={name: torch.relu(rate) for name, rate in meta["rates"].items()})
