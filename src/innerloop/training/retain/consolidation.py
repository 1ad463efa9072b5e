"""Elastic weight consolidation: what the tasks of a stage depend on stays where it was."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.types import Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.gradients.base import learned
from innerloop.training.retain.anchor import added, copied
from innerloop.training.retain.base import Moment, Remedy


@final
class Consolidation(Remedy):
    """Half the sum over stages of F (theta - anchor)^2, times `weight`, F the mean squared meta-gradient of
    a task.

    A sum of quadratics is one quadratic, so that two trees are enough for any number of stages: the sum of
    F, and the sum of F times its anchor. With `decay` it is the online form: the sum decays, and its anchor
    is the last.

    Args:
        weight: lambda.
        decay: gamma, in [0, 1]; None for an anchor a stage.
    """

    def __init__(self, weight: float, decay: float | None = None) -> None:
        self.weight, self.decay = weight, decay
        self._information: Meta | None = None
        self._pull: Meta | None = None

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        if self._information is None or self._pull is None:
            return grads
        force = tree.map(
            lambda f, p, now: self.weight * (f * now - p), self._information, self._pull, learned(moment.meta)
        )
        return added(grads, force)

    def stage_ended(self, moment: Moment) -> None:
        here, now = information(moment), copied(learned(moment.meta))
        if self._information is None or self._pull is None:
            self._information = here
        else:
            kept = 1.0 if self.decay is None else self.decay
            self._information = tree.map(lambda old, new: kept * old + new, self._information, here)
        if self.decay is None and self._pull is not None:
            self._pull = tree.map(lambda p, f, at: p + f * at, self._pull, here, now)
        else:
            self._pull = tree.map(lambda f, at: f * at, self._information, now)

    def tensors(self) -> dict[str, Tensor]:
        if self._information is None:
            return {}
        return tree.flatten(self._information, "information") | tree.flatten(self._pull, "pull")

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        found = tree.unflatten(tensors) if tensors else {}
        self._information, self._pull = found.get("information"), found.get("pull")


def information(moment: Moment) -> Meta:
    """The diagonal of the empirical Fisher information: the mean square of single tasks' meta-gradients."""
    total: Meta | None = None
    count = num_tasks(moment.tasks)
    for i in range(count):
        grads = learned(moment.gradient(take(moment.tasks, slice(i, i + 1))))
        squares = tree.map(torch.square, grads)
        total = squares if total is None else tree.map(torch.add, total, squares)
    return tree.map(lambda leaf: leaf / count, total)
