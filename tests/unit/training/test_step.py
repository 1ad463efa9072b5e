"""One outer step: the optimizer sees the meta-gradient, and running statistics are torch's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from cases import ROWS, Case, images
from innerloop.algorithms import ProtoNet
from innerloop.core import tree
from innerloop.core.learner import STATISTICS
from innerloop.core.mode import running_in
from innerloop.core.rng import key
from innerloop.core.types import Batch, Episode
from innerloop.core.vectorise import take
from innerloop.gradients.base import learned
from innerloop.testing.probing import close, estimate, predictions
from innerloop.training.config import OptimizerConfig
from innerloop.training.state import TrainState, new_state
from innerloop.training.step import Engine, meta_step
from unit.training.resuming import small_config


def stepped(case: Case, **optimizer: Any) -> tuple[TrainState, Any, Any]:
    config = small_config(optimizer=OptimizerConfig(**optimizer))
    state = new_state(case.meta(), config)
    record = meta_step(state, case.learner(), case.episodes(), Engine(case.learner().gradient), config)
    return state, record, config


@pytest.mark.parametrize("row", ROWS)
def test_an_outer_step_of_sgd_subtracts_the_meta_gradient(row: str) -> None:
    case = Case(row, "mlp")
    before = case.meta()
    with running_in(progress=0.0):
        grads, _ = estimate(case.learner(), before, case.episodes(), key=key(3, "inner", 0), axis="auto")
    state, _, _ = stepped(case, name="SGD", lr=0.5)
    close(state.meta, tree.map(lambda p, g: p - 0.5 * g, before, grads), 1e-12)


def test_regularisation_is_the_gradient_of_the_penalties() -> None:
    case = Case("MAML", "mlp")
    before = case.meta()
    plain, _, _ = stepped(case, name="SGD", lr=1.0)
    penalised, _, _ = stepped(case, name="SGD", lr=1.0, l1=0.1, l2=0.01)
    expected = tree.map(lambda p, w: p - 0.1 * w.sign() - 0.01 * w, plain.meta, before)
    close(penalised.meta, expected, 1e-12)


def test_clipping_bounds_entries_and_norm() -> None:
    case = Case("MAML", "mlp")
    before = case.meta()
    for bound in ({"clip_value": 1e-4}, {"clip_norm": 1e-4}):
        state, _, _ = stepped(case, name="SGD", lr=1.0, **bound)
        moved = torch.cat(
            [(a - b).flatten() for a, b in zip(*map(tree.leaves, (state.meta, before)), strict=True)]
        )
        size = moved.abs().max() if "clip_value" in bound else moved.norm()
        assert float(size) == pytest.approx(1e-4, rel=1e-3)


def test_the_caller_s_meta_is_not_trained() -> None:
    case = Case("MAML", "mlp")
    meta = case.meta()
    before = tree.map(torch.clone, meta)
    config = small_config()
    meta_step(
        new_state(meta, config),
        case.learner(),
        case.episodes(),
        Engine(case.learner().gradient),
        config,
    )
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(meta)))


def test_running_statistics_are_torch_s_own_after_a_step_of_one_task() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 3, stride=4), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten()).double()
    learner = ProtoNet(net, batch_norm="running")
    config = small_config()
    state = new_state(learner.init(torch.Generator()), config)
    tasks = images(1)
    record = meta_step(state, learner, tasks, Engine(learner.gradient), config)
    net.train()(torch.cat([tasks.support.x[0], tasks.query.x[0]]))  # the joint pass, as torch would keep it
    expected = {name: b for name, b in net.named_buffers() if name.startswith("1.running")}
    close(state.meta[STATISTICS], expected, 1e-12)
    assert set(record.statistics) == set(expected)
    close(tree.map(torch.clone, learned(state.meta)), {"params": state.meta["params"]}, 0.0)


def test_running_statistics_average_over_tasks_and_leave_failed_ones_out() -> None:
    case = Case("ProtoNet", "batch", "running")
    singles = [
        estimate(
            case.learner(),
            case.meta(),
            Episode(*(Batch(b.x[i : i + 1], b.y[i : i + 1]) for b in case.episodes())),
        )
        for i in range(3)
    ]
    spoiled = Episode(*(Batch(b.x.clone(), b.y) for b in case.episodes()))
    spoiled.support.x[3] = float("nan")
    _, record = estimate(case.learner(), case.meta(), spoiled)
    close(record.statistics, tree.map(lambda *s: sum(s) / 3, *(single[1].statistics for single in singles)))


def test_running_statistics_are_used_in_evaluation() -> None:
    case = Case("ProtoNet", "batch", "running")
    meta, episode = case.meta(), take(case.episodes(), 0)
    shifted = meta | {STATISTICS: tree.map(lambda s: s + 0.5, meta[STATISTICS])}
    before, after = (predictions(case.learner(), m, episode) for m in (meta, shifted))
    assert float((before - after).abs().max()) > 1e-6
    losses = [estimate(case.learner(), m, case.episodes())[1].losses for m in (meta, shifted)]
    assert torch.equal(*losses), "running statistics were used in training"


def test_a_step_in_which_most_tasks_fail_moves_nothing() -> None:
    case = Case("MAML", "mlp")
    config = small_config()
    state = new_state(case.meta(), config)
    before = tree.map(torch.clone, state.meta)
    bad = Episode(*(Batch(torch.full_like(b.x, torch.inf), b.y) for b in case.episodes()))
    record = meta_step(state, case.learner(), bad, Engine(case.learner().gradient), config)
    assert record.mostly_failed
    assert all(map(torch.equal, tree.leaves(before), tree.leaves(state.meta)))
    assert state.optimizer.state_dict()["state"] == {}
