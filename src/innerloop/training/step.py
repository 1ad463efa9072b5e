"""One outer step: sample tasks, obtain the meta-gradient, move the meta-parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.learner import STATISTICS
from innerloop.core.rng import key
from innerloop.core.types import Batch, Episode
from innerloop.gradients.base import MetaGradient, Record, learned
from innerloop.tasks.base import TaskSource
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.state import TrainState

_STATISTICS_MOMENTUM = 0.1  # torch's own default for BatchNorm


def outer_step(
    state: TrainState, learner: ModuleLearner, tasks: TaskSource, gradient: MetaGradient, config: TrainConfig
) -> Record:
    """Advance `state` by one outer step. The tasks are those of (seed, step), whatever went before."""
    episodes = tasks.sample("train", config.tasks_per_step, key(config.seed, "tasks", state.step))
    record = meta_step(state, learner, to_device(episodes, config.device), gradient, config)
    state.step += 1
    return record


def meta_step(
    state: TrainState, learner: ModuleLearner, episodes: Episode, gradient: MetaGradient, config: TrainConfig
) -> Record:
    """Move the meta-parameters along the meta-gradient of some tasks; not at all if most of them failed."""
    place = key(config.seed, "inner", state.step)
    grads, carry, record = gradient.estimate(
        learner, state.meta, episodes, state.carry, key=place, axis=config.tasks_axis
    )
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
