"""Every question of update rules turns red for a planted bug."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch

from innerloop.rules import Adam
from unit.rules import mutants as bug
from unit.rules import questions as ask
from unit.rules.questions import CASES, Case

F32, F64 = torch.float32, torch.float64

#: What a question says when it turns red: a bug seen for another reason is not seen.
RED: dict[Callable[..., None], str] = {
    ask.follows_torch: r"off torch\.optim",
    ask.derivatives_are_right: "meta-gradient of",
    ask.stays_finite_at_dead_units: "meta-gradient of .*nan",
    ask.stands_still_without_gradients: "without gradients",
    ask.vmap_equals_loop: "under vmap off the loop",
    ask.each_has_its_own: "is another's",
    ask.state_is_a_tree_of_floats: "is no tensor|is torch|changes its shape",
    ask.leaves_its_arguments_alone: "was changed|the same step differs",
    ask.costs_two_operations_a_parameter: "not needed|ran",
    ask.refuses_what_is_out_of_range: "DID NOT RAISE",
}

#: A question, a case that answers it, what else is asked, and a wrapper of its rule that must not.
WRAPPED: list[tuple[Callable[..., None], str, tuple[Any, ...], Callable[[Any], Any]]] = [
    *((ask.follows_torch, "SGD-momentum", (d,), bug.DampsMomentum) for d in (F32, F64)),
    (ask.follows_torch, "RMSprop-momentum", (F64,), bug.DampsMomentum),
    (ask.follows_torch, "SGD", (F64,), bug.Diverges),
    (ask.follows_torch, "Adagrad-all", (F64,), bug.CountsFromOne),
    *((ask.follows_torch, f"{name}-all", (F64,), bug.ForgetsItsState) for name in ("SGD", "Adam", "Adagrad")),
    *(
        (ask.derivatives_are_right, f"{name}-all", (form,), bug.DetachesItsState)
        for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")
        for form in ("fixed", "by element")
    ),
    (ask.derivatives_are_right, "SGD", ("fixed",), bug.DetachesUnderPlainAutograd),
    (ask.vmap_equals_loop, "SGD", ("fixed",), bug.CountsOnItself),
    (ask.state_is_a_tree_of_floats, "SGD", ("fixed", F32), bug.CountsInPython),
    (ask.state_is_a_tree_of_floats, "Adam", ("fixed", F32), bug.CountsInIntegers),
    (ask.state_is_a_tree_of_floats, "Adagrad", ("shared", F32), bug.GrowsItsState),
    (ask.leaves_its_arguments_alone, "Adam", (), bug.StepsInPlace),
    (ask.leaves_its_arguments_alone, "SGD", (), bug.DecaysGradientsInPlace),
    (ask.leaves_its_arguments_alone, "SGD", (), bug.CountsOnItself),
]

#: The same, for another function in place of a shared one.
SHARED: list[tuple[Callable[..., None], str, tuple[Any, ...], str, Callable[..., Any]]] = [
    *((ask.follows_torch, n, (F64,), "root", bug.eps_under_the_root) for n in ("Adam", "RMSprop", "Adagrad")),
    *((ask.follows_torch, n, (F64,), "more_weight", bug.no_bias_correction) for n in ("Adam", "AdamW")),
    (ask.follows_torch, "Adam", (F32,), "more_weight", bug.subtracted_power),
    *(
        (ask.follows_torch, f"{n}-all", (F64,), "decayed", bug.decay_not_scaled)
        for n in ("SGD", "Adam", "RMSprop", "Adagrad")
    ),
    *(
        (ask.derivatives_are_right, n, ("fixed",), "root", bug.root_of_a_constant)
        for n in ("Adam", "AdamW", "RMSprop", "RMSprop-centered", "Adagrad")
    ),
    (ask.derivatives_are_right, "Adam-reptile", ("shared",), "more_weight", bug.bias_of_a_constant),
    (ask.derivatives_are_right, "Adam-reptile", ("shared",), "more_weight", bug.power_by_logarithms),
    *(
        (ask.stays_finite_at_dead_units, n, (form,), "root", root)
        for n in (
            "Adam",
            "Adam-reptile",
            "AdamW",
            "RMSprop",
            "RMSprop-momentum",
            "RMSprop-centered",
            "Adagrad",
        )
        for form in ("fixed", "by element")
        for root in (bug.plain_root, bug.half_safe_root)
    ),
    *((ask.stands_still_without_gradients, n, (), "at", bug.read_without_eps) for n in ("Adam", "RMSprop")),
    *(
        (ask.each_has_its_own, n, ("by parameter",), "at", bug.read_for_the_first)
        for n in ("SGD", "Adam-all")
    ),
    *((ask.each_has_its_own, n, ("by element",), "at", bug.read_as_the_mean) for n in ("SGD", "Adagrad-all")),
    (ask.costs_two_operations_a_parameter, "SGD", (), "is_off", bug.never_off),
    *(
        (ask.refuses_what_is_out_of_range, f"{n}-all", (), "check_hyper", bug.unchecked)
        for n in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")
    ),
]

#: Rules that ignore a setting, or take it for another.
MISREAD: dict[str, Case] = {
    "nesterov": bug.with_settings(CASES["SGD-nesterov"], nesterov=False),
    "centered": bug.with_settings(CASES["RMSprop-centered"], centered=False),
    "accumulator": bug.with_settings(CASES["Adagrad-all"], initial_accumulator_value=0.0),
    "lr_decay": bug.with_settings(CASES["Adagrad-all"], lr_decay=0.0),
    "coupled": bug.replace(CASES["AdamW-all"], rule=Adam),
    "default": bug.with_settings(CASES["AdamW"], weight_decay=0.0),
}


def named(value: Any) -> str:
    return getattr(value, "__name__", str(value))


def turns_red(question: Callable[..., None], case: Case, *more: Any) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception), match="(?s)" + RED[question]):
        question(case, *more)


@pytest.mark.parametrize(("question", "name", "more", "mutant"), WRAPPED, ids=named)
def test_a_planted_bug_is_seen(question: Any, name: str, more: Any, mutant: Any) -> None:
    turns_red(question, bug.with_rule(CASES[name], mutant), *more)


@pytest.mark.parametrize(("question", "name", "more", "function", "wrong"), SHARED, ids=named)
def test_a_bug_in_what_rules_share_is_seen(
    question: Any, name: str, more: Any, function: str, wrong: Any
) -> None:
    with bug.shared(function, wrong):
        turns_red(question, CASES[name], *more)


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("-all")])
def test_every_learned_number_s_missing_derivative_is_seen(name: str) -> None:
    for number in CASES[name].numbers:
        turns_red(ask.derivatives_are_right, bug.with_constant(CASES[name], number), "by element")


@pytest.mark.parametrize("what", MISREAD)
def test_a_setting_that_is_not_read_is_seen(what: str) -> None:
    turns_red(ask.follows_torch, MISREAD[what], F64)


def test_a_wrapper_that_changes_nothing_passes() -> None:
    for question, name, more, _ in WRAPPED:
        question(bug.with_rule(CASES[name], bug.Wrapped), *more)


def test_an_infinite_root_takes_right_steps() -> None:
    """Only its derivative gives it away."""
    for root in (bug.plain_root, bug.half_safe_root):
        with bug.shared("root", root):
            ask.follows_torch(CASES["Adam"], F64)


def test_every_question_has_its_planted_bug() -> None:
    questions = {
        f
        for _, f in inspect.getmembers(ask, inspect.isfunction)
        if f.__module__ == ask.__name__ and inspect.signature(f).return_annotation == "None"
    }
    assert questions == set(RED) == {question for question, *_ in [*WRAPPED, *SHARED]}
