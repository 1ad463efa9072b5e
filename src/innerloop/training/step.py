"""One outer step: sample tasks, obtain the meta-gradient, move the meta-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.learner import STATISTICS, MetaLearner
from innerloop.core.mode import running_in
from innerloop.core.rng import key
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import TasksAxis, num_tasks
from innerloop.gradients.base import Carry, MetaGradient, Record, learned
from innerloop.tasks.base import TaskSource
from innerloop.training.aggregate import by_family
from innerloop.training.averaging import average_in
from innerloop.training.config import OptimizerConfig, Precision, TrainConfig
from innerloop.training.joint import Joint
from innerloop.training.objective import gradient_at, task_weights
from innerloop.training.state import TrainState

_STATISTICS_MOMENTUM = 0.1  # torch's own default for BatchNorm


@dataclass(frozen=True)
class Engine:
    """How meta-gradients are computed: settled before the first outer step, and the same from then on."""

    gradient: MetaGradient
    axis: TasksAxis = "auto"
    precision: Precision = "float32"
    compile: bool = False


def outer_step(
    state: TrainState, learner: ModuleLearner, tasks: TaskSource, engine: Engine, config: TrainConfig
) -> Record:
    """Advance `state` by one outer step. The tasks are those of (seed, step), whatever went before."""
    num = config.objective.candidates(config.tasks_per_step, state.step / config.steps)
    episodes = tasks_of(learner, tasks, config, state.step, num)
    families = None if learner.pooled else families_of(tasks, num, key(config.seed, "tasks", state.step))
    record = meta_step(state, learner, episodes, engine, config, families)
    state.step += 1
    return record


def tasks_of(
    learner: ModuleLearner, tasks: TaskSource, config: TrainConfig, step: int, num: int | None = None
) -> Episode:
    """The tasks of an outer step, on the device; batches of all training classes for a `pooled` learner.

    There are `tasks_per_step` of them, or `num`, of which those are the first.
    """
    num, place = num or config.tasks_per_step, key(config.seed, "tasks", step)
    episodes = tasks.pooled(num, place) if learner.pooled else tasks.sample("train", num, place)
    return to_device(episodes, config.device)


def families_of(tasks: TaskSource, num: int, place: int) -> Sequence[int] | None:
    """The family of each training task that `sample` gives for the same arguments; None is one for all."""
    asked = getattr(tasks, "families", None)
    return None if asked is None else asked("train", num, place)


def estimated(
    engine: Engine,
    learner: MetaLearner,
    meta: Meta,
    episodes: Episode,
    carry: Carry = None,
    *,
    weights: Tensor | None = None,
    key: int = 0,
) -> tuple[Meta, Carry, Record]:
    """The meta-gradient as the engine obtains it, the carry and the record."""
    how: dict[str, Any] = {"axis": engine.axis, "compile": engine.compile}
    how |= {} if weights is None else {"weights": weights}  # a path of the user's own may know of none
    with running_in(precision=_precision(engine)):
        return engine.gradient.estimate(learner, meta, episodes, carry, key=key, **how)


def gradient_of(
    state: TrainState,
    learner: ModuleLearner,
    episodes: Episode,
    engine: Engine,
    config: TrainConfig,
    families: Sequence[int] | None = None,
) -> tuple[Meta, Carry, Record]:
    """The gradient of the configured objective at this point of training; the carry and the record.

    Args:
        episodes: the tasks, of which a curriculum takes the first or all, as they come out.
        families: of the tasks [T]; None is one for all.
    """
    objective, progress = config.objective, state.step / config.steps
    place = key(config.seed, "inner", state.step)
    engine = replace(engine, gradient=gradient_at(engine.gradient, objective, progress))
    with running_in(progress=progress):
        weights = None
        if objective.chooses:
            keep = config.tasks_per_step if objective.curriculum else num_tasks(episodes)
            how = {"keep": keep, "key": place, "axis": engine.axis}
            with running_in(precision=_precision(engine)):
                weights = task_weights(learner, state.meta, episodes, objective, **how)

        def of_tasks(weights: Tensor | None) -> tuple[Meta, Carry, Record]:
            return estimated(engine, learner, state.meta, episodes, state.carry, weights=weights, key=place)

        name, own = config.optimizer.aggregate, key(config.seed, "aggregate", state.step)
        grads, carry, record = by_family(of_tasks, families, weights, name, key=own)
        share = objective.joint_at(progress)
        if share:
            pooled = replace(engine, gradient=Joint())
            joint, _, _ = estimated(pooled, learner, state.meta, episodes, weights=weights, key=place)
            grads = tree.map(lambda g, j: g + share * j, grads, joint)
    return grads, carry, record


def meta_step(
    state: TrainState,
    learner: ModuleLearner,
    episodes: Episode,
    engine: Engine,
    config: TrainConfig,
    families: Sequence[int] | None = None,
) -> Record:
    """Move the meta-parameters along the meta-gradient of some tasks; not at all if most of them failed."""
    grads, carry, record = gradient_of(state, learner, episodes, engine, config, families)
    if record.mostly_failed:
        return record
    state.carry = carry
    leaves = tree.leaves(learned(state.meta))
    for leaf, grad in zip(leaves, tree.leaves(learned(grads)), strict=True):
        leaf.grad = _regularised(grad, leaf, config.optimizer)
    state.clipped += _clip(leaves, config.optimizer)
    for group in state.optimizer.param_groups:
        group["lr"] = config.optimizer.rate(state.step, config.steps)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if record.statistics:
        _average(state.meta[STATISTICS], record.statistics)
    if state.average is not None and config.optimizer.average is not None:
        average_in(state.average, state.meta, config.optimizer.average, state.step + 1)
    return record


def to_device(episodes: Episode, device: torch.device | str) -> Episode:
    return Episode(*(Batch(batch.x.to(device), batch.y.to(device)) for batch in episodes))


def _precision(engine: Engine) -> torch.dtype | None:
    return torch.bfloat16 if engine.precision == "bfloat16" else None


def _regularised(grad: Tensor, leaf: Tensor, config: OptimizerConfig) -> Tensor:
    if config.l2:
        grad = grad + config.l2 * leaf
    return grad + config.l1 * leaf.sign() if config.l1 else grad


def _clip(leaves: list[Tensor], config: OptimizerConfig) -> bool:
    """Bound the gradients; whether any of them was beyond its bound."""
    value, norm, acted = config.clip_value, config.clip_norm, False
    if value is not None:
        acted = any(bool((leaf.grad.abs() > value).any()) for leaf in leaves if leaf.grad is not None)
        torch.nn.utils.clip_grad_value_(leaves, value)
    if norm is not None:
        acted |= bool(torch.nn.utils.clip_grad_norm_(leaves, norm) > norm)
    return acted


def _average(running: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
    for name, value in batch.items():
        running[name].lerp_(value, _STATISTICS_MOMENTUM)
