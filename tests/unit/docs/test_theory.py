"""The theory page is true: each formula on it is what the code computes, on bowls, in float64.

The page names the test of each statement. Expectations are taken exactly, over all meta-batches of a
population of tasks, so that nothing here is a matter of chance.
"""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import innerloop as il
from innerloop.core.learner import states
from innerloop.core.losses import loss_value
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import join, take
from innerloop.measure.curvature import inner_curvature
from innerloop.measure.first_order import first_order_gap
from innerloop.measure.gradient_noise import gradient_noise
from innerloop.measure.sensitivity import sensitivity

PAGE = Path(__file__).parents[3] / "docs/theory-of-convergence.md"
CURVATURES = (0.2, 0.9, 1.7)
RATE, STEPS = 0.5, 3
THETA = torch.tensor([1.0, -2.0, 0.4], dtype=torch.float64)
CENTRES = torch.tensor([[0.3, 1.1, -0.7], [-1.2, 0.8, 2.0], [0.0, -0.4, 0.6]], dtype=torch.float64)


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def exactly(value: Any) -> Any:
    return pytest.approx(value, rel=1e-6, abs=1e-12)


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def learner_of(size: int, *, rate: float = RATE, steps: int = STEPS) -> il.algorithms.MAML:
    module = il.models.MLP(size, 1, hidden=(), bias=False)
    return il.algorithms.MAML(module, inner_lr=rate, inner_steps=steps, loss="mse")


def meta_at(theta: Tensor) -> Meta:
    return {"params": {"head.weight": theta.clone()[None]}}


def tasks_at(centres: Tensor, curvatures: tuple[float, ...] = CURVATURES) -> Episode:
    """Bowls with these centres [T, d], whose rows are not rounded to float32."""
    h = torch.tensor(curvatures, dtype=torch.float64)
    x = (0.5 * len(h) * h).sqrt().diag().repeat(len(centres), 1, 1)
    batch = Batch(x, x @ centres[..., None])
    return Episode(batch, batch)


def meta_gradient(
    theta: Tensor, episodes: Episode, *, rate: float = RATE, steps: int = STEPS, first_order: bool = False
) -> Tensor:
    """The meta-gradient [d] that the library computes."""
    path = il.gradients.FirstOrder() if first_order else il.gradients.Unrolled()
    learner = learner_of(len(theta), rate=rate, steps=steps)
    return il.meta_gradient(learner, meta_at(theta), episodes, gradient=path)[0]["params"]["head.weight"][0]


def losses(theta: Tensor, episodes: Episode, *, rate: float = RATE, steps: int = STEPS) -> Tensor:
    """The query losses [T] after the library's own inner loop."""
    learner, meta = learner_of(len(theta), rate=rate, steps=steps), meta_at(theta)
    found = []
    for i in range(len(episodes.query.x)):
        support, query = take(episodes, i)
        *_, last = states(learner, meta, support, steps)
        found.append(loss_value("mse", learner.predict(meta, last, query.x), query.y))
    return torch.stack(found).detach()


def matrices(
    rate: float = RATE, steps: int = STEPS, curvatures: tuple[float, ...] = CURVATURES
) -> tuple[Tensor, Tensor]:
    """H and A = (I - alpha H)^N, as the page has them."""
    h = torch.tensor(curvatures, dtype=torch.float64).diag()
    return h, torch.linalg.matrix_power(torch.eye(len(h)).double() - rate * h, steps)


# --- the inner loop --------------------------------------------------------------------------------------


def test_the_inner_loop_contracts_the_distance_by_a() -> None:
    learner, meta = learner_of(3), meta_at(THETA)
    _, a = matrices()
    for i, centre in enumerate(CENTRES):
        *_, last = states(learner, meta, take(tasks_at(CENTRES), i).support, STEPS)
        near(last["params"]["head.weight"][0].detach(), centre + a @ (THETA - centre))


@pytest.mark.parametrize("rate", [0.3, 1.1, 1.9, 2.1, 3.0])
def test_steps_converge_where_alpha_lambda_max_is_below_two(rate: float) -> None:
    tasks = tasks_at(CENTRES[:1, :1], (1.0,))
    found = inner_curvature(learner_of(1, rate=rate), meta_at(THETA[:1]), take(tasks, 0))
    assert found == exactly(rate * 1.0)
    before, after = (float(losses(THETA[:1], tasks, rate=rate, steps=n)) for n in (0, STEPS))
    assert (after < before) == (found < 2)


