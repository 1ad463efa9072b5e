"""Every case of the table is asked every question."""

from __future__ import annotations

import math

import pytest

from cases import DROPOUT_CASES, ROWS, Case
from innerloop.algorithms import REGISTRY
from innerloop.testing import questions as ask
from innerloop.testing.definitions import gradient_equals_its_definition


def test_every_registered_algorithm_has_a_row() -> None:
    assert sorted(ROWS) == sorted(REGISTRY)


def test_vmap_chunks_and_loop_agree(case: Case) -> None:
    ask.vmap_chunks_and_loop_agree(case.learner(), case.meta(), case.episodes())


def test_gradient_is_shaped_like_meta(case: Case) -> None:
    ask.gradient_is_shaped_like_meta(case.learner(), case.meta(), case.episodes())


def test_exact_gradient_equals_finite_differences(case: Case) -> None:
    learner = case.learner()
    if learner.gradient.exact:
        ask.gradient_equals_finite_differences(learner, case.meta(), case.episodes(2))
        return
    if learner.inner_steps:  # a gradient that is not exact says so for a reason
        with pytest.raises(AssertionError, match="difference quotient"):
            ask.gradient_equals_finite_differences(learner, case.meta(), case.episodes(2))
    gradient_equals_its_definition(learner, case.meta(), case.episodes(2))


def test_every_learned_leaf_has_a_gradient(case: Case) -> None:
    ask.every_leaf_is_learned(case.learner(), case.meta(), case.episodes())


def test_tasks_are_isolated(case: Case) -> None:
    ask.tasks_are_isolated(case.learner(), case.meta(), case.episodes())


def test_calls_leave_no_trace(case: Case) -> None:
    ask.calls_leave_no_trace(case.learner(), case.meta(), case.episodes())


def test_query_labels_do_not_reach_predictions(case: Case) -> None:
    ask.query_labels_do_not_reach_predictions(case.learner(), case.meta(), case.episodes())


def test_queries_do_not_reach_each_other_unless_transductive(case: Case) -> None:
    learner = case.learner()
    assert learner.transductive == (case.network == "batch" and case.batch_norm == "transductive")
    ask.queries_do_not_reach_each_other_unless_declared(learner, case.meta(), case.episodes())


def test_support_order_is_irrelevant_unless_declared(case: Case) -> None:
    ask.support_order_is_irrelevant_unless_declared(case.learner(), case.meta(), case.episodes())


def test_labels_are_learned_from(case: Case) -> None:
    ask.labels_are_learned_from(case.learner(), case.meta(), case.episodes())


def test_shapes_and_types_are_kept(case: Case) -> None:
    ask.shapes_and_types_are_kept(case.learner(), case.meta(), case.episodes())


def test_a_diverging_task_is_left_out(case: Case) -> None:
    ask.a_diverging_task_is_left_out(case.learner(), case.meta(), case.episodes())


@pytest.mark.parametrize("value", [float("inf"), 1e250])
@pytest.mark.parametrize("row", ROWS)
def test_a_task_of_huge_inputs_is_left_out(row: str, value: float) -> None:
    case = Case(row, "mlp")  # a normalisation may well bring huge inputs back into range
    if case.kind.bounded and math.isfinite(value):  # then such a task is one like any other
        with pytest.raises(AssertionError, match="outcomes"):
            ask.a_diverging_task_is_left_out(case.learner(), case.meta(), case.episodes(), value=value)
        return
    ask.a_diverging_task_is_left_out(case.learner(), case.meta(), case.episodes(), value=value)


def test_all_diverging_tasks_are_reported(case: Case) -> None:
    ask.all_diverging_tasks_are_reported(case.learner(), case.meta(), case.episodes())


def test_initial_meta_is_a_function_of_rng(case: Case) -> None:
    ask.initial_meta_is_a_function_of_rng(case.learner())


@pytest.mark.parametrize("dropping", DROPOUT_CASES, ids=str)
def test_dropout_is_a_function_of_the_key(dropping: Case) -> None:
    ask.dropout_is_a_function_of_the_key(dropping.learner(), dropping.meta(), dropping.episodes())
