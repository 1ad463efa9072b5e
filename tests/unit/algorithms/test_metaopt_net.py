"""The support vector machine is at the optimum of its program, and its gradient is the solution's own."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import Case, images
from innerloop.algorithms import MetaOptNet, metaopt_net
from innerloop.algorithms.metaopt_net import machine
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.testing import questions as ask
from innerloop.testing.probing import close, deviation, predictions

COST = 0.1


def problem(ways: int, shots: int, width: int, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embedded examples around one centre for each class, none negative, and their one-hot labels."""
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(ways, width, dtype=torch.float64, generator=rng).repeat_interleave(shots, 0)
    noise = torch.randn(ways * shots, width, dtype=torch.float64, generator=rng)
    labels = F.one_hot(torch.arange(ways).repeat_interleave(shots), ways).double()
    return scale * (centres + noise).relu(), labels


def solved(rows: Tensor, labels: Tensor, cost: float = COST) -> Tensor:
    return machine(rows @ rows.T, labels, cost, 15)


def optimal(duals: Tensor, rows: Tensor, labels: Tensor, tolerance: float) -> None:
    """Feasible, and every coordinate that is not at its bound has the multiplier of its example."""
    size = 1 / ((rows * rows).sum(1).mean() + 1 / COST)
    assert float((duals - COST * labels).max()) <= tolerance * size, "beyond a bound"
    assert float(duals.sum(1).abs().max()) <= tolerance * size, "an example's sum is not zero"
    gradient = rows @ (rows.T @ duals) - labels
    free = COST * labels - duals > 1e-6 * size
    multipliers = -torch.where(free, gradient, torch.inf).amin(1, keepdim=True)
    pulls = gradient + multipliers
    assert float(pulls.max()) <= tolerance, "the objective falls towards a bound that is not met"
    assert float((pulls * free).abs().max()) <= tolerance, "the objective is not level where it is free"


PROBLEMS = {
    "one shot": (5, 1, 64, 1.0),
    "small embeddings": (5, 1, 64, 0.05),
    "large embeddings": (5, 1, 64, 30.0),
    "five shots": (5, 5, 32, 0.5),
    "many ways": (20, 1, 64, 1.0),
    "two ways": (2, 3, 16, 1.0),
    "more examples than features": (5, 5, 8, 1.0),
    "far more examples than features": (3, 6, 2, 1.0),
}


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_solution_is_optimal(name: str, seed: int) -> None:
    rows, labels = problem(*PROBLEMS[name], seed=seed)
    optimal(solved(rows, labels), rows, labels, 1e-12)


def test_what_is_not_optimal_is_seen() -> None:
    """Planted: a solver that stops early, another C, and a little of something else."""
    rows, labels = problem(*PROBLEMS["five shots"])
    right = solved(rows, labels)
    cost = solved(rows, labels, 0.9 * float(right.max()))
    away = 1e-9 * (labels - labels.roll(1, 1))
    for wrong in (machine(rows @ rows.T, labels, COST, 2), cost, right + away, right - away):
        with pytest.raises(AssertionError):
            optimal(wrong, rows, labels, 1e-12)


def test_examples_that_are_zero_or_twice_the_same_are_no_trouble() -> None:
    rows, labels = problem(5, 4, 16)
    rows[1], rows[-1], rows[6] = rows[0], 3 * rows[-2], 0.0
    optimal(solved(rows, labels), rows, labels, 1e-11)
    nothing = solved(torch.zeros_like(rows), labels)
    optimal(nothing, torch.zeros_like(rows), labels, 1e-12)


def test_the_dual_value_is_that_of_the_primal_loss() -> None:
    rows, labels = problem(5, 3, 12, 0.7)
    duals = solved(rows, labels)
    weights = rows.T @ duals
    scores = rows @ weights
    own = (scores * labels).sum(1)
    slack = (scores + 1 - labels).amax(1) - own
    primal = weights.square().sum() / 2 + COST * slack.sum()
    close(primal, (duals * labels).sum() - weights.square().sum() / 2, 1e-13)


