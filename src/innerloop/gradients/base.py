"""What obtains the outer gradient, and what it records of every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import STATISTICS, MetaLearner
from innerloop.core.outcome import Outcome
from innerloop.core.rng import task_keys
from innerloop.core.types import Episode, Meta, Tree
from innerloop.core.vectorise import TasksAxis, num_tasks, take

Carry = Any


@dataclass(frozen=True)
class Record:
    """What a meta-step says of its tasks.

    Attributes:
        losses: query loss of each task after adaptation [T], also where it is not finite.
        outcomes: what became of each task; tasks that are not `ok` are left out of the gradient.
        statistics: running statistics gathered on the way, averaged over tasks; often empty.
    """

    losses: Tensor
    outcomes: list[Outcome]
    statistics: Tree

    @property
    def loss(self) -> float:
        """Mean query loss over the tasks that adapted; NaN if none did."""
        kept = self.losses[self.kept]
        return float(kept.mean()) if kept.numel() else float("nan")

    @property
    def kept(self) -> list[int]:
        return [i for i, outcome in enumerate(self.outcomes) if outcome.ok]

    @property
    def mostly_failed(self) -> bool:
        return 2 * len(self.kept) < len(self.outcomes)


@dataclass(frozen=True)
class Estimate:
    """One evaluation over some tasks: the sum of their meta-gradients, losses [T], statistics [T, ...]."""

    grads: Meta
    losses: Tensor
    statistics: Tree


class MetaGradient(ABC):
    """Obtains the meta-gradient of the mean query loss over many tasks.

    Attributes:
        exact: whether it is the true gradient of the outer objective.
    """

    exact: bool

    @abstractmethod
    def summed(self, learner: MetaLearner, meta: Meta, tasks: Tasks) -> Estimate:
        """The summed gradient and the losses of some tasks, whatever becomes of them."""

    def estimate(
        self,
        learner: MetaLearner,
        meta: Meta,
        episodes: Episode,
        carry: Carry = None,
        *,
        key: int = 0,
        axis: TasksAxis = "auto",
    ) -> tuple[Meta, Carry, Record]:
        """Mean meta-gradient over the tasks whose inner loop stayed finite.

        Args:
            episodes: stacked tasks, each leaf [T, ...].
            carry: state between outer steps; None for the estimators that keep none.
            key: source of the randomness inside inner steps (see `core.rng.key`).
            axis: how tasks are lifted.

        Returns:
            Gradients shaped like `meta` (zero for running statistics), the carry, the record.
        """
        count = num_tasks(episodes)
        keys = torch.from_numpy((task_keys(key, count) >> 1).astype("int64")).to(episodes.support.x.device)
        tasks = Tasks(episodes, keys, axis)
        found = self.summed(learner, meta, tasks)
        outcomes = [Outcome.FINITE] * count
        kept = found
        if not (bool(torch.isfinite(found.losses).all()) and tree.is_finite(found.grads)):
            outcomes = self._outcomes(learner, meta, tasks, found.losses)
            good = torch.tensor([o.ok for o in outcomes], device=found.losses.device)
            # A NaN survives a product with zero: the mean must be computed again without the task.
            kept = self.summed(learner, meta, tasks.only(good)) if bool(good.any()) else None
        if kept is None:
            return tree.zeros_like(meta), carry, Record(found.losses, outcomes, {})
        size = len(kept.losses)
        statistics = tree.map(lambda s: s.mean(0), kept.statistics)
        return tree.map(lambda g: g / size, kept.grads), carry, Record(found.losses, outcomes, statistics)

    def _outcomes(self, learner: MetaLearner, meta: Meta, tasks: Tasks, losses: Tensor) -> list[Outcome]:
        """Judge each task alone, so that one cannot hide behind another."""
        found = []
        for i, loss in enumerate(losses):
            if not bool(torch.isfinite(loss)):
                found.append(Outcome.NONFINITE_LOSS)
                continue
            alone = self.summed(learner, meta, tasks.only(torch.tensor([i], device=losses.device)))
            found.append(Outcome.FINITE if tree.is_finite(alone.grads) else Outcome.NONFINITE_GRADIENT)
        return found


@dataclass(frozen=True)
class Tasks:
    """Stacked episodes, the key of each task [T], and the way to lift them."""

    episodes: Episode
    keys: Tensor
    axis: TasksAxis

    def only(self, which: Tensor) -> Tasks:
        return Tasks(take(self.episodes, which), self.keys[which], self.axis)


def learned(meta: Meta) -> Meta:
    """The part of `meta` that the outer gradient is taken with respect to."""
    return {name: node for name, node in meta.items() if name != STATISTICS}


def with_statistics(grads: Meta, meta: Meta) -> Meta:
    """Gradients of the learned part, shaped like the whole `meta`."""
    rest = {STATISTICS: tree.zeros_like(meta[STATISTICS])} if STATISTICS in meta else {}
    return grads | rest
