"""Quantities of a run's probe as the charts need them: means over tasks with intervals, ratios, places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.history import History, Series
from innerloop.diagnose.verdict import CAP

Values = NDArray[np.float64]

_Z = 1.96  # half-width of a 95 % interval, in standard errors


class Curve(NamedTuple):
    """A mean over tasks with the half-width of its 95 % interval, at some outer steps [K]."""

    steps: list[int]
    mean: Values
    half: Values

    @property
    def low(self) -> Values:
        return self.mean - self.half

    @property
    def high(self) -> Values:
        return self.mean + self.half


def task_losses(
    history: History,
    name: str,
    *,
    split: str = "val",
    inner_step: int | None = None,
    scale: float | None = None,
) -> Series:
    """Losses of probe tasks, none above `CAP` times the trivial one, as the verdict counts them.

    What is measured on fewer tasks is measured on the first of them.
    """
    place = {"inner_step": inner_step, "scale": scale}
    found = on_same_tasks(history.series(name, split=split, **place))
    if not history.has("trivial", split=split):
        return found
    limit = CAP * history.series("trivial", split=split).last
    known = [np.where(np.isfinite(v), v, np.inf) for v in found.values]
    return Series(found.steps, [np.minimum(v, limit[: len(v)]) for v in known])


def on_same_tasks(found: Series) -> Series:
    """The looks at the tasks that all of them saw: a look may take fewer, which are the first of more."""
    count = min(map(len, found.values))
    return Series(found.steps, [v[:count] for v in found.values])


def mean_curve(found: Series) -> Curve:
    """The mean of each measurement over its tasks."""
    return Curve(found.steps, found.means, np.array([half_width(v) for v in found.values]))


def half_width(values: Values) -> float:
    """Of the 95 % interval of a mean over tasks; NaN for one task."""
    with np.errstate(invalid="ignore"):
        return _Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def scalars(history: History, name: str, **place: str | int) -> tuple[list[int], Values]:
    """A quantity of one number a look: outer steps and values [K]."""
    found = history.series(name, **place)
    return found.steps, found.means


def per_task(history: History, name: str) -> tuple[list[int], Values, Values]:
    """A quantity of several tasks: outer steps, median and worst over tasks [K]."""
    found = history.series(name)
    stats = [(float(np.median(v)), float(v.max())) for v in found.values]
    return found.steps, np.array([m for m, _ in stats]), np.array([w for _, w in stats])


def dependence(history: History, split: str) -> Curve:
    """(wrong - post) / (trivial - post): what the right support gains over another task's, with its interval.

    The interval is that of a ratio of means of the same tasks, by linearisation. There is no point where
    nothing is gained over a constant guess.
    """
    wrong, post = task_losses(history, "wrong", split=split), task_losses(history, "post", split=split)
    guess = history.series("trivial", split=split).last
    ours = dict(zip(post.steps, post.values, strict=True))
    steps, mean, half = [], [], []
    for step, other in zip(wrong.steps, wrong.values, strict=True):
        count = min(len(other), len(ours.get(step, ())), len(guess))
        if count < 2:
            continue
        own = ours[step][:count]
        known = float((guess[:count] - own).mean())
        share = float((other[:count] - own).mean()) / known if known > 0 else math.nan
        steps.append(step)
        mean.append(min(1.0, share))
        rest = other[:count] - own - share * (guess[:count] - own)
        half.append(half_width(rest / known) if known > 0 else math.nan)
    if not steps:
        raise NotEvaluated(f"no look at both wrong and post of {split}")
    return Curve(steps, np.array(mean), np.array(half))


def val_over_train(history: History) -> Curve:
    """Mean loss on validation tasks over that on training tasks, with the interval of that ratio."""
    val, train = (task_losses(history, "post", split=split) for split in ("val", "train"))
    ours = dict(zip(val.steps, val.values, strict=True))
    steps, mean, half = [], [], []
    for step, seen in zip(train.steps, train.values, strict=True):
        if step not in ours or not seen.mean() > 0:
            continue
        unseen = ours[step]
        ratio = float(unseen.mean() / seen.mean())
        errors = [half_width(v) / float(v.mean()) if v.mean() > 0 else math.nan for v in (unseen, seen)]
        steps.append(step)
        mean.append(ratio)
        half.append(ratio * math.hypot(*errors))
    if not steps:
        raise NotEvaluated("no look at both validation and training tasks")
    return Curve(steps, np.array(mean), np.array(half))


def checkpoints(steps: Sequence[int]) -> list[int]:
    """The first, about a third, two thirds, and the last of some looks.

    >>> checkpoints([0, 10, 20, 30, 40, 50, 60])
    [0, 20, 40, 60]
    """
    places = {round(share * (len(steps) - 1)) for share in (0, 1 / 3, 2 / 3, 1)} if steps else set()
    return [steps[i] for i in sorted(places)]


def running_mean(values: Values, width: int = 5) -> Values:
    """The mean over the last `width` looks, at each look [K]."""
    return np.array([values[max(0, i + 1 - width) : i + 1].mean() for i in range(len(values))])


def running_ratio(above: Values, below: Values, width: int = 5) -> Values:
    """The ratio of means over the last `width` looks [K]; a mean of ratios follows the smallest noise."""
    level = running_mean(below, width)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(level > 0, running_mean(above, width) / level, np.nan)
