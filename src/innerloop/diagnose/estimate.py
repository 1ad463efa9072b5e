"""A number about probe tasks with its interval, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop.core.errors import DataError
from innerloop.diagnose.finding import finite

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: From means [places, families] to the weights [places, families] of the sum that is sought.
Pick = Callable[[Values], Values]

#: Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond them an expansion.
_T975 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)
_Z975 = 1.959964


def t975(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, which is its one-sided 97.5 % one.

    >>> t975(2), round(t975(30), 3)
    (4.30265, 2.042)
    """
    if freedom < 1:
        return math.inf
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = _Z975
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2) + third


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: the number itself.
        error: its standard error; infinite where one task or seed leaves it unknown.
        low, high: ends of the two-sided 95 % interval. It is not always symmetric.
        n: probe tasks of a family (of the family with fewest), or seeds.
    """

    value: float
    error: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        """The estimate as JSON has it; not-finite numbers become None."""
        numbers = {name: finite(getattr(self, name)) for name in ("value", "error", "low", "high")}
        return {**numbers, "n": self.n}


@dataclass(frozen=True)
class Undefined:
    """A metric that has no value here.

    Attributes:
        reason: why, in words.
    """

    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON has it: a value of None and the reason."""
        return {"value": None, "reason": self.reason}


Measure = Estimate | Undefined


class NotMeasured(Exception):
    """Raised where a score that a metric needs is not there; its text is the reason."""


@dataclass(frozen=True, eq=False)
class Table:
    """Scores of the same probe tasks at several places of training.

    Attributes:
        scores: [places, families, tasks], NaN where not measured.
        names: of families.
        places: in words, as they end the sentence "family A was not measured ...".
        together: task t of every family belongs to one draw, so that tasks are summed over families before
            their spread is taken; otherwise families are independent.
    """

    scores: Values
    names: Sequence[str]
    places: Sequence[str]
    together: bool = False

    def paired(self, need: Flags) -> dict[int, Values]:
        """For each family with a need: its scores [places, n] of the tasks measured wherever they are needed.

        Raises:
            NotMeasured: a family has no such task.
        """
        there = np.asarray(~np.isnan(self.scores) | ~need[:, :, None])
        complete = np.asarray(there.all(0))  # [families, tasks]
        families = [int(j) for j in np.flatnonzero(need.any(0))]
        if self.together:
            complete = np.broadcast_to(complete[families].all(0), complete.shape)
        for j in families:
            if not complete[j].any():
                missing = np.flatnonzero(~there[:, j].any(1))
                place = self.places[missing[0]] if len(missing) else "by the same tasks throughout"
                raise NotMeasured(f"{self.names[j]} was not measured {place}")
        return {j: self.scores[:, j, complete[j]] for j in families}


def weighed(table: Table, weights: Values) -> Measure:
    """The sum of means over tasks, weighed by [places, families].

    Its interval is paired over tasks: the sum over places is taken for each task, and the spread over tasks
    is that of these sums. Families are independent, so their variances add; degrees of freedom are those of
    Welch and Satterthwaite.
    """
    try:
        scores = table.paired(weights != 0)
    except NotMeasured as error:
        return Undefined(str(error))
    return _total([_sums(weights[:, j], values) for j, values in scores.items()], table.together)


def picked(table: Table, need: Flags, pick: Pick) -> Measure:
    """The sum whose weights are picked by means over tasks: a largest or least one, say.

    The value is what the picked weights give on the same tasks, as in the papers. It errs to one side where
    candidates are nearly alike, since the noisiest wins, and a bootstrap over tasks repeats that mistake (its
    95 % intervals mostly miss the max-last forgetting of ten families that forget nothing).
    So the interval is the hull of two: that of the value with the picked weights held (the delta method), and
    that of the same sum where the even tasks pick the weights that the odd ones are read with, and the
    other way round, which errs to the other side. It holds at least as often as it says.

    Args:
        table: the scores.
        need: which of them [places, families] the weights may fall on.
        pick: from means [places, families], NaN where there is no need, to weights.
    """
    try:
        scores = table.paired(need)
    except NotMeasured as error:
        return Undefined(str(error))

    def weights(of: slice) -> Values:
        means = np.full(need.shape, np.nan)
        for j, values in scores.items():
            means[need[:, j], j] = values[need[:, j], of].mean(1)
        return pick(means)

    held = weights(slice(None))
    plain = _total([_sums(held[:, j], values) for j, values in scores.items()], table.together)
    if plain.n < 2:
        return plain
    crossed = {j: np.empty(values.shape[1]) for j, values in scores.items()}
    even, odd = slice(0, None, 2), slice(1, None, 2)
    for own, others in ((even, odd), (odd, even)):
        held = weights(others)
        for j, values in scores.items():
            crossed[j][own] = _sums(held[:, j], values[:, own])
    other = _total(list(crossed.values()), table.together)
    low, high = min(plain.low, other.low), max(plain.high, other.high)
    return Estimate(plain.value, plain.error, low, high, plain.n)


