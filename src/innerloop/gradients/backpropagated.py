"""Backpropagation through the inner loop: exact when unrolled, or with inner gradients held constant."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import STATISTICS, MetaLearner, adapt
from innerloop.core.mode import count_ways, running_in
from innerloop.core.types import Episode, Meta, Tree
from innerloop.core.vectorise import parts, take
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, with_statistics


class Backpropagated(MetaGradient, ABC):
    """One plain backward pass through all inner steps, which frees the graph as it goes.

    The inner gradients are taken with `torch.func`, tasks are lifted from outside, and the outer
    gradient is an ordinary backward pass: it needs about a third of the memory of an outer
    `torch.func.grad`, which would keep the whole graph.
    """

    first_order: bool

    def summed(self, learner: MetaLearner, meta: Meta, tasks: Tasks) -> Estimate:
        inputs = tree.map(lambda leaf: leaf.detach().requires_grad_(), learned(meta))
        leaves = tree.leaves(inputs)
        whole = inputs | ({STATISTICS: meta[STATISTICS]} if STATISTICS in meta else {})

        # Without inner steps there is no second derivative, so the faster first-order operators will do.
        first_order = self.first_order or learner.inner_steps == 0

        def one_task(episode: Episode, key: Tensor) -> tuple[Tensor, Tree]:
            with running_in(training=True, first_order=first_order, key=key):
                fast = adapt(learner, whole, episode.support, learner.inner_steps)
                return learner.query_loss(whole, fast, episode.query)

        total: list[Tensor] = [torch.zeros_like(leaf) for leaf in leaves]
        losses: list[Tensor] = []
        statistics: list[Tree] = []
        with torch.enable_grad(), running_in(ways=count_ways(tasks.episodes.support.y)):
            for part, lift in parts(tasks.episodes, tasks.axis, learner):
                loss, gathered = lift(one_task)(take(tasks.episodes, part), tasks.keys[part])
                grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
                total = [t if g is None else t + g for t, g in zip(total, grads, strict=True)]
                losses.append(loss.detach())
                statistics.append(gathered)
        grads = with_statistics(tree.rebuild(inputs, total), meta)
        joined = tree.map(lambda *leaves: torch.cat(leaves), statistics[0], *statistics[1:])
        return Estimate(grads, torch.cat(losses), joined)


class Unrolled(Backpropagated):
    """The exact meta-gradient, by backpropagation through every inner step.

    Memory grows with the number of inner steps: all their graphs are kept until the backward pass.
    """

    exact = True
    first_order = False


class FirstOrder(Backpropagated):
    """Inner gradients as constants: FOMAML's gradient, the query gradient at the adapted point.

    Finn et al. 2017 (arXiv 1703.03400), section 5.2. Whatever else `meta` holds (learned rates)
    still gets its gradient; only second derivatives are dropped.
    """

    exact = False
    first_order = True
