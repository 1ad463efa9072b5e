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
from innerloop.training.adversary import attacked
from innerloop.training.aggregate import by_family
from innerloop.training.averaging import average_in
from innerloop.training.config import OptimizerConfig, Precision, TrainConfig
from innerloop.training.joint import Joint
from innerloop.training.objective import gradient_at, task_weights
from innerloop.training.retain.base import Moment
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
    episodes, families = drawn(learner, tasks, config, state.step, num)
    record = meta_step(state, learner, episodes, engine, config, families)
    state.step += 1
    if (
        state.retention is not None
        and state.retention.takes_stock
        and state.step in stage_ends(tasks, config)
    ):
        place = key(config.seed, "stage", state.step)
        episodes, families = drawn(learner, tasks, config, state.step - 1, config.retain.ewc_tasks, place)
        moment = _moment(state, learner, episodes, families, engine, config)
        state.retention.stage_ended(moment)
    return record


def tasks_of(
    learner: ModuleLearner, tasks: TaskSource, config: TrainConfig, step: int, num: int | None = None
) -> Episode:
    """The tasks of an outer step, on the device; batches of all training classes for a `pooled` learner.

    There are `tasks_per_step` of them, or `num`, of which those are the first.
    """
    return drawn(learner, tasks, config, step, num or config.tasks_per_step)[0]


def drawn(
    learner: ModuleLearner,
    tasks: TaskSource,
    config: TrainConfig,
    step: int,
    num: int,
    place: int | None = None,
) -> tuple[Episode, Sequence[int] | None]:
    """`num` training tasks as they come at an outer step, with their families.

    Args:
        place: a key for other tasks than those of the step.
    """
    now = source_at(tasks, step / config.steps)
    place = key(config.seed, "tasks", step) if place is None else place
    episodes = now.pooled(num, place) if learner.pooled else now.sample("train", num, place)
    return to_device(episodes, config.device), None if learner.pooled else families_of(now, num, place)


def source_at(tasks: TaskSource, progress: float) -> TaskSource:
    """Where tasks come from at a point of training: a stream changes, any other source is always the same."""
    at = getattr(tasks, "at", None)
    return tasks if at is None else at(min(progress, 1.0 - 1e-9))


def stage_ends(tasks: TaskSource, config: TrainConfig) -> list[int]:
    """The outer steps after which a stage of a stream is over; none for any other source."""
    return [stage.steps(config.steps)[1] for stage in getattr(tasks, "stages", [])]


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
        with running_in(precision=_precision(engine)):
            how = {"place": place, "axis": engine.axis}
            episodes = attacked(learner, state.meta, episodes, config.adversary, **how)
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
    place, kept = key(config.seed, "retain", state.step), state.retention
    fresh, own = episodes, list(families) if families is not None else [0] * num_tasks(episodes)
    if kept is not None:
        episodes, mixed = kept.mixed(fresh, own, place)
        families = None if families is None else mixed
    grads, carry, record = gradient_of(state, learner, episodes, engine, config, families)
    if record.mostly_failed:
        return record
    state.carry = carry
    followed, before = grads, {}
    if kept is not None:
        followed = kept.changed(grads, _moment(state, learner, fresh, own, engine, config))
        before = tree.map(lambda leaf: leaf.detach().clone(), learned(state.meta))
    leaves = tree.leaves(learned(state.meta))
    for leaf, grad in zip(leaves, tree.leaves(learned(followed)), strict=True):
        leaf.grad = _regularised(grad, leaf, config.optimizer)
    state.clipped += _clip(leaves, config.optimizer)
    for group in state.optimizer.param_groups:
        group["lr"] = config.optimizer.rate(state.step, config.steps)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if kept is not None:
        kept.stepped(grads, before, learned(state.meta), fresh, own)
    if record.statistics:
        _average(state.meta[STATISTICS], record.statistics)
    if state.average is not None and config.optimizer.average is not None:
        average_in(state.average, state.meta, config.optimizer.average, state.step + 1)
    return record


def _moment(
    state: TrainState,
    learner: ModuleLearner,
    tasks: Episode,
    families: Sequence[int] | None,
    engine: Engine,
    config: TrainConfig,
) -> Moment:
    """This outer step, as remedies against forgetting see it."""
    place, progress = key(config.seed, "retain", state.step), state.step / config.steps
    engine = replace(engine, gradient=gradient_at(engine.gradient, config.objective, progress))

    def gradient(episodes: Episode) -> Meta:
        with running_in(progress=progress):
            return estimated(engine, learner, state.meta, episodes, key=place)[0]

    own = [0] * num_tasks(tasks) if families is None else list(families)
    return Moment(learner, state.meta, gradient, tasks, own, place)


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
