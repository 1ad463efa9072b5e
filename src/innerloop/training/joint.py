"""The gradient of ordinary multi-task learning: the unadapted model on all examples of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.compiled import settings
from innerloop.core.learner import MetaLearner
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode, Meta, Tree
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, shaped_like, weighted_sum
from innerloop.gradients.chain import as_episodes, as_tree, inputs_of, pulled


@dataclass(frozen=True)
class Joint(MetaGradient):
    """The gradient of the mean loss on support and query together, before any inner step.

    Caruana 1997 (Machine Learning 28), with one model for all tasks; `MAML` without inner steps is the same
    on queries alone. It says something where one model can be right on all tasks to begin with: not where
    labels are permuted from task to task.
    """

    exact = False

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        def pulled_back(meta: Meta, episodes: Tree, keys: Tensor, weights: Tree) -> dict[str, Any]:
            whole, leaves = inputs_of(meta)

            def one_task(episode: Episode, key: Tensor) -> dict[str, Any]:
                with running_in(training=True, first_order=True, key=key):
                    fast = learner.begin(whole, episode.support)
                    loss, statistics = learner.query_loss(whole, fast, pooled(episode))
                return {"loss": loss, "statistics": statistics}

            with torch.enable_grad():
                found = lift(one_task)(as_episodes(episodes), keys)
                total = weighted_sum(found["loss"], weights.get("tasks"))
            grads = pulled([total], [torch.ones_like(total)], leaves)
            filled = [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads, strict=True)]
            kept = tree.map(torch.Tensor.detach, found)
            return kept | {"grads": tree.rebuild(learned(meta), filled)}

        weights = {} if tasks.weights is None else {"tasks": tasks.weights}
        key = ("joint", settings(learner))
        found = tasks.run(pulled_back, key, meta, as_tree(tasks.episodes), tasks.keys, weights)
        return Estimate(shaped_like(meta, found["grads"]), found["loss"], found["statistics"])

    def passes(self, steps: int) -> float:
        return 3.0

    def memory(self, steps: int, params: int, activations: int) -> float:
        return float(params + 2 * activations)


def pooled(episode: Episode) -> Batch:
    """Support and query of one task as one batch."""
    support, query = episode
    return Batch(torch.cat([support.x, query.x]), torch.cat([support.y, query.y]))
