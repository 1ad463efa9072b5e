"""The implicit gradient of a proximal quadratic, whose closed form is known."""

from __future__ import annotations

import pytest
import torch

from cases import Case
from conformance import exactness as ask
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.types import Batch, Episode
from innerloop.gradients import Implicit, Unrolled
from innerloop.testing.probing import close, deviation, estimate
from unit.gradients.quadratics import DIM, Proximal, implicit_by_hand, regressions, start


def test_conjugate_gradients_are_exact_after_as_many_iterations_as_dimensions() -> None:
    learner, tasks = Proximal(), regressions()
    meta = start(learner)
    expected = implicit_by_hand(meta, tasks)
    solver = Implicit(iterations=DIM, tolerance=0.0)
    ask.is_the_implicit_gradient(learner, meta, tasks, expected, gradient=solver)
    close(estimate(learner, meta, tasks, gradient=Unrolled())[0], expected, 1e-8)  # it has converged


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_error_falls_with_iterations_of_either_solver(damping: float) -> None:
    learner, tasks = Proximal(), regressions()
    meta = start(learner)
    expected = implicit_by_hand(meta, tasks, damping)
    for solver, counts in (("cg", (1, 2, 3, 4, 5)), ("neumann", (5, 10, 20, 40, 150))):
        errors = []
        for count in counts:
            path = Implicit(solver=solver, iterations=count, damping=damping, tolerance=0.0)  # pyright: ignore
            errors.append(deviation(estimate(learner, meta, tasks, gradient=path)[0], expected))
        assert errors == sorted(errors, reverse=True), solver
        assert errors[-1] <= 1e-10, solver


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_each_task_is_solved_to_the_tolerance_on_its_own(solver: str) -> None:
    learner, tasks = Proximal(), regressions()
    scaled = tasks.support.x * torch.tensor([0.1, 1.0, 1.0], dtype=torch.float64)[:, None, None]
    mixed = Episode(Batch(scaled, tasks.support.y), tasks.query)  # the first is easier than the others
    meta = start(learner)
    path = Implicit(solver=solver, iterations=300, tolerance=1e-3)  # pyright: ignore
    together, record = estimate(learner, meta, mixed, gradient=path)
    residuals = record.measures["residual"]
    assert residuals.shape == (3,)
    assert bool((residuals <= 1e-3).all())
    assert bool((residuals > 1e-12).all())
    alone, apart = estimate(learner, meta, mixed, gradient=path, axis="loop")
    close(together, alone, 1e-12)  # one that is solved rests while others go on
    close(residuals, apart.measures["residual"], 1e-10)


def test_a_learner_without_a_fixed_point_is_refused() -> None:
    case = Case("MAML", "mlp")
    with pytest.raises(ContractError, match="does not depend on meta"):
        estimate(case.learner(), case.meta(), case.episodes(), gradient=Implicit())
    still = case.learner(inner_steps=0)
    with pytest.raises(ContractError, match="no inner loop"):
        estimate(still, case.meta(), case.episodes(), gradient=Implicit())
    weighted = case.learner()
    weighted.step_weights = (0.5, 0.5)
    with pytest.raises(ContractError, match="states on the way"):
        estimate(weighted, case.meta(), case.episodes(), gradient=Implicit())


@pytest.mark.parametrize(
    "wrong", [{"solver": "lu"}, {"iterations": 0}, {"damping": -1.0}, {"tolerance": -1.0}]
)
def test_other_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        Implicit(**wrong)
