"""One outer step: sample tasks, obtain the meta-gradient, move the meta-parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.learner import STATISTICS, MetaLearner
from innerloop.core.mode import running_in
from innerloop.core.rng import key
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import TasksAxis
from innerloop.gradients.base import Carry, MetaGradient, Record, learned
from innerloop.tasks.base import TaskSource
from innerloop.training.config import OptimizerConfig, Precision, TrainConfig
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
    record = meta_step(state, learner, tasks_of(learner, tasks, config, state.step), engine, config)
    state.step += 1
    return record


def tasks_of(learner: ModuleLearner, tasks: TaskSource, config: TrainConfig, step: int) -> Episode:
    """The tasks of an outer step, on the device; batches of all training classes for a `pooled` learner."""
    num, place = config.tasks_per_step, key(config.seed, "tasks", step)
    episodes = tasks.pooled(num, place) if learner.pooled else tasks.sample("train", num, place)
    return to_device(episodes, config.device)


def estimated(
    engine: Engine, learner: MetaLearner, meta: Meta, episodes: Episode, carry: Carry = None, *, key: int = 0
) -> tuple[Meta, Carry, Record]:
    """The meta-gradient as the engine obtains it, the carry and the record."""
    low = torch.bfloat16 if engine.precision == "bfloat16" else None
    with running_in(precision=low):
        how = {"axis": engine.axis, "compile": engine.compile}
        return engine.gradient.estimate(learner, meta, episodes, carry, key=key, **how)


def meta_step(
    state: TrainState, learner: ModuleLearner, episodes: Episode, engine: Engine, config: TrainConfig
) -> Record:
    """Move the meta-parameters along the meta-gradient of some tasks; not at all if most of them failed."""
    place = key(config.seed, "inner", state.step)
    with running_in(progress=state.step / config.steps):
        grads, carry, record = estimated(engine, learner, state.meta, episodes, state.carry, key=place)
    if record.mostly_failed:
        return record
    state.carry = carry
    leaves = tree.leaves(learned(state.meta))
    for leaf, grad in zip(leaves, tree.leaves(learned(grads)), strict=True):
        leaf.grad = _regularised(grad, leaf, config.optimizer)
    _clip(leaves, config.optimizer)
    for group in state.optimizer.param_groups:
        group["lr"] = config.optimizer.rate(state.step, config.steps)
    state.optimizer.step()
    state.optimizer.zero_grad()
    if record.statistics:
        _average(state.meta[STATISTICS], record.statistics)
    return record


def to_device(episodes: Episode, device: torch.device | str) -> Episode:
    return Episode(*(Batch(batch.x.to(device), batch.y.to(device)) for batch in episodes))


def _regularised(grad: Tensor, leaf: Tensor, config: OptimizerConfig) -> Tensor:
    if config.l2:
        grad = grad + config.l2 * leaf
    return grad + config.l1 * leaf.sign() if config.l1 else grad


def _clip(leaves: list[Tensor], config: OptimizerConfig) -> None:
    if config.clip_value is not None:
        torch.nn.utils.clip_grad_value_(leaves, config.clip_value)
    if config.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(leaves, config.clip_norm)


def _average(running: dict[str, Tensor], batch: dict[str, Tensor]) -> None:
    for name, value in batch.items():
        running[name].lerp_(value, _STATISTICS_MOMENTUM)
