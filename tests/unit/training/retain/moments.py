"""Outer steps as remedies see them, on tasks whose meta-gradients have a closed form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import num_tasks
from innerloop.gradients import Unrolled
from innerloop.training.retain.base import Moment, Remedy
from unit.measure.settings import on_bowls

LEARNER, META, EPISODES = on_bowls()


def at(*theta: float) -> Meta:
    """The meta-parameters of the model on bowls."""
    return {"params": {"head.weight": torch.tensor([theta], dtype=torch.float64)}}


def flat(meta: Meta) -> Tensor:
    """All numbers of a tree."""
    return torch.cat([leaf.flatten() for leaf in tree.leaves(meta)])


def zeros() -> Meta:
    return tree.zeros_like(META)


def moment(
    meta: Meta,
    tasks: Episode = EPISODES,
    *,
    learner: MetaLearner = LEARNER,
    key: int = 7,
    seen: Callable[[Episode], Any] = lambda episodes: None,
) -> Moment:
    """A step at `meta`; `seen` is told of what gradients are asked for."""

    def gradient(episodes: Episode) -> Meta:
        seen(episodes)
        return Unrolled().estimate(learner, meta, episodes, axis="vmap", key=key)[0]

    return Moment(learner, meta, gradient, tasks, [0] * num_tasks(tasks), key)


def force(remedy: Remedy, meta: Meta, tasks: Episode = EPISODES) -> Tensor:
    """What a remedy adds to a gradient."""
    return flat(remedy.changed(tree.zeros_like(meta), moment(meta, tasks)))


def same_after_a_checkpoint(remedy: Remedy, fresh: Remedy) -> Remedy:
    """`fresh` with what `remedy` would have written down, which is bitwise the same again."""
    kept = {path: leaf.clone() for path, leaf in remedy.tensors().items()}
    fresh.restore({path: kept[path] for path in sorted(kept)}, remedy.values())  # files have their own order
    again = fresh.tensors()
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[path], leaf) for path, leaf in kept.items())
    assert fresh.values() == remedy.values()
    return fresh
