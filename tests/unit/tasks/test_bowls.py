"""Bowls are the quadratics of their definition, and their closed forms are what gradient descent does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError
from innerloop.tasks import Bowls

BOWLS = Bowls((0.1, 0.7, 1.9), centre=0.5, spread=2.0)
H = torch.tensor([0.1, 0.7, 1.9], dtype=torch.float64)
THETA = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
RATE, STEPS = 0.6, 3
DESCENT = BOWLS.descent(RATE, STEPS)


def losses(theta: Tensor, num: int = 4) -> Tensor:
    """The mean squared error of a linear model on some tasks [T], from their rows."""
    x, y = (leaf.double() for leaf in BOWLS.sample("train", num, 0).support)
    return ((x @ theta[..., None]).squeeze(-1) - y[..., 0]).square().mean(-1)


def centres(num: int = 4) -> Tensor:
    return BOWLS.centres(BOWLS.sample("train", num, 0))


def descended(theta: Tensor) -> Tensor:
    """Gradient descent by autograd on each task, [T, d]."""
    phi = theta.expand(4, -1)
    for _ in range(STEPS):
        held = phi if phi.requires_grad else phi.detach().requires_grad_()
        phi = held - RATE * torch.autograd.grad(losses(held).sum(), held, create_graph=True)[0]
    return phi


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_the_mean_squared_error_of_a_linear_model_is_the_bowl():
    near(losses(THETA), 0.5 * (H * (THETA - centres()).square()).sum(-1))


def test_adapted_parameters_are_those_of_gradient_descent():
    near(DESCENT.adapted(THETA, centres()), descended(THETA).detach())


def test_the_meta_loss_and_its_gradient_are_those_of_the_unrolled_loop():
    theta = THETA.clone().requires_grad_()
    reached = losses(descended(theta))
    near(DESCENT.meta_losses(THETA, centres()), reached.detach())
    exact = torch.autograd.grad(reached.mean(), theta)[0]
    near(DESCENT.meta_gradients(THETA, centres()).mean(0), exact)


def test_the_first_order_gradient_is_the_query_gradient_at_the_adapted_point():
    phi = descended(THETA).detach().requires_grad_()
    first_order = torch.autograd.grad(losses(phi).sum(), phi)[0]
    near(DESCENT.meta_gradients(THETA, centres(), first_order=True), first_order)


def test_the_derivative_of_the_loop_has_the_largest_singular_value_that_is_said():
    jacobian = torch.autograd.functional.jacobian(lambda theta: descended(theta)[0], THETA)
    assert float(torch.linalg.matrix_norm(jacobian, 2)) == pytest.approx(DESCENT.sensitivity, 1e-6)


def test_the_curvature_is_that_of_the_hessian():
    hessian = torch.autograd.functional.hessian(lambda theta: losses(theta)[0], THETA)
    largest = RATE * float(torch.linalg.eigvalsh(hessian).max())
    assert largest == pytest.approx(DESCENT.curvature, 1e-6)


def test_the_expected_meta_loss_is_the_mean_over_many_tasks():
    many = DESCENT.meta_losses(THETA, centres(40_000))
    error = float(many.std()) / 200
    assert abs(float(many.mean()) - DESCENT.expected_meta_loss(THETA)) < 4 * error


def test_no_initialisation_goes_below_the_floor_and_the_mean_centre_reaches_it():
    best = torch.full((3,), 0.5, dtype=torch.float64)
    floor = DESCENT.floor
    assert DESCENT.expected_meta_loss(best) == pytest.approx(floor, 1e-12)
    assert DESCENT.expected_meta_loss(best + 0.01) > floor


def test_centres_have_the_mean_and_the_spread():
    drawn = centres(5000)
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.06)
    assert float(drawn.std()) == pytest.approx(2.0, rel=0.03)
    assert torch.corrcoef(drawn.T).fill_diagonal_(0.0).abs().max() < 0.06


def test_a_task_is_its_own_test_and_says_so():
    support, query = BOWLS.sample("val", 2, 0)
    assert torch.equal(support.x, query.x)
    assert torch.equal(support.y, query.y)
    assert Bowls.own_test


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"curvatures": ()}, "no curvatures"),
        ({"curvatures": (0.1, 0.0)}, "curvatures > 0"),
        ({"spread": -1.0}, "spread >= 0"),
        ({"centre": float("nan")}, "finite centre"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Bowls(**settings)


@pytest.mark.parametrize("sizes", [{"ways": 2}, {"shots": 5}, {"queries": 4}])
def test_other_sizes_are_refused(sizes):
    assert BOWLS.resized(shots=3).curvatures == BOWLS.curvatures
    with pytest.raises(ConfigError, match="set curvatures"):
        BOWLS.resized(**sizes)
