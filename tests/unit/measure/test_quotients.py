"""Difference quotients tell a wrong meta-gradient from one that is right and chaotic."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.types import Batch, Episode, Fast, Meta
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.quotients import kind_of_error
from innerloop.gradients import FirstOrder, Unrolled
from innerloop.gradients.base import Estimate, Tasks
from innerloop.measure.quotients import DISTANCES, quotient_sweep
from planted.gradient_mutants import DropsTheHessian
from unit.measure.settings import Logistic, on_bowls, on_sinusoids


class Detached(MAML):
    """Cuts the graph after each step."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return tree.map(torch.Tensor.detach, super().step(meta, fast, support, k))


class WithoutHessian(DropsTheHessian, MAML):
    """Its steps pass on their own derivative, and not that of their gradient."""


class PassedOffAsExact(FirstOrder):
    """The first-order gradient under the name of the exact one."""

    exact = True


class Flipped(Unrolled):
    """Ascends."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        return dataclasses.replace(found, grads=tree.map(torch.neg, found.grads))


class Halved(Unrolled):
    """Loses half of one layer's gradient."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        leaves = tree.flatten(found.grads)
        leaves["params/head.weight"] = leaves["params/head.weight"] / 2
        return dataclasses.replace(found, grads=tree.unflatten(leaves))


def kind(learner: Any, meta: Meta, episodes: Episode, path: Any, seed: int = 0) -> str:
    return kind_of_error(quotient_sweep(learner, meta, episodes, path, key=0, seed=seed))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("learner", "path"),
    [
        (Detached, Unrolled()),
        (WithoutHessian, Unrolled()),
        (MAML, PassedOffAsExact()),
        (MAML, Flipped()),
        (MAML, Halved()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_a_planted_bug_is_wrong(learner, path, rate, seed):
    assert kind(*on_sinusoids(learner, seed=seed, inner_lr=rate), path, seed) == "wrong"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate", [0.01, 0.1, 0.2, 0.3])
def test_the_exact_gradient_is_never_wrong_however_chaotic_the_loop(rate, seed):
    try:
        found = kind(*on_sinusoids(seed=seed, inner_lr=rate, inner_steps=5), Unrolled(), seed)
    except NotEvaluated:
        assert rate > 0.1  # a loop that overflows has no gradient to judge
    else:
        assert found != "wrong"
        assert rate > 0.1 or found == "right"


@pytest.mark.parametrize(
    ("steps", "expected"), [(5, "right"), (25, "chaotic"), (45, "chaotic"), (60, "chaotic")]
)
def test_a_gradient_that_holds_over_tiny_distances_alone_is_chaotic(steps, expected):
    learner = Logistic(steps)
    episodes = on_sinusoids()[2]
    errors = quotient_sweep(learner, learner.init(torch.Generator()), episodes, Unrolled(), key=0, seed=0)
    assert kind_of_error(errors) == expected
    if steps == 25:
        assert max(errors[1e-10]) < 1e-2 < min(errors[1e-4])


def test_gradients_too_large_for_their_squares_have_directions_too():
    learner, meta, episodes = on_bowls(inner_steps=0)
    large = Episode(*(Batch(batch.x * 1e90, batch.y * 1e90) for batch in episodes))
    grads, *_ = Unrolled().estimate(learner, meta, large)
    assert max(float(leaf.abs().max()) for leaf in tree.leaves(grads)) > 1e155
    errors = quotient_sweep(learner, meta, large, Unrolled(), key=0, seed=0)
    assert 0.0 < errors[1e-4][0] < 1e-6  # a direction of length zero would agree exactly


def test_a_task_that_does_not_stay_finite_is_not_evaluated():
    learner, meta, episodes = on_sinusoids(inner_lr=50.0, inner_steps=20)
    with pytest.raises(NotEvaluated, match="finite"):
        quotient_sweep(learner, meta, episodes, Unrolled(), key=0, seed=0)


def test_the_learner_is_left_as_it_is_and_works_in_its_own_precision():
    learner, meta, episodes = on_sinusoids()
    before = {name: leaf.clone() for name, leaf in learner.module.state_dict().items()}
    quotient_sweep(learner, meta, take(episodes, slice(0, 1)), Unrolled(), key=0, seed=0)
    after = learner.module.state_dict()
    assert all(torch.equal(leaf, after[name]) for name, leaf in before.items())
    assert next(iter(after.values())).dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


# --- the judgement ---------------------------------------------------------------------------------------


def swept(*by_direction: list[float]) -> dict[float, list[float]]:
    return {h: [each[i] for each in by_direction] for i, h in enumerate(DISTANCES)}


SMALL = [1e-4, 1e-6, 1e-8, 1e-7, 1e-5]
OFF = [0.3, 0.3, 0.3, 0.3, 0.3]
TINY = [1.0, 1.2, 0.9, 0.3, 1e-4]
LOST = [1.0, 1.0, 1.0, 0.999, 0.9]  # slopes that quotients never come near, and that still change


@pytest.mark.parametrize(
    ("directions", "expected"),
    [
        ([SMALL, SMALL, SMALL], "right"),
        ([SMALL, SMALL, OFF], "right"),
        ([SMALL, OFF, OFF], "wrong"),
        ([OFF, OFF, OFF], "wrong"),
        ([[1.0] * 5, [1.0] * 5, [1.0] * 5], "wrong"),
        ([[2.0] * 5, [2.0] * 5, [2.0] * 5], "wrong"),
        ([TINY, TINY, SMALL], "chaotic"),
        ([LOST, LOST, LOST], "chaotic"),
        ([LOST, TINY, OFF], "chaotic"),
    ],
)
def test_errors_are_judged_by_how_they_change_with_the_distance(directions, expected):
    assert kind_of_error(swept(*directions)) == expected
    assert kind_of_error(dict(reversed(swept(*directions).items()))) == expected


def test_an_error_that_is_not_finite_is_no_proof():
    assert kind_of_error(swept([float("nan")] * 5, [float("nan")] * 5, [float("nan")] * 5)) == "chaotic"
