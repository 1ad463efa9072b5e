"""Synaptic intelligence on quadratics, where the fall of the loss along a path is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from innerloop.core.types import Meta
from innerloop.training.retain.intelligence import Intelligence
from unit.measure.settings import BOWLS, RATE, STEPS
from unit.training.retain.moments import EPISODES, at, flat, force, moment, same_after_a_checkpoint

DESCENT, CENTRES = BOWLS.descent(RATE, STEPS), BOWLS.centres(EPISODES)
STRENGTH, DAMPING, LR = 0.4, 0.05, 0.05
BEGIN, HERE = at(1.0, -2.0, 0.3), at(0.1, 0.5, -0.9)


def gradient(meta: Meta) -> Meta:
    found = DESCENT.meta_gradients(flat(meta), CENTRES).mean(0)
    return {"params": {"head.weight": found[None]}}


def losses(meta: Meta) -> Tensor:
    """The meta-loss of each coordinate: a quadratic whose second derivative is A h A."""
    away = DESCENT.adapted(flat(meta), CENTRES) - CENTRES
    return 0.5 * (DESCENT.curvatures * away.square()).mean(0)


def trained(remedy: Intelligence, meta: Meta, steps: int) -> tuple[Meta, Tensor]:
    """Plain SGD with a remedy looking on; where it ends, and the sum of squared steps."""
    squares = torch.zeros(3, dtype=torch.float64)
    for _ in range(steps):
        remedy.changed(gradient(meta), moment(meta))
        after = at(*(flat(meta) - LR * flat(gradient(meta))).tolist())
        remedy.stepped(gradient(meta), meta, after)
        squares += (flat(after) - flat(meta)).square()
        meta = after
    return meta, squares


def path(remedy: Intelligence) -> Tensor:
    return remedy.tensors()["path/params/head.weight"].flatten()


def importance(remedy: Intelligence) -> Tensor:
    return remedy.tensors()["importance/params/head.weight"].flatten()


def exactly(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 7])
def test_the_path_integral_is_the_fall_of_the_loss_up_to_the_second_order_of_a_step(steps: int) -> None:
    """On a quadratic the rest is half the curvature times the sum of squared steps, so it is exact."""
    remedy = Intelligence(STRENGTH, DAMPING)
    end, squares = trained(remedy, BEGIN, steps)
    curvature = DESCENT.curvatures * DESCENT.contraction.square()
    exactly(path(remedy) - 0.5 * curvature * squares, losses(BEGIN) - losses(end))


def test_importance_is_the_part_in_the_fall_over_the_distance_squared() -> None:
    remedy = Intelligence(STRENGTH, DAMPING)
    end, _ = trained(remedy, BEGIN, 5)
    fallen, moved = path(remedy), flat(end) - flat(BEGIN)
    remedy.stage_ended(moment(end))
    exactly(importance(remedy), fallen / (moved.square() + DAMPING))
    exactly(force(remedy, HERE), 2 * STRENGTH * importance(remedy) * (flat(HERE) - flat(end)))


def test_importance_adds_up_over_stages_and_each_begins_at_nothing() -> None:
    both, second = Intelligence(STRENGTH, DAMPING), Intelligence(STRENGTH, DAMPING)
    middle, _ = trained(both, BEGIN, 5)
    both.stage_ended(moment(middle))
    first = importance(both)
    end, _ = trained(both, middle, 3)
    trained(second, middle, 3)
    exactly(path(both), path(second))
    both.stage_ended(moment(end))
    second.stage_ended(moment(end))
    exactly(importance(both), first + importance(second))


def test_a_parameter_that_raised_the_loss_is_of_no_importance() -> None:
    remedy = Intelligence(STRENGTH, DAMPING)
    remedy.changed(at(0, 0, 0), moment(at(0, 0, 0)))
    remedy.stepped(at(1.0, 1.0, 0.0), at(0, 0, 0), at(1.0, -1.0, 1.0))
    remedy.stage_ended(moment(at(1.0, -1.0, 1.0)))
    exactly(importance(remedy), torch.tensor([0.0, 1.0 / (1.0 + DAMPING), 0.0], dtype=torch.float64))


def test_there_is_no_force_before_the_first_stage_ends() -> None:
    remedy = Intelligence(STRENGTH, DAMPING)
    end, _ = trained(remedy, BEGIN, 2)
    assert not force(remedy, end).any()


def test_it_is_the_gradient_of_its_penalty() -> None:
    remedy = Intelligence(STRENGTH, DAMPING)
    end, _ = trained(remedy, BEGIN, 5)
    remedy.stage_ended(moment(end))
    theta = flat(HERE).requires_grad_()
    penalty = STRENGTH * (importance(remedy) * (theta - flat(end)).square()).sum()
    exactly(force(remedy, HERE), torch.autograd.grad(penalty, theta)[0])


@pytest.mark.parametrize("cut", [0, 2, 5])
def test_it_goes_on_from_a_checkpoint_within_a_stage(cut: int) -> None:
    whole, parts = Intelligence(STRENGTH, DAMPING), Intelligence(STRENGTH, DAMPING)
    end, _ = trained(whole, BEGIN, 5)
    middle, _ = trained(parts, BEGIN, cut)
    parts = same_after_a_checkpoint(parts, Intelligence(STRENGTH, DAMPING))
    trained(parts, middle, 5 - cut)
    for remedy in (whole, parts):
        remedy.stage_ended(moment(end))
    assert torch.equal(importance(whole), importance(parts))
    same_after_a_checkpoint(whole, parts)
