"""On bowls every measurement equals its closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from innerloop.core.types import Batch, Episode
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.quotients import kind_of_error
from innerloop.gradients import FirstOrder, Unrolled
from innerloop.measure.backward import backward_norms
from innerloop.measure.curvature import inner_curvature
from innerloop.measure.first_order import first_order_gap
from innerloop.measure.gradient_noise import gradient_noise
from innerloop.measure.quotients import quotient_sweep
from innerloop.measure.sensitivity import sensitivity
from unit.measure.settings import BOWLS, RATE, STEPS, on_bowls, theta_of

LEARNER, META, EPISODES = on_bowls()
DESCENT = BOWLS.descent(RATE, STEPS)
CENTRES = BOWLS.centres(EPISODES)


def exactly(value: float | list[float]) -> Any:
    return pytest.approx(value, rel=1e-8)


def gradients(num_tasks: int = 6, *, first_order: bool = False) -> torch.Tensor:
    centres = BOWLS.centres(on_bowls(num_tasks)[2])
    return DESCENT.meta_gradients(theta_of(META), centres, first_order=first_order)


@pytest.mark.parametrize("at", [0, 2])
def test_curvature(at):
    assert inner_curvature(LEARNER, META, take(EPISODES, 0), at=at) == exactly(DESCENT.curvature)


@pytest.mark.parametrize("rate", [0.3, 0.6, 1.3])
@pytest.mark.parametrize("steps", [1, 5])
def test_sensitivity(rate, steps):
    learner, meta, episodes = on_bowls(inner_lr=rate)
    found = sensitivity(learner, meta, take(episodes, 0), steps)
    assert found == exactly(BOWLS.descent(rate, steps).sensitivity)


def test_backward_norms():
    found = backward_norms(LEARNER, META, take(EPISODES, 1), STEPS)
    h = torch.tensor(BOWLS.curvatures, dtype=torch.float64)
    slope = h * DESCENT.contraction * (theta_of(META) - CENTRES[1])
    expected = [float((DESCENT.contraction_of(STEPS - k) * slope).norm()) for k in range(STEPS + 1)]
    assert found == {"params/head.weight": exactly(expected)}


def test_first_order_gap():
    exact, approximate = (gradients(first_order=way).mean(0) for way in (False, True))
    cosine, error = first_order_gap(LEARNER, META, EPISODES, key=0)
    assert cosine == exactly(float(torch.cosine_similarity(exact, approximate, dim=0)))
    assert error == exactly(float((exact - approximate).norm() / exact.norm()))


@pytest.mark.parametrize("first_order", [False, True])
def test_gradient_noise(first_order):
    path = FirstOrder() if first_order else Unrolled()
    found = gradient_noise(path, LEARNER, META, EPISODES, key=0, num_tasks=4)
    each = gradients(first_order=first_order)
    mean, trace = each.mean(0), float(torch.cov(each.T).trace())
    pairs = [float(each[i] @ each[j]) for i in range(6) for j in range(6) if i != j]
    assert found.norms == exactly([float(g.norm()) for g in each])
    assert found.norm == exactly(float(mean.norm()))
    assert found.signal == exactly(sum(pairs) / 30)
    assert found.noise == exactly(trace / 4)
    assert found.leverage == exactly(float((each - mean).norm(dim=1).max() / (5 * mean.norm())))


def test_the_signal_is_the_squared_norm_of_the_true_gradient_and_the_raw_norm_is_mostly_noise():
    learner, meta, episodes = on_bowls(4000)
    each = gradients(4000)
    truth = DESCENT.meta_gradients(theta_of(meta), torch.full((1, 3), 0.5).double())[0]
    found = [
        gradient_noise(Unrolled(), learner, meta, take(episodes, slice(i, i + 4)), key=0, num_tasks=4)
        for i in range(0, 400, 4)
    ]
    signals = torch.tensor([one.signal for one in found])
    error = float(signals.std()) / 10
    assert abs(float(signals.mean()) - float(truth.square().sum())) < 4 * error
    noise = sum(one.noise for one in found) / 100
    assert noise == pytest.approx(float(torch.cov(each.T).trace()) / 4, rel=0.2)
    assert sum(one.norm**2 for one in found) / 100 > 1.5 * float(truth.square().sum())


def test_one_task_a_hundred_times_as_far_away_has_the_leverage_of_one():
    learner, meta, (support, query) = on_bowls()
    y = support.y.clone()
    y[3] *= 1e4
    far = type(EPISODES)(support._replace(y=y), query._replace(y=y))
    before = gradient_noise(Unrolled(), learner, meta, EPISODES, key=0, num_tasks=4).leverage
    after = gradient_noise(Unrolled(), learner, meta, far, key=0, num_tasks=4).leverage
    assert after == pytest.approx(1.0, abs=0.01)
    assert after > 1.5 * before


def test_a_task_that_is_not_finite_is_left_out_and_two_have_to_be_left():
    x, y = EPISODES.support
    broken = y.clone()
    broken[2] = float("inf")
    tasks = Episode(Batch(x, broken), Batch(x, broken))
    found = gradient_noise(Unrolled(), LEARNER, META, tasks, key=0, num_tasks=4)
    good = torch.tensor([0, 1, 3, 4, 5])
    without = gradient_noise(Unrolled(), LEARNER, META, take(EPISODES, good), key=0, num_tasks=4)
    assert math.isnan(found.norms.pop(2))
    assert found.finite == good.tolist()
    assert replace(found, finite=without.finite) == without
    with pytest.raises(NotEvaluated, match="1 of 2 tasks"):
        gradient_noise(Unrolled(), LEARNER, META, take(tasks, slice(1, 3)), key=0, num_tasks=4)
    with pytest.raises(NotEvaluated, match="1 of 6 tasks"):
        first_order_gap(LEARNER, META, tasks, key=0)


def test_a_gradient_that_is_zero_has_no_direction():
    at_the_centre = {"params": {"head.weight": CENTRES[:1]}}
    with pytest.raises(NotEvaluated, match="the exact meta-gradient is zero"):
        first_order_gap(LEARNER, at_the_centre, take(EPISODES, slice(0, 1)), key=0)


def test_quotients_agree_at_every_distance():
    errors = quotient_sweep(LEARNER, META, EPISODES, Unrolled(), key=0, seed=0)
    assert max(max(errors[h]) for h in (1e-4, 1e-5, 1e-6)) < 1e-6
    assert kind_of_error(errors) == "right"
