"""Means, intervals and paired differences over tasks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Summary:
    """A mean over tasks with its interval.

    Attributes:
        mean: arithmetic mean; infinite or NaN where a task is.
        ci95: half-width of the 95 % interval over tasks, 1.96 sd / sqrt(n).
        n: number of tasks.
    """

    mean: float
    ci95: float
    n: int


def summarise(scores: Sequence[float]) -> Summary:
    """Mean and 95 % interval of per-task scores.

    >>> summarise([1.0, 2.0, 3.0, 4.0])
    Summary(mean=2.5, ci95=1.26517, n=4)
    """
    n = len(scores)
    mean = math.fsum(scores) / n if all(map(math.isfinite, scores)) else sum(scores) / n
    if not math.isfinite(mean) or n < 2:
        return Summary(mean, math.nan, n)
    return Summary(mean, 1.96 * statistics.stdev(scores, mean) / math.sqrt(n), n)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Summary:
    """Mean of ours - theirs over the same tasks, with the interval of the differences.

    >>> paired_difference([1.0, 2.0], [0.0, 1.0])
    Summary(mean=1.0, ci95=0.0, n=2)
    """
    return summarise([a - b for a, b in zip(ours, theirs, strict=True)])


def median(scores: Sequence[float]) -> float:
    """The middle score; infinite scores count, NaN ones count as infinite."""
    return statistics.median(math.inf if math.isnan(s) else s for s in scores)
