"""Trends with intervals: block means, a slope over them, and what the tasks say of it."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

#: One-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond them an expansion.
_T95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812)
_Z95 = 1.6449


def t95(freedom: int) -> float:
    """The one-sided 95 % quantile of Student's t.

    >>> t95(2), round(t95(30), 3)
    (2.92, 1.697)
    """
    if freedom < 1:
        return math.inf
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = _Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


class Mean(NamedTuple):
    """A mean with its standard error."""

    value: float
    error: float

    @property
    def low(self) -> float:
        """The lower bound of its one-sided 95 % interval."""
        return self.value - _Z95 * self.error

    @property
    def high(self) -> float:
        return self.value + _Z95 * self.error


def mean_of(values: Values) -> Mean:
    """The mean of independent values [n] and its standard error; infinite for a single one."""
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Mean(float(values.mean()), error)


class Trend(NamedTuple):
    """The change of a mean loss over a window, as a share of it.

    Attributes:
        change: relative change over the window; negative is better.
        half_width: of its 90 % interval, so that both ends hold with 95 %.
        over_time, over_tasks: the parts of the half-width that come from the noise of the iterates, and from
            the choice of tasks.
        mean: the mean loss in the window.
    """

    change: float
    half_width: float
    over_time: float
    over_tasks: float
    mean: float

    @property
    def low(self) -> float:
        return self.change - self.half_width

    @property
    def high(self) -> float:
        return self.change + self.half_width


def trend(values: Values) -> Trend:
    """The trend of losses [K, T] of the same T tasks at K >= 4 looks.

    Looks are averaged in at most ten blocks, whose means are nearly independent where looks are not, and a
    line is fitted to them. Tasks are paired, so what makes one task harder than another is no part of the
    interval.
    """
    looks = len(values)
    blocks = min(10, looks // 2)
    edges = np.linspace(0, looks, blocks + 1).round().astype(int)
    means = np.stack([values[a:b].mean(0) for a, b in itertools.pairwise(edges)])
    middles = (edges[:-1] + edges[1:]) / 2  # of blocks, one of which may have a look more than another
    at = middles - middles.mean()
    level = float(means.mean())
    scale = looks / level if level > 0 else math.inf
    slopes = at @ means / (at @ at)  # of each task [T]
    slope = float(slopes.mean())
    rest = means.mean(1) - level - slope * at
    noise = math.sqrt(float(rest @ rest) / max(1, blocks - 2) / float(at @ at))
    over_time = t95(blocks - 2) * noise * scale
    over_tasks = _Z95 * mean_of(slopes).error * scale if len(slopes) > 1 else 0.0
    return Trend(slope * scale, math.hypot(over_time, over_tasks), over_time, over_tasks, level)
