"""Who is disturbed, and what a disturbance is: a function of one task that gives its results by size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.learner import final as last
from innerloop.core.losses import loss_value, score
from innerloop.core.types import Batch, Episode, Fast, Meta, Split, TaskSpec
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.attack import bounds_of
from innerloop.measure.stretched import stretched_states
from innerloop.tasks.base import TaskSource


class Judged(NamedTuple):
    """Loss and score of one task, scalars; the score is NaN where an output is not finite."""

    loss: Tensor
    score: Tensor


#: The size under which a disturbance tells what its results are compared with, where that is not the usual.
REFERENCE = ""


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A learner at a point of its training, and the tasks that it is judged on.

    Attributes:
        tasks: the source of the undisturbed tasks.
        split: of these tasks.
        example: some of these tasks, stacked: what is known of their sizes and of the spread of their inputs.
        others: sources of unfamiliar tasks, by what they are called.
    """

    learner: ModuleLearner
    meta: Meta
    tasks: TaskSource
    example: Episode
    split: Split = "test"
    others: Mapping[str, TaskSource] = field(default_factory=dict)

    @property
    def spec(self) -> TaskSpec:
        return self.tasks.spec

    @property
    def steps(self) -> int:
        """Inner steps of the undisturbed learner."""
        return self.learner.test_inner_steps

    @property
    def support_size(self) -> int:
        return self.example.support.y.shape[1]

    @property
    def shots(self) -> int:
        """Support examples of each class; of the task where there are no classes."""
        return self.support_size // (self.ways if self.spec.metric == "accuracy" else 1)

    @cached_property
    def ways(self) -> int:
        """Classes of a task.

        Raises:
            NotEvaluated: its labels are not classes.
        """
        if self.spec.metric != "accuracy":
            raise NotEvaluated("tasks without classes")
        return int(self.example.support.y.max()) + 1

    @property
    def is_image(self) -> bool:
        return len(self.spec.input_shape) == 3

    @cached_property
    def bounds(self) -> tuple[float, float] | None:
        """Least and largest value that an input may have; None is any."""
        return bounds_of(self.example.support.x)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the numbers in all inputs.

        Raises:
            NotEvaluated: inputs are no numbers that can be moved a little.
        """
        x = self.example.support.x
        if not x.is_floating_point():
            raise NotEvaluated("inputs are not of floating point")
        return float(x.double().std(correction=0))

    def after(self, episode: Episode, *, scale: float = 1.0) -> Fast:
        """The adapted state of one task, each inner step taken `scale` times as far."""
        learner: MetaLearner = self.learner
        if scale == 1.0:
            return adapt(learner, self.meta, episode.support, self.steps)
        return last(stretched_states(learner, self.meta, episode.support, self.steps, scale))

    def predict(self, fast: Fast, inputs: Tensor) -> Tensor:
        return self.learner.predict(self.meta, fast, inputs)

    def judge(self, outputs: Tensor, y: Tensor) -> Judged:
        """Outputs [Q, ...] against labels or targets [Q, ...]."""
        value = score(self.spec.metric, outputs, y)
        # The argmax of NaN is a label like any other: what overflowed must not score by it.
        whole = torch.isfinite(outputs).all()
        return Judged(
            loss_value(self.spec.loss, outputs, y),
            torch.where(whole, value, torch.full_like(value, torch.nan)),
        )

    def judged(self, episode: Episode, *, scale: float = 1.0) -> Judged:
        """One task, adapted to and judged as it is."""
        fast = self.after(episode, scale=scale)
        return self.judge(self.predict(fast, episode.query.x), episode.query.y)


Sizes: TypeAlias = Mapping[str, Any]  # what each size is called -> what it is: a number, or a source of tasks
Run: TypeAlias = Callable[[Subject, Episode, Tensor, Sizes], dict[str, Judged]]
Change: TypeAlias = Callable[[Subject, Episode, Tensor, Any], Episode]


@final
@dataclass(frozen=True)
class Perturbation:
    """One way to disturb a learner.

    Attributes:
        name: what is disturbed.
        about: how, in a sentence.
        sizes: how much, by what each size is called; raises `NotEvaluated` where it does not apply.
        run: results of one task, by size; also under `REFERENCE` where they are compared with other ones
            than those of the undisturbed task. The key is a scalar int64 of this task and this disturbance.
            None where sizes are sources of other tasks, which are judged as they are.
        most: tasks that it is asked of at most, since it costs a lot; None is all.
    """

    name: str
    about: str
    sizes: Callable[[Subject], Sizes]
    run: Run | None
    most: int | None = None


def changing(change: Change) -> Run:
    """The disturbance that changes a task, which is then adapted to and judged as it is."""

    def run(subject: Subject, episode: Episode, key: Tensor, sizes: Sizes) -> dict[str, Judged]:
        return {
            label: subject.judged(change(subject, episode, key, amount)) for label, amount in sizes.items()
        }

    return run


def need_images(subject: Subject) -> None:
    """Raise `NotEvaluated` unless inputs are images [channels, height, width]."""
    if not subject.is_image:
        raise NotEvaluated("inputs are not images")


def take_rows(batch: Batch, rows: Tensor) -> Batch:
    """Some examples [n] of one task's batch, in the order of `rows`."""
    return Batch(batch.x[rows], batch.y[rows])
