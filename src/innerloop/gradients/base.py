"""What obtains the outer gradient, and what it records of every task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.compiled import compiler_of, eagerly
from innerloop.core.learner import FROZEN, MEMORY, STATISTICS, MetaLearner, without_memory
from innerloop.core.mode import count_ways, running_in
from innerloop.core.outcome import Outcome
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Episode, Meta, Tree
from innerloop.core.vectorise import Lift, TasksAxis, each_part, join, lifting, num_tasks, take

#: State between outer steps: a tree of tensors with a leading task axis, or None.
Carry = Any


@dataclass(frozen=True)
class Record:
    """What a meta-step says of its tasks.

    Attributes:
        losses: query loss of each task after adaptation [T], also where it is not finite.
        outcomes: what became of each task; tasks that are not `ok` are left out of the gradient.
        statistics: running statistics gathered on the way, averaged over tasks; often empty.
        measures: what the gradient path says of each task, by name [T]: the residual of a solver,
            the standard error of an estimate.
    """

    losses: Tensor
    outcomes: list[Outcome]
    statistics: Tree
    measures: dict[str, Tensor] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean query loss over the tasks that adapted; NaN if none did."""
        kept = self.losses[self.kept]
        return float(kept.mean()) if kept.numel() else float("nan")

    @property
    def kept(self) -> list[int]:
        """The tasks that the gradient is the mean over, by number."""
        return [i for i, outcome in enumerate(self.outcomes) if outcome.ok]

    @property
    def mostly_failed(self) -> bool:
        """Whether fewer than half of the tasks stayed finite."""
        return 2 * len(self.kept) < len(self.outcomes)


@dataclass(frozen=True)
class Estimate:
    """One evaluation over some tasks: the sum of their meta-gradients, and what each task gave [T, ...]."""

    grads: Meta
    losses: Tensor
    statistics: Tree
    measures: dict[str, Tensor] = field(default_factory=dict)
    carry: Carry = None


@dataclass(frozen=True)
class Tasks:
    """Stacked episodes, the key of each task [T], how to lift and run them, and what was carried to here.

    Attributes:
        weights: of each task's gradient in the sum [T]; None is one for each.
        run: calls a pure function of trees, compiled or not: `run(fn, key, *trees)`.
    """

    episodes: Episode
    keys: Tensor
    axis: TasksAxis = "auto"
    carry: Carry = None
    weights: Tensor | None = None
    run: Callable[..., Tree] = eagerly

    def only(self, which: Tensor | slice) -> Tasks:
        carry = None if self.carry is None else take(self.carry, which)
        weights = None if self.weights is None else self.weights[which]
        found = replace(self, episodes=take(self.episodes, which), keys=self.keys[which], carry=carry)
        return replace(found, weights=weights)