@pytest.mark.parametrize(("rate", "steps"), [(0.3, 1), (0.5, 3), (1.3, 5)])
def test_sigma_j_is_the_largest_contraction_and_bounds_the_meta_gradient(rate: float, steps: int) -> None:
    tasks, (h, a) = tasks_at(CENTRES[:1]), matrices(rate, steps)
    sigma = sensitivity(learner_of(3, rate=rate, steps=steps), meta_at(THETA), take(tasks, 0), steps)
    assert sigma == exactly(max(abs(1 - rate * h) ** steps for h in CURVATURES))
    at_the_end = float((h @ a @ (THETA - CENTRES[0])).norm())
    assert float(meta_gradient(THETA, tasks, rate=rate, steps=steps).norm()) <= sigma * at_the_end * (
        1 + 1e-9
    )
    assert sigma <= (1 + rate * max(CURVATURES)) ** steps


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_a_rate_of_one_over_n_l_keeps_the_bound_below_e(steps: int) -> None:
    largest = max(CURVATURES)
    bound = (1 + largest / (steps * largest)) ** steps
    learner = learner_of(3, rate=1 / (steps * largest), steps=steps)
    assert sensitivity(learner, meta_at(THETA), take(tasks_at(CENTRES), 0), steps) <= bound <= math.e


# --- the outer objective and its gradients ---------------------------------------------------------------


def test_the_outer_loss_is_that_of_a_flatter_bowl_above_a_floor() -> None:
    h, a = matrices()
    away = THETA - CENTRES
    near(losses(THETA, tasks_at(CENTRES)), 0.5 * (away @ (a @ h @ a) * away).sum(1))
    middle, spread = f64(0.5, 0.5, 0.5), 1.5
    both = torch.stack([middle + spread, middle - spread])  # a population of that mean and that spread
    floor = 0.5 * spread**2 * float((a @ h @ a).trace())
    expected = 0.5 * float((THETA - middle) @ a @ h @ a @ (THETA - middle)) + floor
    assert float(losses(THETA, tasks_at(both)).mean()) == exactly(expected)
    descent = il.tasks.Bowls(CURVATURES, centre=0.5, spread=spread).descent(RATE, STEPS)
    assert (descent.floor, descent.expected_meta_loss(THETA)) == (exactly(floor), exactly(expected))


def test_the_meta_gradient_is_a_h_a() -> None:
    h, a = matrices()
    near(meta_gradient(THETA, tasks_at(CENTRES)), a @ h @ a @ (THETA - CENTRES.mean(0)))


def test_the_first_order_gradient_lacks_one_a() -> None:
    h, a = matrices()
    exact = meta_gradient(THETA, tasks_at(CENTRES))
    found = meta_gradient(THETA, tasks_at(CENTRES), first_order=True)
    near(found, h @ a @ (THETA - CENTRES.mean(0)))
    near(found - exact, (torch.eye(3).double() - a) @ found)
    _, error = first_order_gap(learner_of(3), meta_at(THETA), tasks_at(CENTRES), key=0)
    assert error == exactly(float((found - exact).norm() / exact.norm()))


@pytest.mark.parametrize(("rate", "steps", "opposed"), [(0.5, 3, False), (1.5, 3, True), (1.5, 2, False)])
def test_first_order_goes_uphill_past_the_minimum_of_a_step(rate: float, steps: int, opposed: bool) -> None:
    tasks = tasks_at(CENTRES[:1, :1], (1.0,))
    exact = float(meta_gradient(THETA[:1], tasks, rate=rate, steps=steps))
    found = float(meta_gradient(THETA[:1], tasks, rate=rate, steps=steps, first_order=True))
    assert (exact * found < 0) == opposed
    moved = THETA[:1] - 0.01 * found
    before, after = (float(losses(at, tasks, rate=rate, steps=steps)) for at in (THETA[:1], moved))
    assert (after > before) == opposed