def across_seeds(estimates: Sequence[Measure]) -> Measure:
    """The mean over seeds with its t-interval: each seed's value is one observation.

    The intervals over tasks are no part of it: the tasks are the same in each seed, so the interval says what
    other seeds would give on these tasks.
    """
    values = []
    for i, estimate in enumerate(estimates):
        if isinstance(estimate, Undefined):
            return Undefined(f"seed {i + 1} of {len(estimates)}: {estimate.reason}")
        values.append(estimate.value)
    if not values:
        return Undefined("no seeds")
    return _total([np.array(values)], together=True)


def checked(scores: Any, what: str) -> Values:
    """A copy of scores [places, families, tasks] that nothing writes to.

    Raises:
        DataError: they are no such array of numbers, or some are infinite.
    """
    try:
        found = np.array(scores, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 3 or found.size == 0:
        raise DataError(
            f"{what} of shape {list(found.shape)}",
            expected="numbers [rows, families, tasks], at least one of each",
            do="give one score for each probe task, NaN where none was measured",
        )
    if np.isinf(found).any():
        raise DataError(
            f"{what}: {int(np.isinf(found).sum())} are infinite",
            expected="finite scores, or NaN where none was measured",
            do="give a task that diverged the score of the trivial answer, or a stated cap",
        )
    found.setflags(write=False)
    return found


def labelled(names: Sequence[str], families: int) -> tuple[str, ...]:
    """Names of families: those given, or their numbers from 1.

    Raises:
        DataError: there are more or fewer, or two are alike.
    """
    found = tuple(names) or tuple(f"family {j + 1}" for j in range(families))
    if len(found) != families or len(set(found)) < families:
        raise DataError(
            f"names {list(found)}", expected=f"{families} different names", do="name each family once"
        )
    return found


def whole(values: Sequence[int], name: str, count: int | None = None) -> tuple[int, ...]:
    """Whole numbers from 0 on, `count` of them.

    Raises:
        DataError: they are not.
    """
    found = np.asarray(values)
    right = found.ndim == 1 and found.dtype.kind in "iu" and len(found) == (count or len(found)) > 0
    if not right or (found < 0).any():
        number = "" if count is None else f"{count} "
        raise DataError(
            f"{name} = {values!r}", expected=f"{number}whole numbers, 0 or more", do=f"mend {name}"
        )
    return tuple(int(value) for value in found)


def _sums(weights: Values, values: Values) -> Values:
    """Weighed sums over places, one for each task [n]; scores without weight may be NaN."""
    used = weights != 0
    return weights[used] @ values[used]


def _total(sums: Sequence[Values], together: bool) -> Estimate:
    """The sum over families of means over tasks, with its interval."""
    if together:
        sums = [np.sum(sums, axis=0)]
    counts = np.array([len(values) for values in sums])
    value = math.fsum(float(values.mean()) for values in sums)
    if counts.min() < 2:
        return Estimate(value, math.inf, -math.inf, math.inf, int(counts.min()))
    variances = np.array([values.var(ddof=1) for values in sums]) / counts
    total = float(variances.sum())
    spread = float(np.square(variances) @ (1 / (counts - 1)))
    freedom = math.floor(total**2 / spread * (1 + 1e-9)) if spread > 0 else int(counts.min()) - 1
    error = math.sqrt(total)
    half = t975(freedom) * error
    return Estimate(value, error, value - half, value + half, int(counts.min()))
