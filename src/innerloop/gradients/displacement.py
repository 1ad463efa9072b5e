"""Reptile's direction: how far adaptation moved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.mode import running_in
from innerloop.core.types import Episode, Meta, Tree
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, with_statistics


@dataclass(frozen=True)
class Displacement(MetaGradient):
    """`meta - adapted`, so that an outer step of SGD with rate eps moves eps of the way.

    Nichol et al. 2018 (arXiv 1803.02999). The query set takes no part in it; its loss is recorded.
    """

    exact = False

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        def one_task(episode: Episode, key: Tensor) -> tuple[Meta, Tensor, Tree]:
            with running_in(training=True, first_order=True, key=key):
                fast = adapt(learner, meta, episode.support, learner.inner_steps)
                loss, gathered = learner.query_loss(meta, fast, episode.query)
            moved = learned(learner.displaced(meta, fast))
            return tree.map(lambda before, after: before - after, learned(meta), moved), loss, gathered

        with torch.no_grad():
            moves, losses, statistics = lift(one_task)(tasks.episodes, tasks.keys)
            grads = tree.map(lambda move: move.sum(0), moves)
        return Estimate(with_statistics(grads, meta), losses, statistics)

    def passes(self, steps: int) -> float:
        return 3.0 * steps

    def memory(self, steps: int, params: int, activations: int) -> float:
        return float(2 * params + 2 * activations)
