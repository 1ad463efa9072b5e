"""Stability and plasticity of runs on a stream, as shares of what naive, joint and frozen training reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self, final

import numpy as np

from innerloop.core.errors import DataError
from innerloop.diagnose.dips import stability_gap
from innerloop.diagnose.estimate import Estimate, Measure, Undefined, Values, weighed
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.forgetting import Matrix, forgetting_first_last
from innerloop.diagnose.front import over_seeds
from innerloop.diagnose.history import History
from innerloop.diagnose.statistics import mean_of, t95
from innerloop.diagnose.streams import matrix_of, timeline_of

_Z95 = 1.6449


@final
@dataclass(frozen=True)
class Outcome:
    """What one run on a stream came to, in units of the score: accuracy, or 1 - loss / trivial loss.

    *Old* families are all but the last, *new* ones all but the first. A run on all families at once (joint)
    has no stages: its numbers are those of the end, and it forgets nothing.

    Attributes:
        gain: mean score of new families, each right after its stage.
        forgetting: mean over old families of the score right after their stage minus that at the end
            (first-last); None for a joint run.
        untouched: mean score of new families right after the first stage: what is gained on them without
            training on them; None for a joint run.
        learned: mean score of old families, each right after its stage.
        kept: mean score of old families at the end.
        dip: mean stability gap, None where it is undefined.
        gain_error, forgetting_error, untouched_error: standard errors over probe tasks.
    """

    gain: float
    forgetting: float | None
    untouched: float | None
    learned: float
    kept: float
    dip: float | None
    gain_error: float
    forgetting_error: float | None = None
    untouched_error: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """The outcome as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The outcome in a mapping, which may hold more than that."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def outcome_of(history: History) -> Outcome:
    """What a run came to; a task that diverged scores as the trivial predictor does.

    Raises:
        NotEvaluated: it was not on a stream of families that come once each, is not through, or has scores
            that are not finite.
    """
    matrix = _filled(matrix_of(history), history.setup)
    families = len(matrix.learned)
    joint = set(matrix.learned) == {1}
    if families < 2 or not (joint or tuple(matrix.learned) == tuple(range(1, families + 1))):
        raise NotEvaluated("its families come back, so that none is left alone to be forgotten")
    if not joint and matrix.last < families:
        raise NotEvaluated(f"it is through {matrix.last} of {families} stages")
    old, new = range(families - 1), range(1, families)
    after = dict.fromkeys(range(families), 1) if joint else {j: j + 1 for j in range(families)}
    gain = _mean(matrix, {j: after[j] for j in new})
    learned, kept = _mean(matrix, {j: after[j] for j in old}), _mean(matrix, dict.fromkeys(old, matrix.last))
    if joint:
        return Outcome(gain.value, None, None, learned.value, kept.value, None, gain.error)
    lost, before = _known(forgetting_first_last(matrix)), _mean(matrix, dict.fromkeys(new, 1))
    dip = stability_gap(timeline_of(history))
    return Outcome(
        gain.value,
        lost.value,
        before.value,
        learned.value,
        kept.value,
        dip.value if isinstance(dip, Estimate) else None,
        gain.error,
        lost.error,
        before.error,
    )


