"""Families of waves that contradict one another, one after another."""

from __future__ import annotations

import math
from typing import NamedTuple, Self, final

import numpy as np

from innerloop.core.errors import unknown
from innerloop.core.rng import Keys, uniform
from innerloop.tasks.regression import RegressionTasks, Values
from innerloop.tasks.streaming import Schedule, StreamTasks, numbered


class Wave(NamedTuple):
    """A family: y = A f(w x - p), with A and p uniform in their ranges, and f the sine or its sign."""

    amplitude: tuple[float, float] = (2.0, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    frequency: float = 1.0
    square: bool = False


#: Each differs from the first in one thing.
WAVES: dict[str, Wave] = {
    "sine": Wave(),
    "opposite": Wave(phase=(math.pi, 2.0 * math.pi)),
    "small": Wave(amplitude=(1.0, 2.0)),
    "fast": Wave(frequency=1.5),
    "square": Wave(square=True),
}
_DEFAULT = ("sine", "opposite", "small", "fast")


@final
class SinusoidFamilies(StreamTasks):
    """Waves y = A f(w x - p) on the same x ~ U[-5, 5), of families that differ in amplitude, phase or shape.

    What a learner expects of one family before it has seen a task is wrong for the next, so training on
    them one after another forgets. The families, A and p uniform in the ranges, judged by mean squared
    error:

    - sine: A in [2, 5], p in [0, pi], w = 1, f the sine;
    - opposite: p in [pi, 2 pi], that is, the sine upside down;
    - small: A in [1, 2];
    - fast: w = 1.5;
    - square: f the sign of the sine. It agrees with `sine` rather than contradicts it.

    The same kind several times is a stream without conflict: nothing changes from stage to stage.

    Args:
        kinds: the families in their order, at least two, each one of the above; None is sine, opposite,
            small, fast.
        shots: support points of a task, >= 1.
        queries: query points of a task, >= 1.
        schedule: `sequence` gives each an equal share of the outer steps, one after another; `drift` goes
            over from each to the next gradually; `progressive` lets them join one at a time, what is most
            alike first, and stay; `joint` is all at once.
        rounds: how often the whole sequence comes, >= 1.

    Raises:
        ConfigError: an unknown kind, fewer than two, or a size, schedule or number of rounds out of range.

    >>> stream = SinusoidFamilies(["sine", "opposite"], shots=5)
    >>> stream.names, stream.at(0.75).sample("train", 3, 0).support.x.shape
    (('sine', 'opposite'), torch.Size([3, 5, 1]))

    The families are ours; sinusoids as tasks are those of Finn, Abbeel, Levine, arXiv:1703.03400.
    """

    def __init__(
        self,
        kinds: list[str] | None = None,
        *,
        shots: int = 10,
        queries: int = 15,
        schedule: Schedule = "sequence",
        rounds: int = 1,
    ) -> None:
        self.kinds = list(_DEFAULT if kinds is None else kinds)
        self.shots, self.queries = shots, queries
        for kind in self.kinds:
            if kind not in WAVES:
                raise unknown("kind", str(kind), WAVES)
        sources = [_Waves(WAVES[kind], shots=shots, queries=queries) for kind in self.kinds]
        self._set_families(sources, numbered(self.kinds), schedule, rounds)

    @classmethod
    def tiny(cls) -> Self:
        """Two families of few points; the distributions themselves need no data."""
        return cls(["sine", "opposite"], shots=4, queries=6)


@final
class _Waves(RegressionTasks):
    """The tasks of one family."""

    def __init__(self, wave: Wave, *, shots: int, queries: int) -> None:
        self._set_sizes(shots=shots, queries=queries, train_shots=None, train_queries=None)
        self.wave = wave

    def _targets(self, keys: Keys, x: Values) -> Values:
        drawn = uniform(keys, 2)
        (low, high), (first, last) = self.wave.amplitude, self.wave.phase
        amplitude, phase = low + (high - low) * drawn[:, :1], first + (last - first) * drawn[:, 1:]
        sine = np.sin(self.wave.frequency * x - phase)
        return amplitude * (np.sign(sine) if self.wave.square else sine)