class MetaGradient(ABC):
    """Obtains the meta-gradient of the mean outer loss over many tasks.

    A path is written for some tasks that are lifted together (`of_part`); leaving out the ones that
    failed, spreading parts over threads and averaging are done here.

    Attributes:
        exact: whether it is the true gradient of the outer objective.
        compiles: whether it is made of functions that can be compiled.
    """

    exact: bool
    compiles: bool = True

    @abstractmethod
    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        """The sum of some tasks' gradients, each times its weight, and what each gave, finite or not."""

    @abstractmethod
    def passes(self, steps: int) -> float:
        """The work for one task, in forward passes over the support set."""

    @abstractmethod
    def memory(self, steps: int, params: int, activations: int) -> float:
        """Numbers kept at the peak for one task, of a network with so many parameters and activations."""

    def begin(self, tasks: Tasks) -> Tasks:
        """The tasks to work on; a path that carries unrolls over outer steps goes on with those."""
        return replace(tasks, carry=None)

    def estimate(
        self,
        learner: MetaLearner,
        meta: Meta,
        episodes: Episode,
        carry: Carry = None,
        *,
        weights: Tensor | None = None,
        key: int = 0,
        axis: TasksAxis = "auto",
        compile: bool = False,
    ) -> tuple[Meta, Carry, Record]:
        """Mean meta-gradient over the tasks whose inner loop stayed finite.

        Args:
            episodes: stacked tasks, each leaf [T, ...].
            weights: factors of the tasks' gradients in that mean [T], >= 0; None is one for each. A task of
                factor zero is not computed, and is neither counted nor recorded. Not for paths whose
                unrolls are carried over outer steps.
            carry: what the previous outer step returned; None at first, and for most paths always.
            key: source of the randomness inside inner steps (see `core.rng.key`).
            axis: how tasks are lifted.
            compile: whether the functions that a path is made of run as compiled graphs, which are kept
                with the learner, one for each of its settings.

        Returns:
            Gradients shaped like `meta` (zero for running statistics), the carry, the record.
        """
        count = num_tasks(episodes)
        keys = tensor_keys(key, count, episodes.support.x.device)
        tasks = self.begin(Tasks(episodes, keys, axis, carry))
        if weights is not None:
            tasks = replace(tasks, weights=weights.to(keys.device)).only(weights.to(keys.device) > 0)
        run = compiler_of(learner) if compile else eagerly
        found = self.summed(learner, meta, replace(tasks, run=run))
        outcomes = [Outcome.FINITE] * len(found.losses)
        kept = found
        if not (bool(torch.isfinite(found.losses).all()) and tree.is_finite(found.grads)):
            outcomes = self._outcomes(learner, meta, tasks, found.losses)
            good = torch.tensor([o.ok for o in outcomes], device=found.losses.device)
            # A NaN survives a product with zero: the mean must be computed again without the task.
            kept = self.summed(learner, meta, tasks.only(good)) if bool(good.any()) else None
        if kept is None:
            return tree.zeros_like(meta), found.carry, Record(found.losses, outcomes, {}, found.measures)
        size = len(kept.losses)
        statistics = tree.map(lambda s: s.mean(0), kept.statistics)
        record = Record(found.losses, outcomes, statistics, found.measures)
        return tree.map(lambda g: g / size, kept.grads), found.carry, record

    def summed(self, learner: MetaLearner, meta: Meta, tasks: Tasks) -> Estimate:
        """The summed gradient of tasks, part by part."""
        how = lifting(tasks.axis, tasks.episodes, learner, work(meta, tasks.episodes))
        with running_in(ways=count_ways(tasks.episodes.support.y)):
            found = each_part(
                lambda part, lift: self.of_part(learner, meta, tasks.only(part), lift),
                tasks.episodes,
                how,
                learner,
            )
        first = found[0]
        if len(found) == 1:
            return first
        return Estimate(
            tree.map(lambda *leaves: torch.stack(leaves).sum(0), *(part.grads for part in found)),
            torch.cat([part.losses for part in found]),
            join([part.statistics for part in found]),
            join([part.measures for part in found]),
            None if first.carry is None else join([part.carry for part in found]),
        )

    def _outcomes(self, learner: MetaLearner, meta: Meta, tasks: Tasks, losses: Tensor) -> list[Outcome]:
        """Judge each task alone, so that one cannot hide behind another."""
        found = []
        for i, loss in enumerate(losses):
            if not bool(torch.isfinite(loss)):
                found.append(Outcome.NONFINITE_LOSS)
                continue
            alone = self.summed(learner, meta, tasks.only(slice(i, i + 1)))
            found.append(Outcome.FINITE if tree.is_finite(alone.grads) else Outcome.NONFINITE_GRADIENT)
        return found


def weighted_sum(values: Tensor, weights: Tensor | None) -> Tensor:
    """The sum over tasks of values [T, ...], each times its weight."""
    if weights is None:
        return values.sum(0)
    return torch.tensordot(weights.to(values.dtype), values, dims=1)


def learned(meta: Meta) -> Meta:
    """The part of `meta` that the outer gradient is taken with respect to."""
    return {name: node for name, node in meta.items() if name not in (STATISTICS, FROZEN, MEMORY)}


def shaped_like(meta: Meta, grads: Meta) -> Meta:
    """Gradients of the learned part with zeros for the rest, shaped like the whole `meta`."""
    return {name: grads[name] if name in grads else tree.zeros_like(node) for name, node in meta.items()}


def work(meta: Meta, episodes: Episode) -> float:
    """Multiply-adds of one pass over one task, at the least: every parameter meets every example."""
    rows = episodes.support.x.shape[1] + episodes.query.x.shape[1]
    return float(rows * sum(leaf.numel() for leaf in tree.leaves(without_memory(meta))))
