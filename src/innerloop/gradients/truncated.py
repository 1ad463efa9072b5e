"""Backpropagation through the last inner steps alone."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.core.errors import check_count
from innerloop.gradients.carry import check_horizon
from innerloop.gradients.sweep import Sweep


@dataclass(frozen=True)
class Truncated(Sweep):
    """Backpropagation through the last steps; what was before them is a constant.

    The gradient of an initialisation is lost where steps were cut, since it acts through the first
    state: use it for what acts in every step (learned rates, a learned optimizer), as in truncated
    backpropagation through time (Werbos 1990). Shaban et al. 2019 (arXiv 1810.10667) bound the bias.

    Memory and work: those of `last` steps, and a forward pass of the rest.

    Args:
        last: steps that are differentiated, >= 1; None is all of an outer step's.
        horizon: inner steps of an unroll that persists: each outer step takes the next
            `inner_steps` of it, of the same tasks, and a fresh unroll begins after `horizon`. None begins
            anew in every outer step.
        first_order: whether inner gradients are constants too, as where optimizers are learned.
        segment: steps of those that are run again at a time, >= 1, which costs a forward pass more and keeps
            the graph of so many alone; None keeps that of all. Compiled, one step's graph serves for all.
    """

    last: int | None = 1
    horizon: int | None = None
    first_order: bool = False
    segment: int | None = None
    exact = False

    def __post_init__(self) -> None:
        if self.last is not None:
            check_count("last", self.last, low=1)
        if self.segment is not None:
            check_count("segment", self.segment, low=1)
        check_horizon(self.horizon)