@final
class Anchors:
    """The runs that the axes are measured by: naive and joint ones, of the same seeds.

    Stability is S = 1 - F / F_naive, of forgetting F; plasticity P = (s - s_frozen) / (s_joint - s_frozen),
    of scores s on new families, where frozen is the naive run after its first stage. Both are ratios of means
    over seeds. Numbers of single seeds are those ratios linearised (the delta method), so that their mean is
    the ratio, and their spread over seeds that of numerator and denominator together, paired by seed.

    Where a denominator is not clearly above zero, the ratio says nothing: then the axis is that of raw
    scores, and `undefined` has the reason.

    Attributes:
        undefined: by `stability` or `plasticity`, why it is not a share.

    Raises:
        DataError: the runs are of other numbers of seeds.
    """

    def __init__(self, naive: Sequence[Outcome], joint: Sequence[Outcome]) -> None:
        if len(naive) != len(joint) or not naive:
            raise DataError(
                f"{len(naive)} naive runs and {len(joint)} joint ones",
                expected="one of each for each seed",
                do="train both with the same seeds",
            )
        self.naive, self.joint = list(naive), list(joint)
        self._lost = numbers(naive, "forgetting")
        self._before = numbers(naive, "untouched")
        self._room = numbers(joint, "gain") - self._before
        room_errors = np.hypot(numbers(joint, "gain_error"), numbers(naive, "untouched_error"))
        self.undefined: dict[str, str] = {}
        if not clear(self._lost, numbers(naive, "forgetting_error")):
            self.undefined["stability"] = _unclear("what naive training forgets", self._lost)
        if not clear(self._room, room_errors):
            self.undefined["plasticity"] = _unclear(
                "what joint training gains on new families over frozen weights", self._room
            )

    def stability(self, lost: Values) -> Values:
        """Of forgetting [seeds]: a number a seed; minus the forgetting where shares are undefined."""
        return -lost if "stability" in self.undefined else 1.0 - ratio(lost, self._lost)

    def plasticity(self, gain: Values) -> Values:
        """Of scores on new families [seeds]: a number a seed; the scores where shares are undefined."""
        return gain if "plasticity" in self.undefined else ratio(gain - self._before, self._room)

    def places(self) -> dict[str, tuple[Values, Values]]:
        """Stability and plasticity [seeds] of the anchors themselves.

        Joint training forgets, so to say, what old families score less at its end than after their stage in
        the naive run.
        """
        zero = np.zeros(len(self.naive))
        missed = numbers(self.naive, "learned") - numbers(self.joint, "kept")
        return {
            "naive": (self.stability(self._lost), self.plasticity(numbers(self.naive, "gain"))),
            "frozen": (self.stability(zero), self.plasticity(self._before)),
            "joint": (self.stability(missed), self.plasticity(numbers(self.joint, "gain"))),
        }

    @property
    def forgotten(self) -> Estimate:
        """What naive training forgets, over seeds."""
        return over_seeds(self._lost)

    @property
    def room(self) -> Estimate:
        """What joint training gains on new families over frozen weights, over seeds."""
        return over_seeds(self._room)


def numbers(outcomes: Sequence[Outcome], name: str) -> Values:
    """One attribute of the outcomes of all seeds [seeds]; NaN where it is None."""
    found = [getattr(outcome, name) for outcome in outcomes]
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def ratio(over: Values, under: Values) -> Values:
    """Numbers [seeds] whose mean is mean(over) / mean(under), and whose spread is that of the ratio.

    >>> ratio(np.array([1.0, 3.0]), np.array([2.0, 6.0]))
    array([0.5, 0.5])
    """
    whole = float(over.mean() / under.mean())
    return whole + (over - whole * under) / under.mean()


def clear(values: Values, errors: Values) -> bool:
    """Whether something is above zero for sure.

    Either over seeds, by a one-sided 95 % t-interval of their values [seeds], or in every single one of them,
    by its standard error over tasks [seeds].
    """
    found = mean_of(values)
    over = len(values) > 1 and found.value - t95(len(values) - 1) * found.error > 0.0
    return over or bool((values > _Z95 * errors).all())


def _filled(matrix: Matrix, setup: dict[str, Any]) -> Matrix:
    """Tasks that diverged with the trivial score, at looks where others did not."""
    trivial = 1.0 / setup["ways"] if setup.get("metric") == "accuracy" and setup.get("ways") else 0.0
    missing = np.isnan(matrix.scores)
    some = missing & ~missing.all(2, keepdims=True)
    return Matrix(np.where(some, trivial, matrix.scores), matrix.learned, matrix.names, matrix.together)


def _mean(matrix: Matrix, rows: dict[int, int]) -> Estimate:
    """The mean over families of their score at a row each."""
    weights = matrix.blank
    for family, row in rows.items():
        weights[row, family] = 1.0 / len(rows)
    return _known(weighed(matrix.table, weights))


def _known(measure: Measure) -> Estimate:
    if isinstance(measure, Undefined):
        raise NotEvaluated(measure.reason)
    return measure


def _unclear(what: str, values: Values) -> str:
    found = over_seeds(values)
    apart = f" (95 % over seeds: {found.low:.3g} to {found.high:.3g})" if len(values) > 1 else ""
    return f"{what} is not clearly above zero: {found.value:.3g}{apart}"
