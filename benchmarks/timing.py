"""Timing side by side: in each round every contender has a turn, so that noise hits all alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from machine import synchronise

SLOW_MS, SLOW_ROUNDS = 2000.0, 3  # what takes longer is timed in the first rounds only
TURN_MS = 60.0  # a turn lasts at least so long: short calls follow one another, as in training


@dataclass(frozen=True)
class Spread:
    """Where some figures lie."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(statistics.median(figures), min(figures), max(figures))

    def text(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} .. {_short(self.high)})"


def _short(figure: float) -> str:
    """Three digits that tell something."""
    return f"{figure:.{0 if abs(figure) >= 100 else 1 if abs(figure) >= 10 else 2}f}"


def round_robin(
    calls: dict[str, Callable[[], Any]],
    rounds: int,
    *,
    device: str = "cpu",
    warmups: int = 1,
    before: Callable[[str], None] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of each call, a figure a round: the mean over one turn.

    Args:
        warmups: calls of each that are not counted.
        before: called with the name before each call, outside the clock.
    """

    def timed(name: str, count: int = 1) -> float:
        if before:
            before(name)
        gc.collect()  # or one pays for the cycles that another left
        if count > 1:
            calls[name]()  # what another contender has pushed out of the caches comes back
        synchronise(device)
        start = time.perf_counter()
        for _ in range(count):
            calls[name]()
        synchronise(device)
        return 1e3 * (time.perf_counter() - start) / count

    warm = {name: [timed(name) for _ in range(max(1, warmups) + 1)][-1] for name in calls}
    turns = {name: math.ceil(TURN_MS / ms) for name, ms in warm.items()}
    slow = {name for name, ms in warm.items() if ms > SLOW_MS}
    found: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    for index in range(rounds):
        for name in order:
            if name not in slow or index < SLOW_ROUNDS:
                found[name].append(timed(name, turns[name]))
        order = order[1:] + order[:1]  # none is always first, or always after the same one
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratio within each round that both were timed in."""
    return Spread.of([a / b for a, b in zip(above, below, strict=False)])
