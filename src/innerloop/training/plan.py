"""`il.plan`: what each gradient path would cost, before anything is trained."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ContractError
from innerloop.core.memory import human
from innerloop.core.rng import generator
from innerloop.core.types import Episode
from innerloop.gradients import Recompute
from innerloop.gradients.base import MetaGradient
from innerloop.tasks.base import TaskSource
from innerloop.training.check import check_fit
from innerloop.training.config import TrainConfig
from innerloop.training.cost import Workload, predicted
from innerloop.training.dial import budget_of, dialled
from innerloop.training.paths import as_gradient, known, words
from innerloop.training.step import tasks_of

log = logging.getLogger("innerloop")


@dataclass(frozen=True)
class PathCost:
    """One gradient path, and what is expected of it.

    Attributes:
        gradient: its name, with arguments that are not the usual ones.
        exact: whether it is the true gradient of the outer objective.
        seconds: of an outer step, sampling included.
        bytes: allocated at once during the meta-step.
        fits: whether that is within the budget.
    """

    gradient: str
    exact: bool
    seconds: float
    bytes: float
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What a run would cost by each gradient path that the learner can use.

    Attributes:
        paths: exact ones first, then the fastest.
        left_out: paths that the learner cannot use, with the reason.
        chosen: the path that training takes, and how it lifts tasks, in words.
        reason: why.
        budget: what a meta-step may take, in words.
        inner_steps, tasks_per_step, steps: what the figures are for.
        axis: how tasks are lifted in the figures.
    """

    paths: tuple[PathCost, ...]
    left_out: dict[str, str]
    chosen: str
    reason: str
    budget: str
    inner_steps: int
    tasks_per_step: int
    steps: int
    axis: str

    def __getitem__(self, gradient: str) -> PathCost:
        return next(path for path in self.paths if path.gradient == gradient)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `innerloop plan --json` prints them."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"{'gradient':<24}{'':<7}{'seconds a step':>15}{'peak memory':>13}  {'fits':<5}"
        lines = [head, "-" * len(head)]
        for path in self.paths:
            kind = "exact" if path.exact else ""
            cost = f"{path.seconds:>15.4g}{human(path.bytes):>13}"
            lines.append(f"{path.gradient:<24}{kind:<7}{cost}  {'yes' if path.fits else 'no':<5}")
        lines += [f"{name:<24}left out: {why}" for name, why in self.left_out.items()]
        work = f"{self.inner_steps} inner steps, {self.tasks_per_step} tasks in an outer step, {self.axis}"
        return "\n".join(
            [work, "", *lines, "", f"memory   {self.budget}", f"training takes {self.chosen}: {self.reason}"]
        )


def plan(learner: ModuleLearner, tasks: TaskSource, *, config: TrainConfig | None = None) -> Plan:
    """Time and measure each gradient path on real tasks, with few inner steps, and predict the rest.

    Nothing is trained, and nothing is written.

    Args:
        learner: an algorithm around a module.
        tasks: where tasks come from.
        config: the outer loop, as `il.train` takes it.

    Returns:
        For each path that the learner can use, the expected seconds of an outer step and its peak memory;
        which of them fit; and which one training takes under `config.memory`.

    >>> import innerloop as il
    >>> learner = il.algorithms.MAML(il.models.MLP(1, 1), inner_steps=5, loss="mse")
    >>> found = il.plan(learner, il.tasks.Sinusoid())
    >>> found.chosen, found["Recompute"].exact, found["FirstOrder"].exact
    ('Unrolled', True, False)
    """
    config = config or TrainConfig()
    check_fit(learner, tasks, config)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        return _planned(learner, tasks, config)
    finally:
        torch.set_num_threads(before)


def _planned(learner: ModuleLearner, tasks: TaskSource, config: TrainConfig) -> Plan:
    learner.to(config.device)
    meta = learner.init(generator(config.seed, "init"))
    sampling, episodes = _sampled(learner, tasks, config)
    work = Workload(learner, tree.map(lambda leaf: leaf.to(config.device), meta), episodes, config)
    budget = budget_of(config)
    paths, left_out = [], {}
    for gradient in _candidates(learner, config):
        log.debug("measuring %s", words(gradient))
        try:
            cost = predicted(work, gradient, work.rule)
        except (ContractError, NotImplementedError) as error:
            left_out[words(gradient)] = error.got if isinstance(error, ContractError) else str(error)
            continue
        fits = budget.holds(cost.bytes)
        paths.append(PathCost(words(gradient), gradient.exact, cost.seconds + sampling, cost.bytes, fits))
    own = as_gradient(config.gradient) or learner.gradient
    choice = dialled(work, own, budget)
    return Plan(
        paths=tuple(sorted(paths, key=lambda path: (not path.exact, path.seconds))),
        left_out=left_out,
        chosen=words(choice.gradient) + ("" if choice.axis == config.tasks_axis else f" by {choice.axis}"),
        reason=choice.reason,
        budget=str(budget),
        inner_steps=learner.inner_steps,
        tasks_per_step=config.tasks_per_step,
        steps=config.steps,
        axis=str(work.rule),
    )


def _candidates(learner: ModuleLearner, config: TrainConfig) -> Iterator[MetaGradient]:
    """The learner's path, the one asked for, and the others at their usual arguments; each once."""
    steps = learner.inner_steps
    found = [as_gradient(config.gradient) or learner.gradient]
    if steps > 1:  # with fewer there is one sweep, whatever it is called
        found += [cls() for cls in known().values()]
    if steps > 3:
        found.append(Recompute(segment=round(math.sqrt(steps))))
    yield from dict.fromkeys(found)


def _sampled(learner: ModuleLearner, tasks: TaskSource, config: TrainConfig) -> tuple[float, Episode]:
    """The first tasks that training would take, and the seconds that sampling takes."""
    tasks_of(learner, tasks, config, 0)
    started = time.perf_counter()
    episodes = tasks_of(learner, tasks, config, 0)
    return time.perf_counter() - started, episodes