def test_first_order_training_ends_elsewhere_where_tasks_differ_in_curvature() -> None:
    flat, steep, rate, steps = 0.2, 1.6, 0.5, 1
    tasks = [tasks_at(f64([c]), (h,)) for c, h in ((0.0, flat), (1.0, steep))]
    both = join(tasks)
    kept = [1 - rate * h for h in (flat, steep)]
    ends = {}
    for first_order in (False, True):
        weights = [h * a ** (1 if first_order else 2) for h, a in zip((flat, steep), kept, strict=True)]
        ends[first_order] = weights[1] / sum(weights)
        at = f64(ends[first_order])
        for way in (False, True):
            slope = float(meta_gradient(at, both, rate=rate, steps=steps, first_order=way))
            assert (abs(slope) < 1e-12) == (way is first_order)
    best, other = (float(losses(f64(end), both, rate=rate, steps=steps).mean()) for end in ends.values())
    assert best < other


# --- noise -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 3])
def test_the_raw_norm_is_the_true_one_plus_noise_and_the_signal_is_without(batch: int) -> None:
    tasks = tasks_at(CENTRES)
    truth = meta_gradient(THETA, tasks)
    each = torch.stack([meta_gradient(THETA, take(tasks, slice(i, i + 1))) for i in range(3)])
    spread = float((each - truth).square().sum(1).mean())  # tr S of the population
    draws = [torch.tensor(draw) for draw in itertools.product(range(3), repeat=batch)]
    path, learner, meta = il.gradients.Unrolled(), learner_of(3), meta_at(THETA)
    found = [gradient_noise(path, learner, meta, take(tasks, d), key=0, num_tasks=batch) for d in draws]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    square = float(truth.square().sum())
    assert mean([one.norm**2 for one in found]) == exactly(square + spread / batch)
    assert mean([one.signal for one in found]) == exactly(square)
    assert mean([one.noise for one in found]) == exactly(spread / batch)


@pytest.mark.parametrize("outer_lr", [0.3, 2.0, 5.0])
def test_at_stationarity_signal_to_noise_is_beta_h_over_two_minus_beta_h(outer_lr: float) -> None:
    spread, batch = 1.3, 4
    tasks = tasks_at(f64([spread], [-spread]), (0.8,))
    h, a = (float(m) for m in matrices(curvatures=(0.8,)))
    curvature = a * h * a
    noise = (curvature * spread) ** 2 / batch
    variance = outer_lr * noise / (curvature * (2 - outer_lr * curvature))
    after, squares = [], []
    for sign in (1, -1):
        theta = f64(sign * variance**0.5)
        squares.append(float(meta_gradient(theta, tasks)) ** 2)
        # The mean centre of a batch has the variance spread^2 / batch: two equally likely values will do.
        for centre in (spread / batch**0.5, -spread / batch**0.5):
            slope = meta_gradient(theta, tasks_at(f64([centre]), (0.8,)))
            after.append(float(theta - outer_lr * slope) ** 2)
    assert sum(after) / 4 == exactly(variance)  # one outer step keeps it: it is stationary
    ratio = sum(squares) / 2 / noise
    assert ratio == exactly(outer_lr * curvature / (2 - outer_lr * curvature))
    assert (ratio > 1) == (outer_lr * curvature > 1)


def test_the_noise_floor_is_what_a_constant_rate_adds_to_the_loss() -> None:
    spread, batch, outer_lr = 1.3, 4, 2.0
    descent = il.tasks.Bowls((0.8,), centre=0.0, spread=spread).descent(RATE, STEPS)
    curvature = float(descent.curvatures * descent.contraction.square())
    noise = (curvature * spread) ** 2 / batch
    variance = outer_lr * noise / (curvature * (2 - outer_lr * curvature))
    at = [descent.expected_meta_loss(f64(s * variance**0.5)) for s in (1, -1)]
    excess = 0.5 * outer_lr * noise / (2 - outer_lr * curvature)
    assert sum(at) / 2 - descent.floor == exactly(excess)
    middle = descent.expected_meta_loss(f64(0.0))
    assert middle == exactly(descent.floor)  # where the average of the iterates goes


# --- the page --------------------------------------------------------------------------------------------


OF_THE_PAGE = "test_the_page_names_every_test_and_no_other"


def test_the_page_names_every_test_and_no_other() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text("utf-8")))
    assert named == {name for name in globals() if name.startswith("test_")} - {OF_THE_PAGE}
