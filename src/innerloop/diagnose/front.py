"""Where two things are wanted at once: dominance that knows seeds, the front, its knee and its price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, final

import numpy as np

from innerloop.core.errors import DataError
from innerloop.diagnose.estimate import Estimate, Measure, Undefined, Values, across_seeds

#: How much worse in one objective still counts as equal, in units of the axes.
EPSILON = 0.05
#: `optimal` beats every other point in one objective at least; `possible` is neither that nor dominated.
Standing = Literal["optimal", "possible", "dominated"]
Place = tuple[float, float]
_LEVEL = 1e-9  # differences of means below this are rounding


@final
@dataclass(frozen=True, eq=False)
class Point:
    """A configuration in two objectives, of which more is better, at several seeds.

    Attributes:
        name: what it is called.
        stability, plasticity: [seeds], in the same order of seeds for all points that are compared.

    Raises:
        DataError: they are not as many, none, or not finite.
    """

    name: str
    stability: Values
    plasticity: Values

    def __post_init__(self) -> None:
        both = [np.array(getattr(self, axis), dtype=np.float64) for axis in ("stability", "plasticity")]
        if both[0].ndim != 1 or both[0].shape != both[1].shape or not both[0].size:
            raise DataError(
                f"point {self.name} of {both[0].shape} and {both[1].shape} numbers",
                expected="one number of each objective for each seed",
                do="give both objectives of the same seeds",
            )
        if not np.isfinite(both).all():
            raise DataError(
                f"point {self.name} is not finite", expected="finite objectives", do="leave it out as failed"
            )
        object.__setattr__(self, "stability", both[0])
        object.__setattr__(self, "plasticity", both[1])

    @property
    def place(self) -> Place:
        """Mean stability and mean plasticity."""
        return float(self.stability.mean()), float(self.plasticity.mean())


def over_seeds(values: Values) -> Estimate:
    """The mean of one number a seed [seeds] with its t-interval, which is endless for a single seed.

    >>> over_seeds(np.array([1.0, 2.0, 3.0])).value
    2.0
    """
    found = across_seeds([Estimate(float(v), 0.0, float(v), float(v), 1) for v in values])
    assert isinstance(found, Estimate)  # there is at least one value, and none is undefined
    return found


def dominates(a: Point, b: Point, epsilon: float = EPSILON) -> bool:
    """Whether `a` is better for sure in one objective, and not worse than `epsilon` in the other.

    Differences are paired by seed. Better for sure is that the whole two-sided 95 % t-interval of the
    difference lies above zero, so that a single seed decides nothing. Not worse is said of the mean
    difference, and no more than `epsilon` may be lost.

    Raises:
        DataError: the points have other numbers of seeds.
    """
    _check_paired(a, b)
    apart = [over_seeds(a.stability - b.stability), over_seeds(a.plasticity - b.plasticity)]
    return any(one.low > 0.0 and other.value >= -epsilon for one, other in (apart, reversed(apart)))


def standings(points: Sequence[Point], epsilon: float = EPSILON) -> list[Standing]:
    """How each point stands among all.

    `dominated`: another one dominates it. `optimal`: it is better for sure than each other one in at least
    one objective, so that none can dominate it. `possible`: more seeds would have to tell.
    """
    found: list[Standing] = []
    for i, point in enumerate(points):
        others = [other for j, other in enumerate(points) if j != i]
        if any(dominates(other, point, epsilon) for other in others):
            found.append("dominated")
        else:
            found.append("optimal" if all(_ahead(point, other) for other in others) else "possible")
    return found


def pareto(points: Sequence[Point]) -> list[int]:
    """The points that no other one beats by its means, from the least stable to the most stable.

    Of points with the same means the first counts. Their order is that of falling plasticity as well.
    """
    places = [point.place for point in points]
    kept = [
        i
        for i, (s, p) in enumerate(places)
        if not any(
            u >= s and q >= p and ((u, q) != (s, p) or j < i) for j, (u, q) in enumerate(places) if j != i
        )
    ]
    return sorted(kept, key=lambda i: places[i])


def knee(front: Sequence[Place], ends: tuple[Place, Place] | None = None) -> int | None:
    """The place in the front that lies farthest above the line between two ends; None if none does.

    Which one that is does not depend on the units of the axes.

    Args:
        front: (stability, plasticity), from the least stable to the most stable.
        ends: two places, the less stable one first, such as naive and frozen training; None takes the ends
            of the front.

    >>> knee([(0.0, 1.0), (0.8, 0.9), (1.0, 0.0)])
    1
    """
    if not front:
        return None
    first, last = np.array(ends or (front[0], front[-1]))
    along, away = last - first, np.array(front) - first
    length = float(np.hypot(*along))
    if length < _LEVEL:
        return None
    above = (along[0] * away[:, 1] - along[1] * away[:, 0]) / length
    best = int(above.argmax())
    return best if above[best] > _LEVEL else None


def prices(front: Sequence[Place]) -> list[Measure]:
    """The price of stability at each point: plasticity that a unit of more stability costs from there on.

    It is -dP/dS towards the next more stable point. The last one has no price, and nor has a step of no
    length. The interval is left open: it is a property of the means.

    Args:
        front: as of `knee`.
    """
    found: list[Measure] = []
    for (s, p), (u, q) in pairwise(front):
        if u - s <= _LEVEL:
            found.append(Undefined("the next point is as stable"))
        else:
            price = (p - q) / (u - s)
            found.append(Estimate(price, float("inf"), -float("inf"), float("inf"), 1))
    return [*found, Undefined("no point of the front is more stable")] if front else []


def hypervolume(points: Sequence[Place], reference: Place) -> float:
    """The area in which some point is better than a place in both objectives, beyond a reference.

    Points that are not better than the reference in both objectives add nothing.

    >>> hypervolume([(1.0, 0.5), (0.5, 1.0)], (0.0, 0.0))
    0.75
    """
    area, reached = 0.0, reference[0]
    better = [(s, p) for s, p in points if s > reference[0] and p > reference[1]]
    for s, p in sorted(better, key=lambda place: (-place[1], -place[0])):
        if s > reached:
            area += (s - reached) * (p - reference[1])
            reached = s
    return area


def _ahead(a: Point, b: Point) -> bool:
    """Whether `a` is better than `b` for sure in at least one objective."""
    return any(
        over_seeds(x - y).low > 0.0 for x, y in ((a.stability, b.stability), (a.plasticity, b.plasticity))
    )


def _check_paired(a: Point, b: Point) -> None:
    if len(a.stability) != len(b.stability):
        raise DataError(
            f"{a.name} of {len(a.stability)} seeds beside {b.name} of {len(b.stability)}",
            expected="points of the same seeds",
            do="compare them on the seeds that both have",
        )
