"""The families of a stream, each judged on tasks of its own from the first stage to the last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, final

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.types import Meta
from innerloop.core.vectorise import TasksAxis
from innerloop.measure.probe import Probe, Row, row
from innerloop.tasks.base import TaskSource
from innerloop.tasks.streaming import StreamTasks

_SHARE = 0.2  # of a training's work that goes into looking at its families
_PASSES = 3  # a task that is trained on costs about so many that are judged
_FEWEST, _MOST = 16, 50  # tasks of a family
_EVENLY = 8  # looks within a stage, beside those right after it began


@final
class Families:
    """A probe for each family of a stream, and the steps at which they look.

    Args:
        stages: of the stream: the number of its family, and the outer steps at which it begins and ends; none
            where all families come at once.
        at: the outer steps after which to look.
        count: tasks of each family's validation split.
    """

    def __init__(
        self,
        learner: ModuleLearner,
        stream: StreamTasks,
        stages: Sequence[tuple[int, int, int]],
        *,
        at: set[int],
        count: int,
        axis: TasksAxis,
    ) -> None:
        self._stages, self.at, self.count = list(stages), at, count
        self.probes = {
            name: Probe(learner, stream.family(number), count, 2, axis)
            for number, name in enumerate(stream.names)
        }

    @classmethod
    def of(
        cls, learner: ModuleLearner, tasks: TaskSource, steps: int, tasks_per_step: int, axis: TasksAxis
    ) -> Self | None:
        """The families of a training of so many steps; None where its tasks are no stream.

        How many tasks of each are judged follows from the work of training, not from a clock, so that
        records do not depend on the machine.
        """
        if not isinstance(tasks, StreamTasks):
            return None
        stages = [(stage.family, *stage.steps(steps)) for stage in tasks.stages]
        looks = len(_looks(stages, steps)) * len(tasks.names)
        count = int(_SHARE * steps * tasks_per_step * _PASSES / looks)
        count = min(_MOST, max(_FEWEST, count))
        return cls(learner, tasks, stages, at=_looks(stages, steps), count=count, axis=axis)

    def setup(self) -> dict[str, Any]:
        """The facts that the records are read by."""
        names = list(self.probes)
        stages = [{"family": names[f], "start": start, "end": end} for f, start, end in self._stages]
        return {"families": names, "family_tasks": self.count, "stages": stages}

    def trivial(self) -> list[Row]:
        """Once: the loss of each task for the best predictor that ignores inputs."""
        return [
            row(0, "trivial", probe.trivial("val"), split="val", family=name)
            for name, probe in self.probes.items()
        ]

    def look(self, meta: Meta, step: int) -> list[Row]:
        """The loss and the score of each family's tasks, each adapted to afresh from `meta`."""
        return [
            found | {"family": name}
            for name, probe in self.probes.items()
            for found in probe.look(meta, step)
            if found["name"] != "pre"
        ]


def _looks(stages: Sequence[tuple[int, int, int]], steps: int) -> set[int]:
    """The looks of some stages; all families at once are one stage."""
    return looks_at([(start, end) for _, start, end in stages] or [(0, steps)])


def looks_at(stages: Sequence[tuple[int, int]]) -> set[int]:
    """The outer steps after which to look: often right after a switch, where what was known may dip, then
    evenly.

    >>> sorted(looks_at([(0, 40)]))
    [0, 1, 2, 4, 5, 8, 10, 15, 20, 25, 30, 35, 40]
    """
    steps = {0}
    for start, end in stages:
        length = end - start
        soon = [2**k for k in range(length.bit_length()) if 2**k <= length // 4]
        evenly = [round(length * k / _EVENLY) for k in range(1, _EVENLY + 1)]
        steps |= {start + offset for offset in (*soon, *evenly) if offset}
    return steps
