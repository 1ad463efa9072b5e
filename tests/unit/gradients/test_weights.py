"""Weights of tasks: the same meaning on every gradient path, and none at all where they are not given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import Case
from innerloop.core import tree
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import Lift, TasksAxis, take
from innerloop.gradients import Displacement, Evolution, FirstOrder, Implicit, Recompute, Truncated, Unrolled
from innerloop.gradients.base import Estimate, MetaGradient, Tasks
from innerloop.gradients.sweep import Sweep
from innerloop.testing.probing import close, deviation
from innerloop.training.joint import Joint

PATHS: dict[str, tuple[str, MetaGradient]] = {
    "Unrolled": ("MAML", Unrolled()),
    "Recompute": ("MAML", Recompute()),
    "FirstOrder": ("MAML", FirstOrder()),
    "Truncated": ("MetaSGD", Truncated(1)),
    "Implicit": ("ImplicitMAML", Implicit(iterations=3)),
    "Evolution": ("MAML", Evolution(pairs=2)),
    "Displacement": ("Reptile", Displacement()),
    "Joint": ("MAML", Joint()),
    "multi-step loss": ("MAMLPlusPlus", Recompute()),
}
WEIGHTS = torch.tensor([0.5, 0.0, 2.0, 3.0], dtype=torch.float64)


def gradient(case: Case, path: MetaGradient, weights: Tensor | None, axis: TasksAxis = "vmap") -> Any:
    grads, _, record = path.estimate(
        case.learner(), case.meta(), case.episodes(), weights=weights, key=5, axis=axis
    )
    return grads, record


def weights_scale_gradients(case: Case, path: MetaGradient, axis: TasksAxis) -> None:
    """Weighted tasks give the weighted sum of what each gives alone, over the number that has a weight."""
    alone = [gradient(case, path, one, axis)[0] for one in torch.eye(4, dtype=torch.float64)]
    grads, record = gradient(case, path, WEIGHTS, axis)
    scaled = [tree.map(lambda leaf, w=w: float(w) / 3 * leaf, g) for w, g in zip(WEIGHTS, alone, strict=True)]
    close(grads, tree.map(lambda *leaves: torch.stack(leaves).sum(0), *scaled), 1e-10)
    assert len(record.losses) == len(record.outcomes) == 3


@pytest.mark.parametrize("axis", ["vmap", "loop", 3])
@pytest.mark.parametrize("name", PATHS)
def test_a_weight_is_a_factor_of_the_task_s_gradient(name: str, axis: TasksAxis) -> None:
    row, path = PATHS[name]
    weights_scale_gradients(Case(row, "mlp"), path, axis)


@dataclass(frozen=True)
class _DeafToWeights(Sweep):
    exact = True

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        return super().of_part(learner, meta, replace(tasks, weights=None), lift)


@dataclass(frozen=True)
class _WithoutKeys(Sweep):
    """Numbers the tasks that are left anew, so that another task's randomness is theirs."""

    exact = True

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        return super().of_part(learner, meta, replace(tasks, keys=torch.arange(len(tasks.keys))), lift)


def test_planted_a_path_that_does_not_look_at_weights_is_seen() -> None:
    with pytest.raises(AssertionError):
        weights_scale_gradients(Case("MAML", "mlp"), _DeafToWeights(), "vmap")


def test_a_task_keeps_its_randomness_when_others_are_left_out() -> None:
    case = Case("MAML", "mlp", dropout=0.4)
    _, whole = gradient(case, Unrolled(), None)
    _, some = gradient(case, Unrolled(), WEIGHTS)
    assert torch.equal(some.losses, whole.losses[WEIGHTS > 0])
    _, planted = gradient(case, _WithoutKeys(), WEIGHTS)
    assert not torch.equal(planted.losses, whole.losses[WEIGHTS > 0])


@pytest.mark.parametrize("name", PATHS)
def test_weights_of_one_are_none(name: str) -> None:
    row, path = PATHS[name]
    case = Case(row, "mlp")
    close(gradient(case, path, torch.ones(4))[0], gradient(case, path, None)[0], 1e-12)


def test_a_task_without_weight_is_not_computed_and_cannot_fail() -> None:
    case = Case("MAML", "mlp")
    spoiled = Episode(*(Batch(b.x.clone(), b.y) for b in case.episodes()))
    spoiled.support.x[1] = float("nan")
    grads, _, record = Unrolled().estimate(case.learner(), case.meta(), spoiled, weights=WEIGHTS)
    assert [outcome.ok for outcome in record.outcomes] == [True, True, True]
    close(grads, gradient(case, Unrolled(), WEIGHTS)[0], 1e-10)


def test_a_weighted_task_that_fails_is_left_out_with_its_weight() -> None:
    case = Case("MAML", "mlp")
    spoiled = Episode(*(Batch(b.x.clone(), b.y) for b in case.episodes()))
    spoiled.support.x[3] = float("nan")
    grads, _, record = Unrolled().estimate(case.learner(), case.meta(), spoiled, weights=WEIGHTS)
    assert record.kept == [0, 1]
    few = take(case.episodes(), torch.tensor([0, 2]))
    expected, _, _ = Unrolled().estimate(case.learner(), case.meta(), few, weights=WEIGHTS[[0, 2]])
    assert deviation(grads, expected) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Recompute", "Displacement", "Joint"])
def test_weights_are_no_constants_of_a_compiled_graph(name: str) -> None:
    row, path = PATHS[name]
    case = Case(row, "mlp")
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    for weights in (torch.ones(4), torch.tensor([0.5, 1.0, 2.0, 3.0])):
        eager, compiled = (
            path.estimate(learner, meta, episodes, weights=weights, axis="vmap", compile=c)[0]
            for c in (False, True)
        )
        close(compiled, eager, 1e-10)
