"""The inner loop as a dynamical system: `begin -> step -> step -> ... -> predict`, for one task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from innerloop.core.errors import ContractError
from innerloop.core.losses import loss_value
from innerloop.core.mode import at_stream
from innerloop.core.types import Batch, Fast, Loss, Meta

#: The name under which `meta` may hold running statistics: averaged over tasks, never differentiated.
STATISTICS = "statistics"
#: The name under which `meta` may hold weights that no outer step moves: kept with it, never differentiated.
FROZEN = "frozen"
#: The name under which `meta` may hold what tasks are begun from outside of training, as it was earlier.
MEMORY = "memory"
#: The name under which `fast` may hold the task's own data: no step changes it, nothing differentiates it.
DATA = "data"


class MetaLearner(ABC):
    """An algorithm, written for one task: it never sees a task axis.

    Hyperparameters stand on `self`; what the outer loop learns is the tree `meta`. A subclass
    is abstract or final.

    Attributes:
        inner_steps: inner steps in meta-training; 0 for a closed-form learner.
        loss: name of the loss of both loops.
        steps_alike: whether every inner step is the same function, whatever its number `k`, so that one
            compiled graph serves for all.
        concurrent: whether tasks may run on several threads at once. Not so for a learner that calls
            `functional_call` on a module of its own, which puts parameters in their place there.
        step_weights: the outer objective: weights of the query loss after each of the inner steps
            (MAML++'s multi-step loss, a learned optimizer's sum); None is the last step alone.
    """

    inner_steps: int
    loss: Loss
    steps_alike: ClassVar[bool] = False
    concurrent: ClassVar[bool] = False
    step_weights: tuple[float, ...] | None = None

    @abstractmethod
    def init(self, rng: torch.Generator) -> Meta:
        """The meta-parameters before training: a tree of float tensors."""

    @abstractmethod
    def begin(self, meta: Meta, support: Batch) -> Fast:
        """A task's state before its first inner step; ready to predict."""

    @abstractmethod
    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        """The state after inner step number `k` (from 0); ready to predict."""

    @abstractmethod
    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        """Outputs [Q, ...] for inputs [Q, ...], from an adapted state."""

    def predict_each(self, meta: Meta, states: Iterable[Fast], inputs: Tensor) -> list[Tensor]:
        """`predict` from several states of one task, for learners to which most of the work is the same."""
        return [self.predict(meta, fast, inputs) for fast in states]

    def displaced(self, meta: Meta, fast: Fast) -> Meta:
        """`meta` with the adapted values in place of the initial ones, for `Displacement`."""
        raise NotImplementedError(f"{type(self).__name__} has no initialisation to displace")

    def objective_weights(self) -> Sequence[float | Tensor] | None:
        """`step_weights`, as they are at this point of training (`Mode.progress`)."""
        return self.step_weights

    def query_loss(self, meta: Meta, fast: Fast, query: Batch) -> tuple[Tensor, Fast]:
        """The outer loss of an adapted state, and the running statistics gathered on the way."""
        return loss_value(self.loss, self.predict(meta, fast, query.x), query.y), {}


def without_memory(meta: Meta) -> Meta:
    """What is learned today, alone."""
    return {name: node for name, node in meta.items() if name != MEMORY}


def outer_weights(learner: MetaLearner) -> tuple[float | Tensor, ...]:
    """The weight of the query loss of each state, from before the first inner step to after the last."""
    steps, given = learner.inner_steps, learner.objective_weights()
    if given is None:
        return (*(0.0,) * steps, 1.0)
    if len(given) != steps:
        raise ContractError(
            f"{len(given)} step_weights for {steps} inner steps",
            expected="one weight for each inner step",
            do="give as many, or none",
        )
    return (0.0, *given)


def states(learner: MetaLearner, meta: Meta, support: Batch, steps: int) -> Iterator[Fast]:
    """The states of one task's inner loop: before the first step, then after each of `steps`."""
    fast = learner.begin(meta, support)
    yield fast
    for k in range(steps):
        with at_stream(k):
            fast = learner.step(meta, fast, support, k)
        yield fast


def adapt(learner: MetaLearner, meta: Meta, support: Batch, steps: int) -> Fast:
    """The state of one task after `steps` inner steps."""
    return final(states(learner, meta, support, steps))


def final(states: Iterator[Fast]) -> Fast:
    """The last of some states, without keeping those before it."""
    return deque(states, maxlen=1)[0]