def test_a_general_solver_finds_the_same_machine() -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="scipy comes with the extra `bench` alone")
    rows, labels = problem(4, 2, 6, 0.6)
    gram = (rows @ rows.T).numpy()
    target, shape = labels.numpy(), labels.shape
    found = optimize.minimize(
        lambda a: (
            0.5 * (a.reshape(shape) * (gram @ a.reshape(shape))).sum() - (a.reshape(shape) * target).sum()
        ),
        0.0 * target.ravel(),
        jac=lambda a: (gram @ a.reshape(shape) - target).ravel(),
        bounds=[(None, float(top)) for top in (COST * target).ravel()],
        constraints={
            "type": "eq",
            "fun": lambda a: a.reshape(shape).sum(1),
            "jac": lambda _: torch.eye(8).repeat_interleave(4, 1).numpy(),
        },
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    close(rows.T @ solved(rows, labels), rows.T @ torch.from_numpy(found.x).reshape(shape), 1e-5)


@pytest.mark.parametrize("shape", [(3, 1, 4), (3, 2, 2)])
def test_the_gradient_is_the_solutions_own(shape: tuple[int, int, int]) -> None:
    rows, labels = problem(*shape, scale=1.3)

    def weights(rows: Tensor) -> Tensor:
        return rows.T @ machine(rows @ rows.T, labels, COST, 15)

    given = rows.abs() + 0.1  # nothing at a kink of the data's making
    assert torch.autograd.gradcheck(weights, given.requires_grad_(), eps=1e-6, atol=1e-7)


def test_without_the_step_at_the_solution_the_gradient_would_be_wrong() -> None:
    """Planted: the solution as a constant."""
    case = Case("MetaOptNet", "mlp")

    def constant(*given: object) -> Tensor:
        return machine(*given).detach()  # pyright: ignore

    ask.gradient_equals_finite_differences(case.learner(), case.meta(), case.episodes(1))
    with mock.patch.object(metaopt_net, "machine", constant), pytest.raises(AssertionError):
        ask.gradient_equals_finite_differences(case.learner(), case.meta(), case.episodes(1))


def test_queries_are_scored_by_the_machines_weights() -> None:
    learner = MetaOptNet(MLP(256, None, hidden=(9, 7)), init_scale=2.5)
    meta = tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))
    episode = take(images(1, shots=3), 0)
    support, query = (learner.net(meta["params"], batch.x) for batch in episode)
    weights = support.T @ solved(support, F.one_hot(episode.support.y).double())
    close(predictions(learner, meta, episode), 2.5 * query @ weights, 1e-12)


def test_float32_is_solved_in_double_precision() -> None:
    learner = MetaOptNet(MLP(256, None, hidden=(9, 7)))
    meta, episode = learner.init(torch.Generator().manual_seed(0)), take(images(1, shots=3), 0)
    single = episode._replace(support=episode.support._replace(x=episode.support.x.float()))
    single = single._replace(query=episode.query._replace(x=episode.query.x.float()))
    found = predictions(learner, meta, single)
    assert found.dtype == torch.float32
    close(found.double(), predictions(learner, tree.map(Tensor.double, meta), episode), 1e-5)


def test_a_ridge_is_added_to_the_program_alone() -> None:
    learner = MetaOptNet(MLP(256, None, hidden=(9, 7)), ridge=1.0)
    meta = tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))
    episode = take(images(1, shots=2), 0)
    support, query = (learner.net(meta["params"], batch.x) for batch in episode)
    gram = support @ support.T + torch.eye(6, dtype=torch.float64)
    weights = support.T @ machine(gram, F.one_hot(episode.support.y).double(), COST, 15)
    close(predictions(learner, meta, episode), query @ weights, 1e-12)
    without = MetaOptNet(MLP(256, None, hidden=(9, 7)))
    assert deviation(predictions(without, meta, episode), predictions(learner, meta, episode)) > 1e-3


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cost": 0.0}, "cost"),
        ({"init_scale": 0.0}, "init_scale"),
        ({"ridge": -1.0}, "ridge"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        MetaOptNet(MLP(1, None), **settings)  # pyright: ignore
