"""The memory dial: the cheapest exact path whose meta-step fits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from innerloop.core.memory import SHARE, available, human, is_allocation_failure
from innerloop.core.vectorise import Lifting, TasksAxis
from innerloop.gradients import Recompute, Unrolled
from innerloop.gradients.base import MetaGradient
from innerloop.training.config import TrainConfig
from innerloop.training.cost import Cost, Workload, predicted
from innerloop.training.paths import words

_SIZEABLE = 0.25  # of the budget: what the path's own figure must reach before anything is measured


@dataclass(frozen=True)
class Budget:
    """What a meta-step may allocate at once: bytes, or None for no bound; and where that is from."""

    bytes: float | None
    source: str

    def holds(self, size: float) -> bool:
        return self.bytes is None or size <= self.bytes

    def __str__(self) -> str:
        return self.source if self.bytes is None else f"{human(self.bytes)} ({self.source})"


@dataclass(frozen=True)
class Choice:
    """A gradient path and how to lift tasks, with the reason in a sentence."""

    gradient: MetaGradient
    axis: TasksAxis
    reason: str


def budget_of(config: TrainConfig) -> Budget:
    """The budget that a configuration states, or finds in the machine."""
    if config.memory is None:
        return Budget(None, "no bound")
    if config.memory == "auto":
        free = available(config.device)
        return Budget(SHARE * free, f"{SHARE:.0%} of {human(free)} that are free")
    return Budget(config.memory * 1e9, "as asked for")


def dialled(work: Workload, own: MetaGradient, budget: Budget) -> Choice:
    """The cheapest exact way to the learner's gradient that is within the budget.

    A path that was asked for by name, or that is not exact, is left as it is.
    """
    config = work.config
    if config.gradient is not None:
        return Choice(own, config.tasks_axis, "as asked for")
    if budget.bytes is None or own != Unrolled():
        return Choice(own, config.tasks_axis, "the learner's own path")
    rule = work.rule
    bound = work.bound(own, rule)
    if bound < _SIZEABLE * budget.bytes:
        return Choice(own, config.tasks_axis, f"about {human(bound)} are no problem in {human(budget.bytes)}")
    cost = _cost(work, own, rule)
    if budget.holds(cost.bytes):
        return Choice(own, config.tasks_axis, f"{human(cost.bytes)} fit in {human(budget.bytes)}")
    return _smaller(work, own, budget, cost)


def _smaller(work: Workload, own: MetaGradient, budget: Budget, whole: Cost) -> Choice:
    """Chunks of half as many tasks and so on, as far as one task; then the same by recomputing."""
    rule = work.rule
    too_much = f"{words(own)} by {rule} would take {human(whole.bytes)} of {human(budget.bytes or 0)}"
    least = (whole, own, rule)
    for gradient in (own, Recompute()):
        for how in _chunks(rule, fixed=work.config.tasks_axis != "auto"):
            cost = whole if (gradient, how) == (own, rule) else _cost(work, gradient, how)
            least = min(least, (cost, gradient, how), key=lambda found: found[0].bytes)
            if budget.holds(cost.bytes):
                reason = f"{too_much}; {words(gradient)} by {how} takes {human(cost.bytes)}"
                return Choice(gradient, _axis(work, how), reason)
    cost, gradient, how = least
    reason = (
        f"{too_much}; nothing exact fits, {words(gradient)} by {how} takes the least, {human(cost.bytes)}"
    )
    return Choice(gradient, _axis(work, how), reason)


def _cost(work: Workload, gradient: MetaGradient, how: Lifting) -> Cost:
    """The predicted cost; infinite where even a few inner steps do not fit."""
    try:
        return predicted(work, gradient, how, rounds=1)
    except (RuntimeError, MemoryError) as error:
        if not is_allocation_failure(error):
            raise
        return Cost(inf, inf)


def _chunks(rule: Lifting, *, fixed: bool) -> list[Lifting]:
    """The rule's own way, then ever smaller parts; a way that was asked for is left as it is."""
    found = [rule]
    while not fixed and (found[-1].size > 1 or found[-1].threads > 1):
        last = found[-1]
        found.append(replace(last, size=last.size // 2) if last.size > 1 else replace(last, threads=1))
    return found


def _axis(work: Workload, how: Lifting) -> TasksAxis:
    return work.config.tasks_axis if work.config.tasks_axis != "auto" else how
