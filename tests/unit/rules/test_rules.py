"""Update rules are torch's optimizers, one step at a time, and differentiable everywhere."""

from __future__ import annotations

import pytest
import torch

from innerloop.core.errors import ConfigError, ContractError
from innerloop.rules import SGD, AdamW
from unit.rules import questions as ask
from unit.rules.questions import CASES, FORMS

DTYPES = [torch.float32, torch.float64]

each_case = pytest.mark.parametrize("name", CASES)
each_form = pytest.mark.parametrize("form", FORMS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@each_case
@each_dtype
def test_rule_equals_torch_step_by_step(name: str, dtype: torch.dtype) -> None:
    ask.follows_torch(CASES[name], dtype)


@each_case
@each_form
def test_meta_gradient_equals_finite_differences(name: str, form: ask.Form) -> None:
    ask.derivatives_are_right(CASES[name], form)


@each_case
@pytest.mark.parametrize("form", ["fixed", "shared", "by element"])
def test_meta_gradient_is_finite_at_dead_units(name: str, form: ask.Form) -> None:
    ask.stays_finite_at_dead_units(CASES[name], form)


def test_units_are_alive_or_dead_as_they_should_be() -> None:
    params, state, rule = ask.start(), {}, SGD(0.1)
    for k, alive in enumerate([[True, False, False], [True, True, False], [True, True, False]]):
        grads = ask.gradient(params, ask.batches()[k], functional=True)
        for leaf in grads.values():
            assert (leaf.reshape(3, -1) != 0).all(-1).tolist() == alive
            assert (leaf.reshape(3, -1) != 0).any(-1).tolist() == alive
        params, state = rule.step(grads, state, params)


@each_case
def test_rule_stands_still_without_gradients(name: str) -> None:
    ask.stands_still_without_gradients(CASES[name])


@each_case
@pytest.mark.parametrize("form", ["fixed", "shared", "by element"])
def test_vmap_equals_the_loop(name: str, form: ask.Form) -> None:
    ask.vmap_equals_loop(CASES[name], form)


@each_case
@pytest.mark.parametrize("form", ["by parameter", "by element"])
def test_a_learned_number_is_its_own_parameter_s(name: str, form: ask.Form) -> None:
    ask.each_has_its_own(CASES[name], form)


@each_case
@pytest.mark.parametrize("form", ["fixed", "by element"])
def test_state_is_a_tree_of_float_tensors(name: str, form: ask.Form) -> None:
    for dtype in DTYPES:
        ask.state_is_a_tree_of_floats(CASES[name], form, dtype)


@each_case
def test_rule_leaves_its_arguments_alone(name: str) -> None:
    ask.leaves_its_arguments_alone(CASES[name])


def test_plain_sgd_is_two_operations_and_no_state() -> None:
    ask.costs_two_operations_a_parameter(CASES["SGD"])


@pytest.mark.parametrize("name", ["SGD-all", "Adam-all", "AdamW-all", "RMSprop-all", "Adagrad-all"])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    ask.refuses_what_is_out_of_range(CASES[name])


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ConfigError, match="momentum"):
        SGD(0.1, nesterov=True)
    SGD(0.1, nesterov=True, momentum=torch.tensor(0.0))


def test_a_parameter_without_its_number_is_named() -> None:
    params = {"w": torch.ones(2), "b": torch.ones(2)}
    rule = AdamW({"w": torch.ones(2)})
    with pytest.raises(ContractError, match="none for b"):
        rule.step(params, rule.init(params), params)
