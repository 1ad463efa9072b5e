"""What each perturbation costs: a mean difference with its interval, and its share of all that is gained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from innerloop.core.errors import DataError
from innerloop.diagnose.finding import NotEvaluated, finite
from innerloop.diagnose.statistics import Values, mean_of

FILE = "stability.json"
WORST = 10.0  # an error counts as so many times that of a constant guess at most, and where it is not finite
_Z975 = 1.95996


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def clearly_positive(self) -> bool:
        return self.low > 0

    def to_dict(self, name: str) -> dict[str, float | None]:
        """Its numbers as JSON has them, under `name` and `name_ci95`, the half-width."""
        return {name: finite(self.value), f"{name}_ci95": finite(self.half_width)}


@dataclass(frozen=True)
class Effect:
    """What one size of one perturbation costs.

    Attributes:
        row: the record it was computed from.
        paired: whether the same tasks were judged with it and without.
        score, reference: mean scores with it and without; errors as they are capped.
        harm: by how much the mean score is worse, in its own units; positive is worse.
        lost: the share that is lost of what is gained over a constant guess; None where nothing is gained.
        differences: the harm of each task, [n]; empty where tasks are not paired.
        failed: tasks whose outputs are not finite.
    """

    row: Mapping[str, Any]
    paired: bool
    score: float
    reference: float
    harm: Interval
    lost: Interval | None
    differences: tuple[float, ...]
    failed: int
    n: int

    @property
    def name(self) -> str:
        return self.row["name"]

    @property
    def size(self) -> str:
        return self.row["size"]

    @property
    def amount(self) -> float | None:
        """Its size, where that is a number."""
        return self.row.get("amount")

    def to_dict(self, *, records: bool = False) -> dict[str, Any]:
        """The effect as JSON has it; with `records`, also the difference of every task."""
        told: dict[str, Any] = {name: self.row.get(name) for name in ("name", "size", "amount", "about")}
        told |= {"paired": self.paired, "n": self.n, "failed": self.failed}
        told |= {"score": finite(self.score), "reference": finite(self.reference)}
        told |= self.harm.to_dict("harm")
        told |= {"lost": None, "lost_ci95": None} if self.lost is None else self.lost.to_dict("lost")
        return told | ({"differences": [finite(d) for d in self.differences]} if records else {})


class Effects:
    """The effects of the perturbations of one run, from its records.

    Attributes:
        setup: facts about the run and its tasks.
        undisturbed: the mean score without a perturbation, and its interval.
        gained: what it gains over a constant guess, in units of the score, and its interval.
        all: every effect, the one that loses most first.
        skipped: why a perturbation does not apply, by its name.

    Raises:
        DataError: the records lack something.
    """

    def __init__(self, records: Mapping[str, Any]) -> None:
        try:
            self.setup: Mapping[str, Any] = records["setup"]
            self._higher = self.setup["metric"] == "accuracy"
            usual = records["undisturbed"]
            self._trivial = _numbers(usual["trivial"])
            self._usual = self._capped(usual["score"], self._trivial)
            self.undisturbed = interval(self._usual)
            self.gained = interval(self._sign * (self._usual - self._trivial))
            found = [self._effect(row) for row in records["rows"]]
            self.skipped: dict[str, str] = {row["name"]: row["reason"] for row in records["skipped"]}
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"records of stability without {error}",
                expected="records, as 'innerloop stability' takes them",
                do="measure again",
            ) from error
        self.all: tuple[Effect, ...] = tuple(sorted(found, key=_rank, reverse=True))

    def of(self, *names: str) -> list[Effect]:
        """The effects of some perturbations, by size as they were measured.

        Raises:
            NotEvaluated: there is none; the reason is that of the first.
        """
        found = [effect for effect in self.all if effect.name in names]
        if not found:
            raise NotEvaluated(next((self.skipped[n] for n in names if n in self.skipped), "not measured"))
        return sorted(found, key=lambda effect: effect.amount or 0.0)

    def setting(self, name: str) -> Any:
        """A setting of the run by its dotted name, such as `algorithm.inner_lr`; None if there is none."""
        node: Any = self.setup.get("config", {})
        for part in name.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    def has_setting(self, group: str, name: str) -> bool:
        """Whether a component has a setting, whatever its value."""
        return name in (self.setup.get("config", {}).get(group) or {})

    @property
    def _sign(self) -> float:
        return 1.0 if self._higher else -1.0

    @property
    def _best(self) -> float:
        return 1.0 if self._higher else 0.0

    def _effect(self, row: Mapping[str, Any]) -> Effect:
        if row["tasks"] == "other":
            return self._unpaired(row)
        count = len(row["score"])
        usual, trivial = self._usual[:count], self._trivial[:count]
        if "reference" in row:
            usual = self._capped(row["reference"]["score"], trivial)
        scores = self._capped(row["score"], trivial)
        differences = self._sign * (usual - scores)
        gained = self._sign * (usual - trivial)
        return Effect(
            row,
            paired=True,
            score=float(scores.mean()),
            reference=float(usual.mean()),
            harm=interval(differences),
            lost=ratio(differences, gained) if interval(gained).clearly_positive else None,
            differences=tuple(differences.tolist()),
            failed=_failed(row["score"]),
            n=count,
        )

    def _unpaired(self, row: Mapping[str, Any]) -> Effect:
        """Other tasks, whose own constant guess says how hard they are: shares of what could be gained."""
        trivial = _numbers(row["trivial"])
        scores = self._capped(row["score"], trivial)
        ours = self._solved(self._usual, self._trivial)
        theirs = self._solved(scores, trivial)
        harm = self._sign * float(self._usual.mean() - scores.mean())
        half = math.hypot(interval(self._usual).half_width, interval(scores).half_width)
        lost = None
        if ours.clearly_positive and self.gained.clearly_positive:
            kept = theirs.value / ours.value
            wide = math.hypot(theirs.half_width, kept * ours.half_width) / ours.value
            lost = Interval(1 - kept, 1 - kept - wide, 1 - kept + wide)
        return Effect(
            row,
            paired=False,
            score=float(scores.mean()),
            reference=float(self._usual.mean()),
            harm=Interval(harm, harm - half, harm + half),
            lost=lost,
            differences=(),
            failed=_failed(row["score"]),
            n=len(scores),
        )

    def _solved(self, scores: Values, trivial: Values) -> Interval:
        """The share of what there is to gain over a constant guess that is gained."""
        possible = np.abs(self._best - trivial)
        if not possible.mean() > 0:
            return Interval(0.0, 0.0, 0.0)
        return ratio(self._sign * (scores - trivial), possible)

    def _capped(self, scores: Sequence[float | None], trivial: Values) -> Values:
        """Scores where what failed is as bad as can be: no right answer, or an error far above a guess."""
        values = _numbers(scores)
        if self._higher:
            return np.nan_to_num(values, nan=0.0)
        worst = WORST * float(trivial.mean())
        return np.minimum(np.nan_to_num(values, nan=worst, posinf=worst), worst)


def interval(values: Values) -> Interval:
    """The mean of independent values [n] with its 95 % interval by Student's t; endless for a single one."""
    mean = mean_of(values)
    half = t975(len(values) - 1) * mean.error if len(values) > 1 else math.inf
    return Interval(mean.value, mean.value - half, mean.value + half)


def ratio(parts: Values, wholes: Values) -> Interval:
    """mean(parts) / mean(wholes) over the same tasks [n], with its 95 % interval to first order."""
    whole = float(wholes.mean())
    value = float(parts.mean()) / whole
    half = interval(parts - value * wholes).half_width / abs(whole)
    return Interval(value, value - half, value + half)


def t975(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t, by an expansion that is within 1 % from four degrees on.

    >>> round(t975(9), 2), round(t975(199), 3)
    (2.26, 1.972)
    """
    z = _Z975
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def _rank(effect: Effect) -> tuple[bool, float]:
    return effect.lost is not None, effect.harm.value if effect.lost is None else effect.lost.value


def _failed(scores: Sequence[float | None]) -> int:
    return sum(score is None for score in scores)


def _numbers(values: Sequence[float | None]) -> Values:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)
