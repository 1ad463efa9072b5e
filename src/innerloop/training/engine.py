"""How a run computes its meta-gradients, settled before the first outer step: by which path, in which parts.

What does not pay to measure follows rules, so that short runs repeat bitwise. What was settled is
written down with its reason, and a resumed run reads it there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import log2
from typing import Any

import torch

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ContractError
from innerloop.core.memory import is_allocation_failure
from innerloop.core.types import Meta
from innerloop.core.vectorise import Lifting, candidates, num_tasks
from innerloop.gradients.base import MetaGradient
from innerloop.tasks.base import TaskSource
from innerloop.training.config import TrainConfig
from innerloop.training.cost import Workload
from innerloop.training.dial import Budget, Choice, budget_of, dialled
from innerloop.training.paths import as_gradient, plain, words
from innerloop.training.step import Engine, tasks_of

log = logging.getLogger("innerloop")

_PAYS = 50  # training has to take so many times as long as measuring
_LEAST = 20.0  # seconds of training below which nothing is measured
_PASSES = 3  # of a candidate: one to warm up, two that count
_COMPILES = 10_000  # outer steps from which on a compiler earns its time back, where Python takes most of it
_GAIN = 0.9  # the share of the rule's time that another way must stay below


@dataclass(frozen=True)
class Settled:
    """An engine, and how it came about.

    Attributes:
        timings: each way that was tried, with its seconds, or why it was not.
    """

    engine: Engine
    reason: str
    memory: str
    timings: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        axis = self.engine.axis
        values = {
            "gradient": plain(self.engine.gradient),
            "memory": self.memory,
            "tasks_axis": asdict(axis) if isinstance(axis, Lifting) else axis,
            "compile": self.engine.compile,
            "reason": self.reason,
            "timings": self.timings,
        }
        return json.dumps(values, indent=2) + "\n"


def settle(
    learner: ModuleLearner, meta: Meta, tasks: TaskSource, config: TrainConfig, step: int = 0
) -> Settled:
    """The engine of a run that goes on at `step`; its tasks are tried, and nothing is changed."""
    own = as_gradient(config.gradient) or learner.gradient
    work = Workload(learner, meta, tasks_of(learner, tasks, config, step), config)
    budget = budget_of(config)
    choice = dialled(work, own, budget)
    if choice.gradient != own or choice.axis != config.tasks_axis:
        log.info("%s", choice.reason)
    if _compiled(work, choice, config, config.steps - step):
        engine = Engine(choice.gradient, choice.axis, config.precision, compile=True)
        return Settled(engine, "compiled: nothing else is measured", choice.reason)
    if choice.axis != "auto":
        how = "in the parts that fit" if config.tasks_axis == "auto" else "as asked for"
        return Settled(Engine(choice.gradient, choice.axis, config.precision), how, choice.reason)
    found = _measured(work, choice, budget, config.steps - step)
    if found.timings:
        how = found.engine.axis if isinstance(found.engine.axis, Lifting) else work.rule
        log.info("tasks are lifted by %s: %s", how, found.reason)
    return found


def stored(text: str, learner: ModuleLearner, config: TrainConfig) -> Settled:
    """What an earlier part of the run settled; a `ContractError` for anything else."""
    own = as_gradient(config.gradient) or learner.gradient
    try:
        values = json.loads(text)
        axis, same = values["tasks_axis"], values["gradient"] == plain(own)
        gradient = own if same else as_gradient(values["gradient"]) or own
        lifting = Lifting(**axis) if isinstance(axis, Mapping) else axis
        return Settled(
            Engine(gradient, lifting, config.precision, values.get("compile", False)),
            values["reason"],
            values["memory"],
            values["timings"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ContractError(
            f"a choice of engine that cannot be read ({error})",
            expected="engine.json as a training run writes it",
            do="delete the file: it is made anew",
        ) from error


def cheaper(engine: Engine, tried: Lifting) -> str:
    """What to do where the engine's meta-step does not fit: the next cheaper way to its gradient."""
    ways = [f"set tasks_axis to {tried.size // 2}"] if tried.size > 1 else []
    name, segment = type(engine.gradient).__name__, getattr(engine.gradient, "segment", None)
    if name == "Unrolled" or (name == "Recompute" and segment != 1):
        ways.append("set gradient to Recompute, which is exact and keeps only states")
    elif name != "FirstOrder":
        ways.append("set gradient to FirstOrder, which is not exact")
    return ", or ".join(ways) or "take fewer tasks or a smaller model"


