"""Each measurement is finite for every algorithm and network, or says why not, and touches nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import Case
from innerloop.core import tree
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.quotients import kind_of_error
from innerloop.measure.backward import backward_norms
from innerloop.measure.curvature import inner_curvature
from innerloop.measure.first_order import first_order_gap
from innerloop.measure.gradient_noise import gradient_noise
from innerloop.measure.leaks import state_leak, transduction
from innerloop.measure.quotients import quotient_sweep
from innerloop.measure.randomness import random_states
from innerloop.measure.sensitivity import sensitivity

Measure = Callable[[Any, Meta, Episode], Any]

MEASURES: dict[str, Measure] = {
    "curvature": lambda learner, meta, tasks: inner_curvature(learner, meta, take(tasks, 0)),
    "sensitivity": lambda learner, meta, tasks: sensitivity(
        learner, meta, take(tasks, 0), learner.inner_steps
    ),
    "backward": lambda learner, meta, tasks: backward_norms(
        learner, meta, take(tasks, 0), learner.inner_steps
    ),
    "noise": lambda learner, meta, tasks: astuple(
        gradient_noise(learner.gradient, learner, meta, tasks, key=3, num_tasks=4)
    ),
    "first order": lambda learner, meta, tasks: first_order_gap(learner, meta, tasks, key=3),
    "quotients": lambda learner, meta, tasks: quotient_sweep(
        learner, meta, take(tasks, slice(0, 2)), learner.gradient, key=3, seed=0
    ),
    "state": state_leak,
    "transduction": transduction,
}
OF_STEPS = {"curvature", "sensitivity", "backward", "first order"}


def numbers(found: Any) -> list[float]:
    if isinstance(found, dict):
        return [x for value in found.values() for x in numbers(value)]
    if isinstance(found, (list, tuple)):
        return [x for value in found for x in numbers(value)]
    return [found]


def tensors(learner: Any, meta: Meta) -> list[Tensor]:
    nets = [learner.net, *learner.parts.values()]
    kept = [t for net in nets for t in net._module.state_dict(keep_vars=True).values()]
    return [*tree.leaves(meta), *learner.module.state_dict().values(), *kept]


def asked(learner: Any, meta: Meta, tasks: Episode) -> dict[str, Any]:
    """What each measurement says: numbers, or the reason why there are none."""
    found: dict[str, Any] = {}
    for name, measure in MEASURES.items():
        try:
            found[name] = measure(learner, meta, tasks)
        except NotEvaluated as reason:
            found[name] = str(reason)
    return found


def test_every_measurement_is_finite_or_says_why_not_and_changes_nothing(case: Case):
    learner, meta, tasks = case.learner(), case.meta(), case.episodes()
    before, drawn = [t.clone() for t in tensors(learner, meta)], random_states()
    settings = copy.copy(vars(learner))
    found = asked(learner, meta, tasks)
    for name, told in found.items():
        if isinstance(told, str):
            assert name in OF_STEPS
            assert told in ("there are no inner steps", "the update rule keeps a state")
            assert (told == "there are no inner steps") == (learner.inner_steps == 0)
        else:
            assert all(map(math.isfinite, numbers(told))), (name, told)
    assert all(map(torch.equal, before, tensors(learner, meta)))
    assert not any(leaf.requires_grad or leaf.grad is not None for leaf in tree.leaves(meta))
    assert random_states() == drawn
    assert vars(learner) == settings


def test_an_exact_gradient_is_right_and_an_inexact_one_is_not(case: Case):
    learner = case.learner()
    errors = quotient_sweep(
        learner, case.meta(), take(case.episodes(), slice(0, 2)), learner.gradient, key=3, seed=0
    )
    if learner.gradient.exact:
        assert kind_of_error(errors) == "right"
    elif learner.inner_steps and case.algorithm in ("FOMAML", "Reptile"):
        assert kind_of_error(errors) == "wrong"


@pytest.mark.parametrize("name", sorted(OF_STEPS))
def test_the_same_question_has_the_same_answer_whatever_was_drawn_before(name):
    case = Case("Reptile", "batch", "support", dropout=0.4)
    learner, meta, tasks = case.learner(inner_rule="SGD", inner_lr=0.05), case.meta(), case.episodes()
    first = numbers(MEASURES[name](learner, meta, tasks))
    torch.rand(3)
    assert numbers(MEASURES[name](learner, meta, tasks)) == first
