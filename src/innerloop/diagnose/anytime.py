"""What happens to the old families between the ends of stages: metrics of scores every few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np

from innerloop.core.errors import DataError, check_count
from innerloop.diagnose.estimate import (
    Flags,
    Measure,
    Table,
    Undefined,
    Values,
    checked,
    labelled,
    picked,
    weighed,
    whole,
)

#: Outer steps of a window, where none is asked for; De Lange et al. take 10 and 100.
WINDOW = 100


@final
@dataclass(frozen=True, eq=False)
class Timeline:
    """Scores of families of tasks every few steps of training, also within stages.

    Attributes:
        steps: outer steps done at each evaluation [E], increasing; 0 is before training.
        scores: [E, families, tasks], higher is better; NaN is "not measured". An evaluation may leave
            families out: what is asked of it is then asked of the other evaluations. The array is copied.
        ends, starts: outer steps done where the stage of each family ended and began; of its first stage, if
            it came back. An evaluation at the end of a stage is also that just before the next one.
        names: of families; numbers from 1 if there are none.
        together: task t of every family belongs to one draw (see `Matrix`).

    Raises:
        DataError: shapes that do not fit, steps out of order, or infinite scores.
    """

    steps: Sequence[int]
    scores: Values
    ends: Sequence[int]
    starts: Sequence[int]
    names: Sequence[str] = ()
    together: bool = False

    def __post_init__(self) -> None:
        scores = checked(self.scores, "scores of a timeline")
        count, families, _ = scores.shape
        object.__setattr__(self, "scores", scores)
        object.__setattr__(self, "steps", whole(self.steps, "steps", count))
        object.__setattr__(self, "ends", whole(self.ends, "ends", families))
        object.__setattr__(self, "starts", whole(self.starts, "starts", families))
        object.__setattr__(self, "names", labelled(self.names, families))
        if any(b <= a for a, b in pairwise(self.steps)):
            raise DataError("steps out of order", expected="increasing steps", do="sort the evaluations")
        if any(b <= a for a, b in zip(self.starts, self.ends, strict=True)):
            raise DataError(
                f"starts {list(self.starts)} and ends {list(self.ends)}",
                expected="stages of at least one step",
                do="give the steps done where each family's stage began and ended",
            )

    @property
    def table(self) -> Table:
        """The scores with steps in words."""
        return Table(self.scores, self.names, [f"at step {step}" for step in self.steps], self.together)

    @property
    def measured(self) -> Flags:
        """Which families were evaluated when: [E, families]."""
        return np.asarray(~np.isnan(self.scores).all(2))

    @property
    def seen(self) -> list[int]:
        """Families whose stage has begun by the last evaluation."""
        return [j for j, start in enumerate(self.starts) if start < self.steps[-1]]

    @property
    def old(self) -> list[int]:
        """Families whose stage had ended before the last evaluation."""
        return [j for j, end in enumerate(self.ends) if end < self.steps[-1]]


def anytime_accuracy(timeline: Timeline) -> Measure:
    """AAA: mean over evaluations of the mean over families whose stage has begun (Soutif et al. 2023).

    Evaluations count alike, however far apart they are.
    """
    at = np.array(timeline.steps)[:, None]
    counted = timeline.measured & (np.array(timeline.starts) < at)
    rows = counted.any(1)
    if not rows.any():
        return Undefined("no family was evaluated after its stage began")
    each = counted.sum(1, keepdims=True).clip(1) * rows.sum()
    return weighed(timeline.table, counted / each)


def minimum_accuracy(timeline: Timeline) -> Measure:
    """min-ACC: mean over old families of their least score after their stage (De Lange et al. 2023).

    Old are those whose stage ended before the last evaluation. Paper: arXiv 2205.13452. The denser the
    evaluations, the more of a dip is seen; the paper's are at every step.
    """
    return _worst(timeline, current=False)


def worst_case_accuracy(timeline: Timeline) -> Measure:
    """WC-ACC = A_k / k + (1 - 1/k) min-ACC: the family being learned as it is, the others at their worst.

    De Lange et al. 2023, 2205.13452. A_k is the score at the last evaluation of the families whose stage goes
    on or ends there.
    """
    if len(timeline.old) == len(timeline.seen):
        return Undefined(
            "no family's stage reaches to the last evaluation: families come back, or training went on"
        )
    return _worst(timeline, current=True)


def windowed_forgetting(timeline: Timeline, window: int = WINDOW) -> Measure:
    """WF: the largest fall of a family's score within `window` steps, averaged over families (2205.13452).

    As in the authors' code, a family that never falls has 0, and with an evaluation at every step a window
    holds `window` evaluations. Counted from the step where the family's stage began.

    Raises:
        ConfigError: `window` is less than 2.
    """
    return _windowed(timeline, check_count("window", window, low=2), -1)


def windowed_plasticity(timeline: Timeline, window: int = WINDOW) -> Measure:
    """WP: the largest rise of a family's score within `window` steps, averaged over families (2205.13452).

    Raises:
        ConfigError: `window` is less than 2.
    """
    return _windowed(timeline, check_count("window", window, low=2), 1)


def _worst(timeline: Timeline, *, current: bool) -> Measure:
    """Least scores of old families after their stages, and last ones of the others if asked."""
    old = timeline.old
    others = [j for j in timeline.seen if j not in old] if current else []
    if not old:
        return Undefined("no family's stage ended before the last evaluation: none is old")
    at = np.array(timeline.steps)[:, None]
    need = timeline.measured & (at > np.array(timeline.ends))
    need[-1, others] = True
    missing = [timeline.names[j] for j in old if not need[:, j].any()]
    if missing:
        return Undefined(f"{missing[0]} was not measured after its stage")
    count = len(old) + len(others)

    def pick(means: Values) -> Values:
        weights = np.zeros(means.shape)
        weights[-1, others] = 1 / count
        weights[np.nanargmin(means[:, old], axis=0), old] = 1 / count
        return weights

    return picked(timeline.table, need, pick)


def _windowed(timeline: Timeline, window: int, sign: int) -> Measure:
    """The largest change in the direction of `sign` within a window, averaged over families."""
    steps = np.array(timeline.steps)
    need = timeline.measured & (steps[:, None] >= np.array(timeline.starts))
    families = timeline.seen
    if not families:
        return Undefined("no family's stage has begun")
    for j in families:
        at = steps[need[:, j]]
        if len(at) < 2 or np.diff(at).min() >= window:
            return Undefined(f"{timeline.names[j]} was not measured twice within {window} steps")
    need[:, [j for j in range(need.shape[1]) if j not in families]] = False

    def pick(means: Values) -> Values:
        weights = np.zeros(means.shape)
        for j in families:
            rows = np.flatnonzero(need[:, j])
            signed, at = sign * means[rows, j], steps[rows]
            firsts = np.searchsorted(at, at - window, side="right")
            least = [first + int(signed[first : n + 1].argmin()) for n, first in enumerate(firsts)]
            n = int(np.argmax(signed - signed[least]))
            weights[rows[n], j] += sign / len(families)
            weights[rows[least[n]], j] -= sign / len(families)
        return weights

    return picked(timeline.table, need, pick)
