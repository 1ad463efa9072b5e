"""The dip after a switch: how deep an old family's score falls within a later stage, and for how long."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from innerloop.diagnose.anytime import Timeline
from innerloop.diagnose.estimate import (
    Estimate,
    Flags,
    Measure,
    NotMeasured,
    Undefined,
    Values,
    picked,
)

_SHARE = 0.95  # of the score before a stage, that counts as recovered
_RESAMPLES = 500


@dataclass(frozen=True)
class Dip:
    """What a later stage did to an old family.

    Attributes:
        family: its name.
        start, end: steps of the stage.
        before, least: mean score at the last evaluation before the stage, and the least within it.
        recovery: steps from the stage's start to the first evaluation, not before the least score, that has
            95 % of the score before: 0 if it never had less, infinite if it did not come back within the
            stage, NaN if the score before is not above zero.
    """

    family: str
    start: int
    end: int
    before: float
    least: float
    recovery: float


class _Stage(NamedTuple):
    """An old family under a later stage: its evaluation (a row) just before, and those within."""

    family: int
    start: int
    end: int
    before: int
    within: list[int]


def stability_gaps(timeline: Timeline) -> dict[str, Measure]:
    """For each family by name: its score just before a later stage minus its least score within that stage.

    Where several stages follow, their mean. Negative where a family only gains. The definition is ours; the
    phenomenon is that of De Lange et al. 2023 (2205.13452). What is lost for good is part of it, so look at
    forgetting too: what a gap is larger by was made up for.
    """
    found: dict[str, Measure] = {}
    for j, name in enumerate(timeline.names):
        try:
            found[name] = _gap(timeline, _stages(timeline, [j]))
        except NotMeasured as error:
            found[name] = Undefined(str(error))
    return found


def stability_gap(timeline: Timeline) -> Measure:
    """The mean over old families of their gaps (see `stability_gaps`)."""
    try:
        return _gap(timeline, _stages(timeline, range(len(timeline.names))))
    except NotMeasured as error:
        return Undefined(str(error))


def dips(timeline: Timeline) -> tuple[Dip, ...]:
    """What each later stage did to each old family, on average over the tasks measured throughout.

    Raises:
        NotMeasured: no stage follows that of another family, or a family was not evaluated before or within
            one.
    """
    stages = _stages(timeline, range(len(timeline.names)))
    scores = timeline.table.paired(_need(timeline, stages))
    found = []
    for stage in stages:
        series = scores[stage.family].mean(1, keepdims=True)
        before, least = float(series[stage.before, 0]), float(series[stage.within].min())
        recovery = float(_recovery(timeline, stage, series)[0]) if before > 0 else math.nan
        found.append(Dip(timeline.names[stage.family], stage.start, stage.end, before, least, recovery))
    return tuple(found)


def recovery_steps(timeline: Timeline, *, seed: int = 0) -> Measure:
    """Mean over dips of the outer steps until 95 % of the score before is regained (see `Dip`).

    As fine as evaluations are dense. A time is no sum of scores, so its interval is the percentile one of a
    bootstrap over tasks, drawn by `seed`; an end may be infinite.
    """
    try:
        found = dips(timeline)
    except NotMeasured as error:
        return Undefined(str(error))
    if any(math.isnan(dip.recovery) for dip in found):
        return Undefined("a score before a stage is not above zero, so 95 % of it says nothing")
    lost = sum(math.isinf(dip.recovery) for dip in found)
    if lost:
        return Undefined(f"{lost} of {len(found)} dips were not made up for within their stage")
    value = float(np.mean([dip.recovery for dip in found]))
    stages = _stages(timeline, range(len(timeline.names)))
    scores = timeline.table.paired(_need(timeline, stages))
    n = min(values.shape[1] for values in scores.values())
    if n < 2:
        return Estimate(value, math.inf, -math.inf, math.inf, n)
    rng = np.random.default_rng(seed)
    draws = {j: _shares(rng, values.shape[1]) for j, values in scores.items()}
    if timeline.together:
        draws = dict.fromkeys(draws, next(iter(draws.values())))
    means = {j: values @ draws[j] for j, values in scores.items()}
    times = np.mean([_recovery(timeline, stage, means[stage.family]) for stage in stages], axis=0)
    low, high = np.quantile(times, (0.025, 0.975), method="inverted_cdf")
    error = float(times.std(ddof=1)) if np.isfinite(times).all() else math.inf
    return Estimate(value, error, min(float(low), value), max(float(high), value), n)


def _gap(timeline: Timeline, stages: Sequence[_Stage]) -> Measure:
    """The mean over families of the mean over later stages of before minus least."""
    of = [stage.family for stage in stages]
    families = len(set(of))

    def pick(means: Values) -> Values:
        weights = np.zeros(means.shape)
        for j, _, _, before, within in stages:
            share = 1 / of.count(j) / families
            weights[before, j] += share
            weights[within[int(means[within, j].argmin())], j] -= share
        return weights

    return picked(timeline.table, _need(timeline, stages), pick)


def _stages(timeline: Timeline, families: Sequence[int]) -> list[_Stage]:
    """Each of the families under each stage that began once its own had ended.

    Raises:
        NotMeasured: there are none, or a family was not evaluated before or within one.
    """
    steps = np.array(timeline.steps)
    begun = sorted({(timeline.starts[j], timeline.ends[j]) for j in timeline.seen})
    found = []
    for j in families:
        there, name, own = timeline.measured[:, j], timeline.names[j], timeline.ends[j]
        for start, end in begun:
            if start < own:
                continue
            earlier = np.flatnonzero(there & (steps >= own) & (steps <= start))
            within = np.flatnonzero(there & (steps > start) & (steps <= end))
            if not len(earlier):
                raise NotMeasured(f"{name} was not measured between its stage and that from step {start} on")
            if not len(within):
                raise NotMeasured(f"{name} was not measured within the stage from step {start} on")
            found.append(_Stage(j, start, end, int(earlier[-1]), within.tolist()))
    if not found:
        raise NotMeasured("no stage of another family follows")
    return found


def _need(timeline: Timeline, stages: Sequence[_Stage]) -> Flags:
    """The evaluations [E, families] that the stages ask for."""
    need = np.zeros(timeline.scores.shape[:2], dtype=bool)
    for stage in stages:
        need[[stage.before, *stage.within], stage.family] = True
    return need


def _recovery(timeline: Timeline, stage: _Stage, series: Values) -> Values:
    """Steps [B] until a family's series [E, B] are back at their level."""
    level, within = _SHARE * series[stage.before], series[stage.within]
    back = (within >= level) & (np.arange(len(within))[:, None] >= within.argmin(0))
    after = np.array([timeline.steps[row] - stage.start for row in stage.within], dtype=np.float64)
    times = np.where(back.any(0), after[back.argmax(0)], math.inf)
    return np.where(within.min(0) >= level, 0.0, times)


def _shares(rng: np.random.Generator, n: int) -> Values:
    """Shares [n, resamples] of tasks drawn with replacement."""
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).T / n
