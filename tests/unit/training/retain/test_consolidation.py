"""Elastic weight consolidation against its definition: an explicit sum over stages, and its recursion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.types import Meta
from innerloop.core.vectorise import take
from innerloop.training.retain.consolidation import Consolidation, information
from unit.measure.settings import BOWLS, RATE, STEPS
from unit.training.retain.moments import (
    EPISODES,
    at,
    flat,
    force,
    moment,
    same_after_a_checkpoint,
)

HERE, WEIGHT = at(0.2, 0.4, -0.6), 3.0
STAGES = [
    (at(1.0, -2.0, 0.3), take(EPISODES, slice(0, 2))),
    (at(-1.5, 0.1, 2.0), take(EPISODES, slice(2, 5))),
    (at(0.7, 0.9, -0.2), take(EPISODES, slice(3, 6))),
]


def fisher(meta: Meta, tasks: Any) -> Tensor:
    """The mean squared meta-gradient of a bowl, in closed form: (A h A (theta - c))^2."""
    slopes = BOWLS.descent(RATE, STEPS).meta_gradients(flat(meta), BOWLS.centres(tasks))
    return slopes.square().mean(0)


def after_stages(count: int, decay: float | None = None) -> Consolidation:
    found = Consolidation(WEIGHT, decay)
    for meta, tasks in STAGES[:count]:
        found.stage_ended(moment(meta, tasks))
    return found


def explicit(count: int) -> Tensor:
    """lambda sum_k F_k (theta - theta_k)."""
    terms = [fisher(meta, tasks) * (flat(HERE) - flat(meta)) for meta, tasks in STAGES[:count]]
    return WEIGHT * torch.stack(terms).sum(0)


def recursive(count: int, decay: float) -> Tensor:
    """lambda F~_k (theta - theta_k), F~_k = gamma F~_(k-1) + F_k."""
    total = torch.zeros(3, dtype=torch.float64)
    for meta, tasks in STAGES[:count]:
        total = decay * total + fisher(meta, tasks)
    return WEIGHT * total * (flat(HERE) - flat(STAGES[count - 1][0]))


def exactly(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_information_is_the_mean_square_of_single_tasks_gradients() -> None:
    meta, tasks = STAGES[0]
    exactly(flat(information(moment(meta, tasks))), fisher(meta, tasks))


def test_it_is_no_square_of_the_mean() -> None:
    """The usual mistake: the gradient of a batch, squared. Gradients that cancel would protect nothing."""
    meta, tasks = STAGES[0]
    wrong = moment(meta, tasks).gradient(tasks)
    with pytest.raises(AssertionError):
        exactly(flat(tree.map(torch.square, wrong)), fisher(meta, tasks))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_force_is_the_explicit_sum_over_stages(count: int) -> None:
    exactly(force(after_stages(count), HERE), explicit(count))


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_force_of_the_online_form_is_the_recursion(count: int, decay: float) -> None:
    exactly(force(after_stages(count, decay), HERE), recursive(count, decay))


def test_the_online_form_is_another_remedy_even_without_decay() -> None:
    """It keeps one anchor: the sum of information pulls to the last stage."""
    with pytest.raises(AssertionError):
        exactly(force(after_stages(3, 1.0), HERE), explicit(3))


@pytest.mark.parametrize("decay", [None, 0.9])
def test_there_is_none_before_the_first_stage_ends_and_none_at_the_only_anchor(decay: float | None) -> None:
    assert not force(Consolidation(WEIGHT, decay), HERE).any()
    assert float(force(after_stages(1, decay), STAGES[0][0]).abs().max()) < 1e-12


def test_it_is_the_gradient_of_the_penalty() -> None:
    theta = flat(HERE).requires_grad_()
    parts = [(fisher(meta, tasks) * (theta - flat(meta)).square()).sum() for meta, tasks in STAGES]
    (expected,) = torch.autograd.grad(0.5 * WEIGHT * torch.stack(parts).sum(), theta)
    exactly(force(after_stages(3), HERE), expected)


@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened(count: int, decay: float | None) -> None:
    found = same_after_a_checkpoint(after_stages(count, decay), Consolidation(WEIGHT, decay))
    for meta, tasks in STAGES[count:]:
        found.stage_ended(moment(meta, tasks))
    assert torch.equal(force(found, HERE), force(after_stages(3, decay), HERE))


class OneAnchor:
    """The planted bug: information is summed, and only the last anchor kept, in the plain form as well."""

    @staticmethod
    def force() -> Tensor:
        total = torch.stack([fisher(meta, tasks) for meta, tasks in STAGES]).sum(0)
        return WEIGHT * total * (flat(HERE) - flat(STAGES[-1][0]))


def test_the_explicit_sum_tells_a_lost_anchor() -> None:
    with pytest.raises(AssertionError):
        exactly(OneAnchor.force(), explicit(3))
