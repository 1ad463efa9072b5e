"""Averaged gradient episodic memory: no step that raises the loss on remembered tasks."""

from __future__ import annotations

from typing import final

import torch

from innerloop.core import tree
from innerloop.core.rng import key
from innerloop.core.types import Meta
from innerloop.core.vectorise import num_tasks
from innerloop.gradients.base import learned
from innerloop.training.retain.anchor import added
from innerloop.training.retain.base import Moment, Remedy
from innerloop.training.retain.memory import TaskMemory


@final
class Projection(Remedy):
    """Takes the part of the meta-gradient out that points against that of as many remembered tasks."""

    def __init__(self, memory: TaskMemory) -> None:
        self._memory = memory

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        place = key(moment.key, "project")  # other tasks than those that are replayed at this step
        remembered = self._memory.drawn(num_tasks(moment.tasks), place)
        if remembered is None:
            return grads
        return projected(grads, moment.gradient(remembered[0]))


def projected(grads: Meta, reference: Meta) -> Meta:
    """g - (<g, r> / |r|^2) r where <g, r> < 0, and g otherwise."""
    ours, theirs = tree.leaves(learned(grads)), tree.leaves(learned(reference))
    inner = torch.stack([(a * b).sum() for a, b in zip(ours, theirs, strict=True)]).sum()
    if not bool(inner < 0):
        return grads
    size = torch.stack([leaf.square().sum() for leaf in theirs]).sum()
    return added(grads, tree.map(lambda r: -(inner / size) * r, learned(reference)))
