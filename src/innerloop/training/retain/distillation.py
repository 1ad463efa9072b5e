"""Learning without forgetting: what the last anchor predicts, after adapting as well, is a second target."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import num_tasks, over_tasks
from innerloop.training.retain.anchor import copied
from innerloop.training.retain.base import Moment, Remedy


@final
class Distillation(Remedy):
    """The meta-gradient of the same tasks with the anchor's predictions for labels, times `weight`."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._teacher: Meta | None = None

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        if self._teacher is None:
            return grads
        more = moment.gradient(relabelled(moment.learner, self._teacher, moment.tasks, moment.key))
        return tree.map(lambda g, m: g + self.weight * m, grads, more)

    def stage_ended(self, moment: Moment) -> None:
        self.anchored(moment.meta)

    def anchored(self, meta: Meta) -> None:
        self._teacher = copied(meta)

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._teacher is None else tree.flatten(self._teacher)

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._teacher = tree.unflatten(tensors) if tensors else None


def relabelled(learner: MetaLearner, teacher: Meta, tasks: Episode, key: int) -> Episode:
    """The tasks with the teacher's predictions for query labels: probabilities [T, Q, ways], or targets."""

    def one_task(episode: Episode, key: Tensor) -> Tensor:
        with running_in(training=False, first_order=True, key=key):
            fast = adapt(learner, teacher, episode.support, learner.inner_steps)
            return learner.predict(teacher, fast, episode.query.x)

    keys = tensor_keys(key, num_tasks(tasks), tasks.support.x.device)
    with torch.no_grad(), running_in(ways=count_ways(tasks.support.y)):
        outputs = over_tasks(one_task, tasks, keys, axis="auto", owner=learner)
    soft = outputs.softmax(-1) if learner.loss == "cross_entropy" else outputs
    return Episode(tasks.support, Batch(tasks.query.x, soft.detach()))
