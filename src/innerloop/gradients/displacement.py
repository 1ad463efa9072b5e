"""Reptile's direction: how far adaptation moved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.compiled import settings
from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.mode import running_in
from innerloop.core.types import Episode, Meta, Tree
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, shaped_like, weighted_sum
from innerloop.gradients.chain import as_episodes, as_tree


@dataclass(frozen=True)
class Displacement(MetaGradient):
    """`meta - adapted`, so that an outer step of SGD with rate eps moves eps of the way.

    Nichol et al. 2018 (arXiv 1803.02999). The query set takes no part in it; its loss is recorded.
    """

    exact = False

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        def moved(meta: Meta, episodes: Tree, keys: Tensor, weights: Tree) -> dict[str, Tree]:
            def one_task(episode: Episode, key: Tensor) -> dict[str, Tree]:
                with running_in(training=True, first_order=True, key=key):
                    fast = adapt(learner, meta, episode.support, learner.inner_steps)
                    loss, gathered = learner.query_loss(meta, fast, episode.query)
                after = learned(learner.displaced(meta, fast))
                moves = tree.map(lambda old, new: old - new, learned(meta), after)
                return {"moves": moves, "loss": loss, "statistics": gathered}

            with torch.no_grad():
                found = lift(one_task)(as_episodes(episodes), keys)
                factors = weights.get("tasks")
                return found | {"moves": tree.map(lambda m: weighted_sum(m, factors), found["moves"])}

        key = ("displacement", settings(learner))
        weights = {} if tasks.weights is None else {"tasks": tasks.weights}
        found = tasks.run(moved, key, meta, as_tree(tasks.episodes), tasks.keys, weights)
        return Estimate(shaped_like(meta, found["moves"]), found["loss"], found["statistics"])

    def passes(self, steps: int) -> float:
        return 3.0 * steps

    def memory(self, steps: int, params: int, activations: int) -> float:
        return float(2 * params + 2 * activations)
