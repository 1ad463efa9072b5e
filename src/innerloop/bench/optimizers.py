"""A trained optimizer against hand-written ones that are tuned, on problems that none of them has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from innerloop.algorithms.base import GradientLearner
from innerloop.algorithms.learned_optimizer import LearnedOptimizer
from innerloop.core.errors import ContractError, check_count
from innerloop.core.learner import states
from innerloop.core.losses import loss_value
from innerloop.core.mode import count_ways, running_in
from innerloop.core.types import Batch, Episode, Fast, Meta
from innerloop.core.vectorise import over_tasks, take
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.statistics import Summary, paired_difference, summarise
from innerloop.gradients import FirstOrder
from innerloop.models import MLP
from innerloop.rules import SGD, Adam, RMSprop, UpdateRule
from innerloop.tasks import Quadratics
from innerloop.tasks.base import TaskSource
from innerloop.training.components import arguments_of

#: The rivals: a rule of a rate, which is tuned. Their other numbers are the usual ones.
HANDWRITTEN: dict[str, Callable[[Any], UpdateRule]] = {
    "SGD": SGD,
    "Nesterov": lambda lr: SGD(lr, momentum=0.9, nesterov=True),
    "RMSprop": RMSprop,
    "Adam": Adam,
}
#: Four rates a decade, from 1e-4 to 10.
RATES = tuple(10 ** (k / 4) for k in range(-16, 5))
_FEW = 25  # problems that every rate is tried on
_FLOOR = 1e-30  # a loss of zero has a logarithm here


@dataclass(frozen=True)
class Row:
    """What one optimizer reached; logarithms are to base 10, means are over problems.

    Attributes:
        name: the rule's, or `learned`.
        lr: the rate that it was tuned to; None for the learned one.
        final: log loss after `steps` steps.
        later: log loss after twice as many.
        area: log loss averaged over the first `steps` steps and the start: the area under its curve.
        difference: final log loss of the learned one minus this one's, problem by problem; below zero
            where the learned one is better. None for the learned one.
        edge: the best rate is the first or the last of those tried, so that a better one may lie outside.
        diverged: problems whose loss is not finite after `steps` steps.
    """

    name: str
    lr: float | None
    final: Summary
    later: Summary
    area: Summary
    difference: Summary | None
    edge: bool
    diverged: int


class _Handwritten(GradientLearner):
    """A rule of `innerloop.rules` on a learned optimizer's problems: the same starts, the same minibatches.

    Its rate is `meta["lr"]`, so that rates are lifted like tasks.
    """

    gradient = FirstOrder()

    def __init__(self, like: LearnedOptimizer, rule: Callable[[Any], UpdateRule]) -> None:
        super().__init__(like.module, loss=like.loss, batch_norm=like.batch_norm)
        self.like, self.make, self.inner_batch = like, rule, like.inner_batch

    def begin(self, meta: Meta, support: Batch) -> Fast:
        fast = self.like.begin(meta, support)
        return fast | {"rule": self.rule_at(meta).init(fast["params"])}

    def rule_at(self, meta: Meta) -> UpdateRule:
        return self.make(meta["lr"])


def compare_optimizers(
    learner: LearnedOptimizer,
    meta: Meta,
    tasks: TaskSource,
    *,
    steps: int = 100,
    problems: int = 100,
    seed: int = 0,
    rates: Sequence[float] = RATES,
) -> list[Row]:
    """Judge a trained optimizer beside tuned SGD, Nesterov, RMSprop and Adam.

    All of them start from the same points of the same test problems and see the same minibatches. Each
    rival has the rate of `rates` with the lowest mean log loss after `steps` steps on as many validation
    problems (all rates on 25 of them, the best and its neighbours on all); of the learned one nothing is
    tuned here.

    Args:
        learner, meta: the optimizer, as in a run's `learner` and `meta`.
        tasks: problems, such as the run's `tasks`; a learner around another module takes others.
        steps: where losses are compared; they are followed for twice as many.
        problems: of each split, >= 2.
        seed: names the problems.

    Returns:
        The learned one first, then its rivals.
    """
    check_count("steps", steps)
    check_count("problems", problems, low=2)
    test, val = (FixedEpisodes(split, problems, seed) for split in ("test", "val"))
    ours = _curves(learner, meta, tasks, test, 2 * steps, ())[0]
    rows = [_row("learned", None, ours, steps, None)]
    for name, rule in HANDWRITTEN.items():
        rival = _Handwritten(learner, rule)
        best = _tuned(rival, meta, tasks, val, steps, rates)
        theirs = _curves(rival, meta, tasks, test, 2 * steps, rates[best : best + 1])[0]
        rows.append(_row(name, rates[best], theirs, steps, ours, edge=best in (0, len(rates) - 1)))
    return rows


def wider(learner: LearnedOptimizer, tasks: TaskSource) -> tuple[str, LearnedOptimizer, TaskSource]:
    """Problems of another size for the same optimizer: twice the dimensions, or twice the hidden units.

    Returns:
        What they are, in words, with the learner around the larger module, and the tasks.

    Raises:
        ContractError: neither `Quadratics` nor a model of ours with hidden layers.
    """
    if isinstance(tasks, Quadratics):
        larger = Quadratics(2 * tasks.dim, variant=tasks.variant)
        module = MLP(larger.dim, 1, hidden=(), bias=False)
        return f"{larger.dim} dimensions", around(learner, module), larger
    if isinstance(learner.module, MLP) and learner.module.hidden:
        settings, _ = arguments_of(learner.module)
        settings["hidden"] = tuple(2 * width for width in learner.module.hidden)
        words = f"hidden layers of {', '.join(map(str, settings['hidden']))}"
        return words, around(learner, MLP(**settings)), tasks
    raise ContractError(
        f"{type(learner.module).__name__} on {type(tasks).__name__}",
        expected="an MLP with hidden layers, or Quadratics",
        do="build the larger problem yourself: around(learner, module)",
    )


def around(learner: LearnedOptimizer, module: torch.nn.Module) -> LearnedOptimizer:
    """The same optimizer for another module; it goes with the same `meta`."""
    settings, _ = arguments_of(learner, skip=("module",))
    return LearnedOptimizer(module, **settings)


def _curves(
    learner: GradientLearner,
    meta: Meta,
    tasks: TaskSource,
    chosen: FixedEpisodes,
    steps: int,
    rates: Sequence[float],
) -> Tensor:
    """Losses [rates, problems, steps + 1]: query losses before the first step and after each."""

    def one_task(episode: Episode, key: Tensor, lr: Tensor) -> Tensor:
        at = meta | {"lr": lr}
        with running_in(training=False, first_order=True, key=key):
            reached = states(learner, at, episode.support, steps)
            outputs = (learner.predict(at, fast, episode.query.x) for fast in reached)
            return torch.stack([loss_value(learner.loss, out, episode.query.y) for out in outputs])

    found = []
    each = torch.tensor(rates or (1.0,))
    for block, keys in chosen.blocks(tasks):
        both = torch.arange(len(keys)).repeat(len(each))
        given = (take(block, both), keys[both], each.repeat_interleave(len(keys)))
        with torch.no_grad(), running_in(ways=count_ways(block.support.y)):
            losses = over_tasks(one_task, *given, owner=learner)
        found.append(losses.reshape(len(each), len(keys), -1))
    return torch.cat(found, dim=1)


def _tuned(
    rival: _Handwritten,
    meta: Meta,
    tasks: TaskSource,
    chosen: FixedEpisodes,
    steps: int,
    rates: Sequence[float],
) -> int:
    """The place of the best rate: all of them on a few problems, then the best and its neighbours on all."""

    def best(places: range, problems: int) -> int:
        few, tried = replace(chosen, episodes=problems), [rates[place] for place in places]
        return places[int(_logs(_curves(rival, meta, tasks, few, steps, tried)[:, :, -1]).mean(1).argmin())]

    middle = best(range(len(rates)), min(_FEW, chosen.episodes))
    return best(range(max(0, middle - 1), min(len(rates), middle + 2)), chosen.episodes)


def _row(
    name: str, lr: float | None, curve: Tensor, steps: int, ours: Tensor | None, *, edge: bool = False
) -> Row:
    logs = _logs(curve)
    final = logs[:, steps].tolist()
    return Row(
        name,
        lr,
        summarise(final),
        summarise(logs[:, -1].tolist()),
        summarise(logs[:, : steps + 1].mean(1).tolist()),
        None if ours is None else paired_difference(_logs(ours)[:, steps].tolist(), final),
        edge,
        sum(not math.isfinite(value) for value in final),
    )


def _logs(losses: Tensor) -> Tensor:
    """Logarithms to base 10; infinite for what is not a number."""
    return losses.double().nan_to_num(math.inf, math.inf).clamp_min(_FLOOR).log10()


def as_text(rows: Sequence[Row], *, steps: int = 100) -> str:
    """The comparison as a table."""
    head = ["optimizer", "rate", f"log10 loss at {steps}", f"at {2 * steps}", "area", "learned - this one"]
    cells = [head]
    for row in rows:
        rate = "" if row.lr is None else f"{row.lr:.2g}" + " (edge)" * row.edge
        found = [_words(s) for s in (row.final, row.later, row.area)]
        apart = "" if row.difference is None else _words(row.difference, sign="+")
        note = f"  {row.diverged} diverged" if row.diverged else ""
        cells.append([row.name, rate, *found, apart + note])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    problems = rows[0].final.n
    return "\n".join(
        [
            lines[0],
            "-" * len(lines[0]),
            *lines[1:],
            "",
            f"means over {problems} unseen problems, 95 % intervals; area: the mean over steps 0 to {steps}",
        ]
    )


def _words(found: Summary, sign: str = "") -> str:
    if not math.isfinite(found.mean):
        return f"{found.mean}"
    return f"{found.mean:{sign}.3f} +- {found.ci95:.3f}"
