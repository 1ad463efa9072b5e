"""Every question about gradient paths turns red for a planted bug, and is green without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import innerloop as il
from cases import Case
from conformance import exactness as ask
from innerloop.core.vectorise import Lifting
from innerloop.gradients import Evolution, Implicit, Recompute, Truncated, Unrolled
from innerloop.testing.probing import estimate
from planted import gradient_mutants as bug
from planted import mutants
from unit.gradients.problems import PROBLEMS, Problem, gradient_by_hand, mlp, rates_by_hand
from unit.gradients.quadratics import (
    DIM,
    Proximal,
    Pulled,
    implicit_by_hand,
    pulls,
    regressions,
    start,
    truth_of_the_whole_unroll,
)
from unit.gradients.test_evolution import quadratic
from unit.gradients.test_unrolls import TWO_STEPS, dropping, of_two_steps

LEARNERS: dict[str, Callable[[], Problem]] = {
    "the Hessian term is dropped": lambda: with_(mlp(), bug.DropsTheHessian),
    "a step in the middle is detached": lambda: with_(mlp(), bug.DetachesAStep),
    "a rate has no gradient": lambda: mlp(kind=bug.ForgetsTheRate, update=rates_by_hand),
}
PATHS = {"inner gradients are constants": mutants.PosesAsExact, "tasks leak": mutants.MixesTasks}


def with_(problem: Problem, mutant: type[Any]) -> Problem:
    learner = mutants.mutated(problem.learner, mutant)
    return Problem(learner, problem.meta, problem.episodes, problem.by_hand)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_broken_step_differs_from_the_loop_by_hand(name: str) -> None:
    problem = LEARNERS[name]()
    expected = gradient_by_hand(problem)
    with pytest.raises(AssertionError, match="differ by"):
        ask.equals_by_hand(problem.learner, problem.meta, problem.episodes, expected)


@pytest.mark.parametrize("name", LEARNERS)
def test_check_gradient_catches_a_broken_step(name: str) -> None:
    problem = LEARNERS[name]()
    found = il.check_gradient(problem.learner, problem.episodes)
    assert not found.passed, name
    if name == "a rate has no gradient":
        named = {f"lr/{n}" for n in problem.meta["lr"]}
        assert {n for n, error in found.errors.items() if error > 1e-6} == named
    else:
        assert any("params/0.weight" in p for p in found.problems)


@pytest.mark.parametrize("name", PATHS)
def test_check_gradient_catches_a_broken_path(name: str) -> None:
    case = Case("MAML", "mlp")
    found = il.check_gradient(case.learner(), case.episodes(2), gradient=PATHS[name]())
    assert not found.passed, name
    if name == "tasks leak":
        assert any("tasks leak" in p for p in found.problems)


@pytest.mark.parametrize(
    "mutant", [mutants.DropsLastTask, mutants.OffByAScale, mutants.LosesALeaf, mutants.ChunksDiffer]
)
def test_check_gradient_catches_other_broken_paths(mutant: type[Any]) -> None:
    case = Case("MAML", "mlp")
    assert not il.check_gradient(case.learner(), case.episodes(), gradient=mutant()).passed


@pytest.mark.parametrize("mutant", [mutants.FreezesTheFirstLayer, mutants.CountsItsCalls])
def test_check_gradient_catches_other_broken_learners(mutant: type[Any]) -> None:
    case = Case("MAML", "mlp")
    assert not il.check_gradient(mutants.mutated(case.learner(), mutant), case.episodes()).passed


def test_check_gradient_catches_fused_normalisation_under_vmap() -> None:
    case = Case("MAML", "batch", "transductive")
    with mutants.fused_batch_norm():
        found = il.check_gradient(case.learner(), case.episodes(2))
    assert any("vmap and the loop differ" in p for p in found.problems)


# --- sweeps ----------------------------------------------------------------------------------------------


def test_a_segment_that_is_not_added_is_seen() -> None:
    p = mlp()
    leaves = len(p.meta["params"])
    with bug.a_segment_is_not_added(leaves), pytest.raises(AssertionError, match="differ by"):
        ask.recomputing_changes_nothing(p.learner, p.meta, p.episodes, (Recompute(),))


def test_segments_in_the_wrong_order_are_seen() -> None:
    p = PROBLEMS["rate of each step"]()
    ask.recomputing_changes_nothing(p.learner, p.meta, p.episodes, (Recompute(),))
    with pytest.raises(AssertionError, match="differ by"):
        ask.recomputing_changes_nothing(p.learner, p.meta, p.episodes, (bug.SwapsSegments(),))


def test_a_mask_drawn_anew_is_seen() -> None:
    p = dropping()
    with bug.masks_drawn_anew(), pytest.raises(AssertionError, match="differ by"):
        ask.steps_repeat_when_recomputed(p.learner, p.meta, p.episodes)


def test_parts_that_differ_are_seen() -> None:
    p = mlp()
    p.learner.gradient = Unrolled()
    grads, _ = estimate(p.learner, p.meta, p.episodes, axis=Lifting(2))
    with pytest.raises(AssertionError, match="differ by"):
        ask.close(estimate(p.learner, p.meta, p.episodes, gradient=mutants.ChunksDiffer(), axis=2)[0], grads)


def test_a_diverging_task_that_counts_is_seen() -> None:
    p = mlp()
    for mutant in (mutants.MultipliesByZero, mutants.DividesByAllTasks, mutants.HidesFailures):
        with pytest.raises(AssertionError), bug.in_place_of_unrolled(mutant):
            ask.others_are_unmoved_by_one_that_diverges(p.learner, p.meta, p.episodes)


# --- approximations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [Implicit, bug.StopsOneEarly])
def test_a_solver_that_stops_early_is_not_exact(path: type[Implicit]) -> None:
    learner, tasks = Proximal(), regressions()
    meta = start(learner)
    given = (learner, meta, tasks, implicit_by_hand(meta, tasks))
    gradient = path(iterations=DIM, tolerance=0.0)
    if path is Implicit:
        ask.is_the_implicit_gradient(*given, gradient=gradient)
        return
    with pytest.raises(AssertionError, match="differ by"):
        ask.is_the_implicit_gradient(*given, gradient=gradient)


def test_differences_that_are_not_divided_by_sigma_are_seen() -> None:
    learner, meta, tasks = quadratic(3000)
    expected, _ = estimate(learner, meta, tasks, gradient=Unrolled())
    with pytest.raises(AssertionError, match="standard errors"):
        ask.is_unbiased(learner, meta, tasks, expected, gradient=bug.ForgetsSigma(sigma=0.1))


def test_truncated_strategies_are_biased_where_persistent_ones_are_not() -> None:
    learner, expected = Pulled(), truth_of_the_whole_unroll()
    given = (learner, start(learner), pulls(8000), expected)
    ask.is_unbiased(*given, gradient=Evolution(sigma=0.3, horizon=6), steps=3)
    with pytest.raises(AssertionError, match="standard errors"):
        ask.is_unbiased(*given, gradient=bug.ForgetsPerturbations(sigma=0.3, horizon=6), steps=3)


@pytest.mark.parametrize("mutant", [bug.StartsAfresh, bug.CountsAndStartsAfresh])
def test_an_unroll_that_starts_again_is_seen(mutant: type[Truncated]) -> None:
    p = of_two_steps()
    ask.an_unroll_goes_on(p.learner, p.meta, p.episodes, gradient=TWO_STEPS)
    with pytest.raises(AssertionError):
        ask.an_unroll_goes_on(p.learner, p.meta, p.episodes, gradient=mutant(last=None, horizon=6))
