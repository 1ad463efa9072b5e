"""The trade-off of a search: which configurations are worth their price, from the outcomes of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from innerloop.core.errors import DataError
from innerloop.diagnose.anchors import Anchors, Outcome, numbers
from innerloop.diagnose.estimate import Estimate, Values
from innerloop.diagnose.finding import finite
from innerloop.diagnose.front import (
    EPSILON,
    Point,
    Standing,
    hypervolume,
    knee,
    over_seeds,
    pareto,
    prices,
    standings,
)

#: The anchors that are configurations of their own; joint training sees what a stream does not show.
ENDS = ("naive", "frozen")


@final
@dataclass(frozen=True)
class Candidate:
    """A configuration that was trained, at several seeds.

    Attributes:
        trial: its number.
        settings: what differs from the naive configuration, by dotted name.
        outcomes: what its runs came to, in the order of seeds.
        cost: task-gradients and inner steps, as multiples of naive training.
        seconds: of training, on average over seeds.
        errors: names of the doctor's findings that make it unfit, over all seeds.
    """

    trial: int
    settings: dict[str, Any]
    outcomes: Sequence[Outcome]
    cost: float
    seconds: float
    errors: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.trial)


@final
@dataclass(frozen=True)
class Placed:
    """A point of the picture: a trial or an anchor, where it lies, and how it stands.

    Attributes:
        name: number of the trial, or the anchor's name.
        stability, plasticity: on the axes, with intervals over seeds.
        gain, forgetting, kept, dip: in units of the score, on average over seeds; None where undefined.
        standing: among all fit points and the naive and frozen anchors; `unfit` has errors of the doctor's,
            `reference` is joint training.
        on_front: whether no other one beats it by the means.
        price: plasticity for a unit of stability, towards the next point of the front; None where undefined.
        is_knee: whether it is the knee: farthest above the line from naive to frozen training.
        candidate: what was trained; None for an anchor.
    """

    name: str
    stability: Estimate
    plasticity: Estimate
    gain: float | None
    forgetting: float | None
    kept: float | None
    dip: float | None
    standing: Standing | str
    on_front: bool = False
    price: float | None = None
    is_knee: bool = False
    candidate: Candidate | None = None

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON has it."""
        scores = {
            name: finite(getattr(self, name)) for name in ("gain", "forgetting", "kept", "dip", "price")
        }
        found = {"name": self.name, "standing": self.standing, "on_front": self.on_front}
        found |= {"knee": self.is_knee} | scores
        found |= {"stability": self.stability.to_dict(), "plasticity": self.plasticity.to_dict()}
        if self.candidate is not None:
            one = self.candidate
            found |= {"trial": one.trial, "settings": one.settings, "cost": finite(one.cost)}
            found |= {"seconds": finite(one.seconds), "errors": list(one.errors)}
        return found


@final
@dataclass(frozen=True)
class Tradeoff:
    """All points of a search with what they say together.

    Attributes:
        anchors: the axes.
        points: anchors and candidates, from the least stable to the most stable.
        hypervolume: the area in which some point is better in both, beyond naive stability and frozen
            plasticity.
    """

    anchors: Anchors
    points: tuple[Placed, ...]
    hypervolume: float
    epsilon: float = EPSILON

    @property
    def front(self) -> list[Placed]:
        """The points that none beats by the means, from the least stable to the most stable."""
        return [point for point in self.points if point.on_front]

    def to_dict(self) -> dict[str, Any]:
        """The trade-off as JSON has it."""
        missing, lost = self.anchors.undefined, self.anchors.forgotten.to_dict()
        room = self.anchors.room.to_dict()
        return {
            "axes": {
                "stability": {"undefined": missing.get("stability"), "naive_forgetting": lost},
                "plasticity": {"undefined": missing.get("plasticity"), "joint_over_frozen": room},
            },
            "epsilon": self.epsilon,
            "points": [point.to_dict() for point in self.points],
            "front": [point.name for point in self.front],
            "knee": next((point.name for point in self.points if point.is_knee), None),
            "hypervolume": finite(self.hypervolume),
        }


def judge_tradeoff(anchors: Anchors, found: Sequence[Candidate], *, epsilon: float = EPSILON) -> Tradeoff:
    """Place candidates on the axes of their anchors, and say how they stand.

    Args:
        anchors: of the same seeds as the candidates.
        found: configurations that were trained; those with errors of the doctor's are drawn, and no more.
        epsilon: how much worse in one objective still counts as equal, in units of the axes.

    Raises:
        DataError: candidates of other numbers of seeds, or not finite.
    """
    places = anchors.places()
    at = {name: Point(name, *places[name]) for name in (*ENDS, "joint")}
    at |= {one.name: _point(anchors, one) for one in found}
    fit = [at[name] for name in ENDS] + [at[one.name] for one in found if not one.errors]
    standing = dict(zip([point.name for point in fit], standings(fit, epsilon), strict=True))
    front = [fit[i] for i in pareto(fit)]
    line = [point.place for point in front]
    price = dict(zip([point.name for point in front], prices(line), strict=True))
    bend = knee(line, (at["naive"].place, at["frozen"].place))
    corner = at["naive"].place[0], at["frozen"].place[1]
    by_name = {one.name: one for one in found}
    placed = []
    for name, point in at.items():
        worth = price.get(name)
        placed.append(
            Placed(
                name,
                over_seeds(point.stability),
                over_seeds(point.plasticity),
                **_scores(anchors, name, by_name.get(name)),
                standing=standing.get(name, "reference" if name == "joint" else "unfit"),
                on_front=name in price,
                price=worth.value if isinstance(worth, Estimate) else None,
                is_knee=bend is not None and front[bend].name == name,
                candidate=by_name.get(name),
            )
        )
    placed.sort(key=lambda point: (point.stability.value, -point.plasticity.value))
    return Tradeoff(anchors, tuple(placed), hypervolume(line, corner), epsilon)


def _point(anchors: Anchors, one: Candidate) -> Point:
    if len(one.outcomes) != len(anchors.naive):
        raise DataError(
            f"trial {one.name} of {len(one.outcomes)} seeds beside anchors of {len(anchors.naive)}",
            expected="trials and anchors of the same seeds",
            do="train both with the same seeds",
        )
    lost, gain = numbers(one.outcomes, "forgetting"), numbers(one.outcomes, "gain")
    return Point(one.name, anchors.stability(lost), anchors.plasticity(gain))


def _scores(anchors: Anchors, name: str, one: Candidate | None) -> dict[str, float | None]:
    """What a point scores, on average over seeds."""
    if name == "frozen":
        before = numbers(anchors.naive, "untouched")
        return {"gain": _average(before), "forgetting": 0.0, "kept": None, "dip": 0.0}
    outcomes = {"naive": anchors.naive, "joint": anchors.joint}.get(name) or (one.outcomes if one else [])
    return {n: _average(numbers(outcomes, n)) for n in ("gain", "forgetting", "kept", "dip")}


def _average(values: Values) -> float | None:
    return finite(float(values.mean())) if len(values) and np.isfinite(values).all() else None
