"""Compiled graphs: the same numbers, one graph for steps that are alike, and a way on without a compiler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cases import Case
from innerloop.algorithms import MAML, Reptile
from innerloop.core import tree
from innerloop.core.compiled import Compiler, compiler_of
from innerloop.core.types import Episode, Meta
from innerloop.gradients import (
    Displacement,
    Evolution,
    FirstOrder,
    MetaGradient,
    Recompute,
    Truncated,
    Unrolled,
)
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close


@pytest.fixture
def traced_only(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Graphs are traced and run as they are: what a back end makes of them is not asked here."""
    graphs: list[Any] = []

    def keep(graph: Any, **how: Any) -> Any:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", keep)
    return graphs


def learner_and_tasks(steps: int = 3, dropout: float = 0.5, **how: Any) -> tuple[MAML, Meta, Episode]:
    module = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))
    learner = MAML(module, inner_lr=0.1, inner_steps=steps, loss="mse", **how)
    learner.net.to("cpu")
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    episodes = Sinusoid().sample("train", 4, 0)
    return learner, meta, Episode(*(type(b)(b.x.double(), b.y.double()) for b in episodes))


PATHS: list[MetaGradient] = [
    Unrolled(),
    Recompute(),
    Recompute(segment=2),
    FirstOrder(),
    Truncated(last=2),
    Evolution(pairs=2),
    Displacement(),
]


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_graph_gives_the_numbers_of_the_code(path: MetaGradient, traced_only: list[Any]) -> None:
    learner, meta, episodes = learner_and_tasks()
    for key in (1, 2):
        expected, _, record = path.estimate(learner, meta, episodes, key=key)
        found, _, other = path.estimate(learner, meta, episodes, key=key, compile=True)
        close(found, expected, 1e-12)
        close(other.losses, record.losses, 1e-12)
    assert traced_only
    assert compiler_of(learner).failure is None


@pytest.mark.parametrize(
    "path",
    [Truncated(last=1, horizon=9), pytest.param(Evolution(horizon=9), marks=pytest.mark.slow)],
    ids=str,
)
def test_a_carried_unroll_runs_on_one_graph(path: MetaGradient, traced_only: list[Any]) -> None:
    learner, meta, episodes = learner_and_tasks(steps=2)
    carry = other = None
    for key in range(3):
        expected, carry, _ = path.estimate(learner, meta, episodes, carry, key=key)
        found, other, _ = path.estimate(learner, meta, episodes, other, key=key, compile=True)
        close(found, expected, 1e-12)
        close(other, carry, 1e-12)
    assert len(traced_only) == (3 if isinstance(path, Truncated) else 2), "to begin, to go on, to pull back"


@pytest.mark.slow
def test_compile_time_does_not_grow_with_the_steps(traced_only: list[Any]) -> None:
    numbers = []
    for steps in (4, 9):
        traced_only.clear()
        learner, meta, episodes = learner_and_tasks(steps=steps)
        Recompute().estimate(learner, meta, episodes, compile=True)
        numbers.append(len(traced_only))
    assert numbers[0] == numbers[1]


class _FasterEveryStep(MAML):  # a concrete base is fine in a test
    """A learner whose steps differ, as with a rate for each step."""

    steps_alike = False

    def step(self, meta: Any, fast: Any, support: Any, k: int) -> Any:
        after = super().step(meta, fast, support, k)
        params = {n: p + (k + 1) * (after["params"][n] - p) for n, p in fast["params"].items()}
        return after | {"params": params}


class _PosesAsAlike(_FasterEveryStep):
    """The same, and says that its steps are one function."""

    steps_alike = True


def _deviation(kind: type[MAML]) -> float:
    learner, meta, episodes = learner_and_tasks(steps=4)
    other = object.__new__(kind)
    other.__dict__ |= learner.__dict__
    found, _, _ = Recompute().estimate(other, meta, episodes, compile=True)
    expected, _, _ = Recompute().estimate(other, meta, episodes)
    return max(
        float((a - b).abs().max()) for a, b in zip(tree.leaves(found), tree.leaves(expected), strict=True)
    )


@pytest.mark.slow
def test_steps_that_differ_get_graphs_of_their_own(traced_only: list[Any]) -> None:
    assert _deviation(_FasterEveryStep) < 1e-12
    assert _deviation(_PosesAsAlike) > 1e-3, "planted: one graph served for steps that differ"


def test_a_changed_setting_is_not_answered_by_an_old_graph(traced_only: list[Any]) -> None:
    learner, meta, episodes = learner_and_tasks()
    before, _, _ = Unrolled().estimate(learner, meta, episodes, compile=True)
    learner.rule = type(learner.rule)(lr=0.2)
    after, _, _ = Unrolled().estimate(learner, meta, episodes, compile=True)
    expected, _, _ = Unrolled().estimate(learner, meta, episodes)
    close(after, expected, 1e-12)
    assert float((after["params"]["0.weight"] - before["params"]["0.weight"]).abs().max()) > 1e-6


@pytest.mark.parametrize("name", [pytest.param("MAML", marks=pytest.mark.slow), "ProtoNet"])
def test_running_statistics_come_out_of_a_graph(name: str, traced_only: list[Any]) -> None:
    case = Case(name, "batch", "running")
    learner, meta = case.learner(), case.meta()
    episodes = case.episodes()
    for shift in (0.0, 0.5):
        moved = tree.map(lambda leaf, s=shift: leaf + s, meta)
        expected, _, record = Unrolled().estimate(learner, moved, episodes)
        found, _, other = Unrolled().estimate(learner, moved, episodes, compile=True)
        close(found, expected, 1e-9)
        close(other.statistics, record.statistics, 1e-12)


def test_what_cannot_be_compiled_runs_eagerly_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> Callable[..., Any]:
        raise RuntimeError("no compiler on this machine")

    monkeypatch.setattr(torch, "compile", refuse)
    learner, meta, episodes = learner_and_tasks()
    expected, _, _ = Unrolled().estimate(learner, meta, episodes)
    with caplog.at_level(logging.WARNING, "innerloop"):
        for _ in range(2):
            found, _, _ = Unrolled().estimate(learner, meta, episodes, compile=True)
            close(found, expected, 0.0)
    assert caplog.text.count("no compiler on this machine") == 1


def test_graphs_are_kept_with_their_learner() -> None:
    one, *_ = learner_and_tasks()
    other, *_ = learner_and_tasks()
    assert compiler_of(one) is compiler_of(one)
    assert compiler_of(one) is not compiler_of(other)
    assert isinstance(compiler_of(one), Compiler)


@pytest.mark.slow
def test_the_real_compiler_gives_the_same_numbers() -> None:
    learner = MAML(MLP(1, 1, hidden=(8,)), inner_lr=0.01, inner_steps=2, loss="mse")
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    episodes = Sinusoid().sample("train", 4, 0)
    doubles = Episode(*(type(b)(b.x.double(), b.y.double()) for b in episodes))
    expected, _, _ = Unrolled().estimate(learner, meta, doubles)
    found, _, _ = Unrolled().estimate(learner, meta, doubles, compile=True)
    assert compiler_of(learner).failure is None
    close(found, expected, 1e-10)
    reptile = Reptile(MLP(1, 1, hidden=(8,)), inner_lr=0.01, inner_steps=2, inner_rule="SGD", loss="mse")
    expected, _, _ = Displacement().estimate(reptile, meta, doubles)
    found, _, _ = Displacement().estimate(reptile, meta, doubles, compile=True)
    close(found, expected, 1e-10)
