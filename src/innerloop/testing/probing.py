"""How the questions look at a learner: its gradients, its predictions, its objective, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import MetaLearner, adapt, outer_weights, states
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Batch, Episode, Fast, Meta
from innerloop.core.vectorise import TasksAxis, num_tasks, take
from innerloop.gradients import MetaGradient, Record, Unrolled

KEY = 7  # the source of randomness of every estimate here


def estimate(
    learner: Any,
    meta: Meta,
    episodes: Episode,
    *,
    axis: TasksAxis = "vmap",
    gradient: MetaGradient | None = None,
    key: int = KEY,
) -> tuple[Meta, Record]:
    """The meta-gradient and the record of some tasks, by the learner's own path unless another is given."""
    path = gradient or getattr(learner, "gradient", None) or Unrolled()
    grads, _, record = path.estimate(learner, meta, episodes, key=key, axis=axis)
    return grads, record


def inner_keys(count: int, key: int = KEY) -> Tensor:
    """The keys of that many tasks, int64 [count]."""
    return tensor_keys(key, count, torch.device("cpu"))


def mean_query_loss(learner: MetaLearner, meta: Meta, episodes: Episode, key: int = KEY) -> float:
    """The outer objective, one task after another, without any outer derivative."""
    count = num_tasks(episodes)
    total = 0.0
    for i, task_key in enumerate(inner_keys(count, key)):
        episode = take(episodes, i)
        ways = count_ways(episodes.support.y)
        with torch.no_grad(), running_in(training=True, key=task_key, ways=ways):
            reached = states(learner, meta, episode.support, learner.inner_steps)
            for weight, fast in zip(outer_weights(learner), reached, strict=True):
                if weight:
                    total += float(weight * learner.query_loss(meta, fast, episode.query)[0])
    return total / count


def adapted(learner: MetaLearner, meta: Meta, support: Batch, steps: int | None = None) -> Fast:
    """One task's state after its inner loop, as in evaluation."""
    usual = getattr(learner, "test_inner_steps", learner.inner_steps)
    with torch.no_grad(), running_in(ways=count_ways(support.y), first_order=True):
        return adapt(learner, meta, support, usual if steps is None else steps)


def predictions(learner: MetaLearner, meta: Meta, episode: Episode, steps: int | None = None) -> Tensor:
    """Outputs for one task's queries, as in evaluation."""
    fast = adapted(learner, meta, episode.support, steps)
    with torch.no_grad(), running_in(ways=count_ways(episode.support.y), first_order=True):
        return learner.predict(meta, fast, episode.query.x)


def deviation(a: Any, b: Any) -> float:
    """The largest difference between two trees."""
    pairs = zip(tree.leaves(a), tree.leaves(b), strict=True)
    return max((float((x - y).abs().max()) for x, y in pairs if x.numel()), default=0.0)


def close(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    """Raise `AssertionError` unless two trees of one shape agree."""
    assert tree.flatten(a).keys() == tree.flatten(b).keys()
    found = deviation(a, b)
    assert found <= tolerance, f"differ by {found:.3g} > {tolerance:g}"
