"""What a remedy against forgetting may do to an outer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta

#: The meta-gradient of stacked tasks at the meta-parameters of the step, as the run obtains it.
Gradient = Callable[[Episode], Meta]


@dataclass(frozen=True)
class Moment:
    """An outer step, as a remedy sees it.

    Attributes:
        learner: what is trained.
        meta: the meta-parameters before the step.
        gradient: the meta-gradient of other tasks there.
        tasks: the tasks of the step [T, ...], without those that are replayed.
        families: the family of each [T].
        key: source of a remedy's own randomness at this step.
    """

    learner: MetaLearner
    meta: Meta
    gradient: Gradient
    tasks: Episode
    families: list[int]
    key: int


class Remedy(ABC):
    """Keeps something of the past, and changes outer steps so that they do less harm to it.

    What it does not say of itself, it does not do.
    """

    @abstractmethod
    def changed(self, grads: Meta, moment: Moment) -> Meta:
        """The meta-gradient to follow, in the place of `grads`."""

    def stepped(self, grads: Meta, before: Meta, after: Meta) -> None:
        """Take note of a step: the gradient of the tasks, and the learned meta-parameters around it."""
        return

    def stage_ended(self, moment: Moment) -> None:
        """Take note of the end of a stage; `moment.tasks` are tasks of it."""
        return

    def anchored(self, meta: Meta) -> None:
        """Take over meta-parameters of an earlier run, which training begins with."""
        return

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint has to keep, by path."""
        return {}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what a checkpoint kept."""
        return

    def values(self) -> dict[str, Any]:
        """The rest of it, as plain values."""
        return {}
