"""What of the tasks' losses an outer step descends on: which tasks count, how much, and by which gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.losses import trivial_loss
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import TasksAxis, num_tasks, over_tasks
from innerloop.gradients import FirstOrder
from innerloop.gradients.base import MetaGradient
from innerloop.training.config import ObjectiveConfig

_LEAST = 0.01  # of the median trivial loss of the tasks at hand: the least that a loss is divided by


def gradient_at(gradient: MetaGradient, objective: ObjectiveConfig, progress: float) -> MetaGradient:
    """The path of a run at a point of its training."""
    return FirstOrder() if progress < objective.first_order_until else gradient


def task_weights(
    learner: MetaLearner,
    meta: Meta,
    episodes: Episode,
    objective: ObjectiveConfig,
    *,
    keep: int,
    key: int,
    axis: TasksAxis,
) -> Tensor | None:
    """The weight of each task's gradient [T]: zero for those that are not trained on; None is one for all.

    Args:
        episodes: the candidates [T, ...].
        keep: how many of them a curriculum keeps.
        key: source of the randomness inside inner steps, as the meta-gradient has it.
        axis: how tasks are lifted.
    """
    scales = inverse_trivial(learner, episodes) if objective.normalise else None
    if num_tasks(episodes) <= keep and objective.worst == 1.0:
        return scales
    losses = adapted_losses(learner, meta, episodes, key=key, axis=axis)
    scales = torch.ones_like(losses) if scales is None else scales.to(losses.dtype)
    return scales * chosen(losses * scales, keep=keep, worst=objective.worst)


def inverse_trivial(learner: MetaLearner, episodes: Episode) -> Tensor:
    """One over the loss of each task for the best predictor that ignores inputs [T].

    A task whose targets do not vary at all would count without bound: a loss is divided by a hundredth of the
    median at least, and by one where no task has targets that vary.
    """
    ways = count_ways(episodes.support.y)
    trivial = over_tasks(lambda episode: trivial_loss(learner.loss, episode, ways), episodes, axis="vmap")
    varying = trivial[trivial > 0]
    if not len(varying):
        return torch.ones_like(trivial)
    return 1.0 / torch.maximum(trivial, _LEAST * varying.median())


def adapted_losses(
    learner: MetaLearner, meta: Meta, episodes: Episode, *, key: int, axis: TasksAxis
) -> Tensor:
    """The query loss of each task after adaptation [T], as the meta-gradient will find it."""

    def one_task(episode: Episode, key: Tensor) -> Tensor:
        with running_in(training=True, first_order=True, key=key):
            fast = adapt(learner, meta, episode.support, learner.inner_steps)
            return learner.query_loss(meta, fast, episode.query)[0]

    keys = tensor_keys(key, num_tasks(episodes), episodes.support.x.device)
    with torch.no_grad(), running_in(ways=count_ways(episodes.support.y)):
        return over_tasks(one_task, episodes, keys, axis=axis, owner=learner)


def chosen(losses: Tensor, *, keep: int, worst: float) -> Tensor:
    """One for the tasks that are trained on, zero for the others: of the easiest `keep`, the worst share.

    Tasks that failed are the last to be chosen; where most failed there is no choice, and the step tells so.

    >>> chosen(torch.tensor([3.0, 1.0, 2.0, 9.0]), keep=3, worst=0.7)
    tensor([1., 0., 1., 0.])
    """
    finite = torch.isfinite(losses)
    if 2 * int(finite.sum()) < len(losses):
        return torch.ones_like(losses)
    easiest = torch.where(finite, losses, torch.inf).argsort(stable=True)[:keep]
    easiest = easiest[finite[easiest]]
    count = min(len(easiest), max(1, round(worst * keep)))
    weights = torch.zeros_like(losses)
    weights[easiest[len(easiest) - count :]] = 1.0
    return weights