def _compiled(work: Workload, choice: Choice, config: TrainConfig, steps: int) -> bool:
    """Whether to compile: as asked for, or where a run is long and its kernels are small."""
    if config.compile != "auto":
        return config.compile
    small = work.rule.cores == 1 and work.rule.vmap
    alike = config.optimizer.aggregate == "mean"  # families differ in size from step to step: so do graphs
    return small and alike and steps >= _COMPILES and choice.gradient.compiles


def _measured(work: Workload, choice: Choice, budget: Budget, steps: int) -> Settled:
    """The fastest way to lift tasks, as far as measuring pays."""
    gradient = choice.gradient
    engine = Engine(gradient, "auto", work.config.precision)
    if steps < _PAYS * 2 * _PASSES:
        return Settled(engine, f"the rule's choice: measuring does not pay in {steps} steps", choice.reason)
    work.run(gradient, "auto")  # what vmap cannot lift falls back here, and the rule knows it from now on
    first = work.seconds(gradient, "auto")
    if steps * first < _LEAST:
        return Settled(engine, "the rule's choice: the run is over in seconds", choice.reason)
    rule = work.rule
    times = {rule: [first, work.seconds(gradient, "auto")]}
    notes: dict[Lifting, str] = {}
    allowed = steps * first / _PAYS - _PASSES * first
    for how in _ordered(work, rule):
        if not _may_fit(work, gradient, how, rule, budget):
            notes[how] = "not tried: it may not fit in memory"
        elif allowed < _PASSES * min(times[rule]):
            notes[how] = "not tried: the run is too short to pay for it"
        else:
            times[how], notes[how] = _timed(work, gradient, how, min(map(min, times.values())))
            allowed -= sum(times[how]) * _PASSES / 2
            times = {way: seconds for way, seconds in times.items() if seconds}
    best = min(times, key=lambda how: min(times[how]))
    for how in (rule, best):  # once more in turn, since a machine has its moments
        times[how].append(work.seconds(gradient, how))
    gain = min(times[best]) / min(times[rule])
    timings = [
        {"how": str(how), **asdict(how), "seconds": times.get(how, []), "note": notes.get(how, "the rule's")}
        for how in [rule, *notes]
    ]
    if gain > _GAIN:
        reason = f"the rule's choice: none of {len(times) - 1} others takes less than {_GAIN:.0%} of its time"
        return Settled(engine, reason, choice.reason, timings)
    reason = f"{min(times[best]):.4g} s a meta-step, {gain:.0%} of the rule's {rule}"
    return Settled(replace(engine, axis=replace(best, fallback=best.vmap)), reason, choice.reason, timings)


def _ordered(work: Workload, rule: Lifting) -> list[Lifting]:
    """The ways to try, those like the rule's first; without `vmap`, where it cannot lift the learner."""
    cores = torch.get_num_threads() if _on_cpu(work) and work.learner.concurrent else 1
    ways = candidates(num_tasks(work.episodes), cores)
    ways = [how for how in ways if how != replace(rule, fallback=False) and (rule.vmap or not how.vmap)]

    def unlike(how: Lifting) -> float:
        return abs(log2(how.size / rule.size)) + (how.threads != rule.threads) + 2 * (how.vmap != rule.vmap)

    return sorted(ways, key=unlike)


def _timed(work: Workload, gradient: MetaGradient, how: Lifting, best: float) -> tuple[list[float], str]:
    """Seconds of two passes after one to warm up; of one, if it is far from the best."""
    try:
        work.run(gradient, how)
        first = work.seconds(gradient, how)
        if first > 2 * best:
            return [first], "far slower than the best"
        return [first, work.seconds(gradient, how)], ""
    except RuntimeError as error:  # vmap has no rule for an operator, or memory ran out
        said = str(error).strip().partition("\n")[0]
        return [], "it does not fit in memory" if is_allocation_failure(error) else said


def _may_fit(work: Workload, gradient: MetaGradient, how: Lifting, rule: Lifting, budget: Budget) -> bool:
    smaller = how.size * how.threads <= rule.size * rule.threads
    return smaller or budget.holds(work.bound(gradient, how))


def _on_cpu(work: Workload) -> bool:
    return work.episodes.support.x.device.type == "cpu"


def told(engine: Engine, rule: Lifting) -> str:
    """An engine in words.

    >>> from innerloop.gradients import Unrolled
    >>> told(Engine(Unrolled()), Lifting(8))
    'Unrolled by vmap of 8'
    """
    return f"{words(engine.gradient)} by {rule}"
