"""What a meta-step costs in time and memory: measured on real tasks, and predicted for more inner steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.memory import peak
from innerloop.core.mode import count_ways, running_in
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import Lifting, TasksAxis, lifting, num_tasks, take
from innerloop.gradients.base import MetaGradient, learned, work
from innerloop.training.config import TrainConfig
from innerloop.training.step import Engine, estimated

_MEASURED = 4  # inner steps up to which a cost is measured as it is, not predicted
_BYTES = 4  # of a number


@dataclass(frozen=True)
class Cost:
    """Of one meta-step.

    Attributes:
        seconds: the fastest of some passes: what others do at the same time is no cost of it.
        bytes: what is allocated at once, beyond what is in use before.
    """

    seconds: float
    bytes: float

    def onward(self, other: Cost, times: float) -> Cost:
        """On the line from here through `other`, at `times` the distance."""
        gone = [a + times * (b - a) for a, b in ((self.seconds, other.seconds), (self.bytes, other.bytes))]
        return Cost(max(gone[0], self.seconds), max(gone[1], self.bytes))


@dataclass(frozen=True)
class Workload:
    """Real tasks to try meta-gradients on, as a side computation that changes nothing."""

    learner: ModuleLearner
    meta: Meta
    episodes: Episode
    config: TrainConfig

    @property
    def rule(self) -> Lifting:
        """How tasks are lifted without a measurement."""
        weight = work(self.meta, self.episodes)
        return lifting(self.config.tasks_axis, self.episodes, self.learner, weight)

    def at(self, steps: int) -> Workload:
        """The same work with another number of inner steps."""
        learner = copy.copy(self.learner)
        learner.inner_steps = steps
        if learner.step_weights is not None:
            learner.step_weights = (1.0,) * steps
        return replace(self, learner=learner)

    def run(self, gradient: MetaGradient, how: TasksAxis) -> None:
        estimated(Engine(gradient, how, self.config.precision), self.learner, self.meta, self.episodes)
        if self.episodes.support.x.is_cuda:
            torch.cuda.synchronize(self.episodes.support.x.device)

    def seconds(self, gradient: MetaGradient, how: TasksAxis) -> float:
        """Of one pass."""
        started = time.perf_counter()
        self.run(gradient, how)
        return time.perf_counter() - started

    def bytes(self, gradient: MetaGradient, how: Lifting) -> int:
        """The peak of one pass; of parts side by side, as many times that of one."""
        parts = min(how.threads, -(-num_tasks(self.episodes) // how.size))
        alone = replace(how, threads=1)
        with one_thread():  # kernels of several threads allocate no more, and wait for each other
            return parts * peak(lambda: self.run(gradient, alone), self.config.device)

    def bound(self, gradient: MetaGradient, how: Lifting) -> float:
        """What the path says of its memory, in bytes: a figure that costs one forward pass of one task."""
        params = sum(leaf.numel() for leaf in tree.leaves(learned(self.meta)))
        numbers = gradient.memory(self.learner.inner_steps, params, activations(self))
        return _BYTES * how.size * how.threads * numbers


@contextmanager
def one_thread() -> Iterator[None]:
    """Run the block with kernels that use one core each."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measured(work: Workload, gradient: MetaGradient, how: Lifting, *, rounds: int = 3) -> Cost:
    """The cost of the work as it is."""
    work.run(gradient, how)
    seconds = [work.seconds(gradient, how) for _ in range(rounds)]
    return Cost(min(seconds), work.bytes(gradient, how))


def predicted(work: Workload, gradient: MetaGradient, how: Lifting, *, rounds: int = 3) -> Cost:
    """The cost at the learner's inner steps: on the line through two small numbers of them.

    Time and memory are linear in inner steps, once there are more than a path treats as one.
    """
    steps = work.learner.inner_steps
    unit = max(getattr(gradient, "segment", None) or 1, getattr(gradient, "last", None) or 1)
    low, high = (2, 4) if unit == 1 else (3 * unit, 5 * unit)
    if steps <= max(high, _MEASURED):
        return measured(work, gradient, how, rounds=rounds)
    if unit == 1 and steps >= 16:
        high = 8  # a longer line is a surer one
    one, other = (work.at(k) for k in (low, high))
    for few in (one, other):
        few.run(gradient, how)
    # In turn, so that a slow moment of the machine does not fall on one of them alone.
    pairs = [(one.seconds(gradient, how), other.seconds(gradient, how)) for _ in range(rounds)]
    ends = [
        Cost(min(times), few.bytes(gradient, how))
        for times, few in zip(zip(*pairs, strict=True), (one, other), strict=True)
    ]
    return ends[0].onward(ends[1], (steps - low) / (high - low))


def activations(work: Workload) -> int:
    """Numbers that a forward pass over one task's support and query keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = prod(saved.shape)
        return saved

    episode = take(work.episodes, 0)
    meta = tree.map(lambda leaf: leaf.detach().requires_grad_(leaf.is_floating_point()), work.meta)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved)
    with hooks, running_in(training=True, ways=count_ways(episode.support.y), first_order=True):
        fast = work.learner.begin(meta, episode.support)
        losses = [work.learner.query_loss(meta, fast, batch) for batch in episode]
    del losses  # kept until here, so that no memory was counted twice under one address
    return sum(kept.values())
