"""Gaussian-process curves: their covariance is the kernel's, and their posterior is exact."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError, DataError
from innerloop.core.types import Batch
from innerloop.tasks import GaussianProcessCurves

KERNELS = ("RBF", "Matern12", "Matern52")


def covariance(kernel: str, x: Tensor, length: float, scale: float) -> Tensor:
    """Of a curve at points [S]: the kernels as textbooks write them, one pair of points after another."""

    def of(a: float, b: float) -> float:
        d = abs(a - b)
        if kernel == "RBF":
            return math.exp(-(d**2) / (2 * length**2))
        if kernel == "Matern12":
            return math.exp(-d / length)
        root = math.sqrt(5) * d / length
        return (1 + root + root**2 / 3) * math.exp(-root)

    return scale**2 * torch.tensor([[of(a, b) for b in x.tolist()] for a in x.tolist()], dtype=torch.float64)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_posterior_is_the_joint_normal_conditioned_on_the_support(kernel: Any) -> None:
    tasks = GaussianProcessCurves(4, 3, kernel=kernel, length_scale=0.7, output_scale=1.5, noise=0.2)
    drawn = tasks.sample("test", 2, 0)
    support, query = (Batch(b.x.double(), b.y.double()) for b in drawn)
    mean, sd = tasks.posterior(support, query.x)
    assert mean.dtype == torch.float64
    for i in range(2):
        x = torch.cat([support.x[i], query.x[i]])[:, 0]
        joint = covariance(kernel, x, 0.7, 1.5) + 0.04 * torch.eye(7, dtype=torch.float64)
        # The blocks of the precision matrix give the same conditional by another way.
        precision = joint.inverse()
        among, across = precision[4:, 4:], precision[4:, :4]
        expected = -among.inverse() @ across @ support.y[i]
        assert (mean[i] - expected).abs().max() < 1e-10
        assert (sd[i, :, 0] - among.inverse().diagonal().sqrt()).abs().max() < 1e-10
        alone = tasks.posterior(Batch(support.x[i], support.y[i]), query.x[i])
        assert (alone[0] - mean[i]).abs().max() < 1e-12
        assert (alone[1] - sd[i]).abs().max() < 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
def test_curves_have_the_covariance_of_their_kernel(kernel: Any) -> None:
    """Whitened by the textbook covariance, every task is independent standard normal numbers."""
    tasks = GaussianProcessCurves(3, 2, kernel=kernel, length_scale=0.9, output_scale=2.0, noise=0.3)
    episode = tasks.sample("train", 1500, 0)
    x, y = (torch.cat([a, b], 1)[..., 0].double() for a, b in zip(*episode, strict=True))
    noise = 0.09 * torch.eye(5, dtype=torch.float64)
    joint = torch.stack([covariance(kernel, row, 0.9, 2.0) + noise for row in x])
    white = torch.linalg.solve(torch.linalg.cholesky(joint), y[..., None])[..., 0]
    assert white.mean(0).abs().max() < 4 / math.sqrt(1500)
    assert (white.T @ white / 1500 - torch.eye(5)).abs().max() < 4 * math.sqrt(2 / 1500)
    assert abs(float((white**4).mean()) - 3) < 0.35
    other = GaussianProcessCurves(3, 2, kernel=kernel, length_scale=0.3, output_scale=2.0, noise=0.3)
    wrong = torch.stack([covariance(kernel, row, other.length_scale, 2.0) + noise for row in x])
    off = torch.linalg.solve(torch.linalg.cholesky(wrong), y[..., None])[..., 0]
    assert (off.T @ off / 1500 - torch.eye(5)).abs().max() > 4 * math.sqrt(2 / 1500), "the check sees nothing"


def test_no_prediction_is_likelier_than_the_posterior() -> None:
    tasks = GaussianProcessCurves(shots=6, queries=10)
    support, query = tasks.sample("test", 400, 0)
    mean, sd = tasks.posterior(support, query.x)

    def likelihood(mean: Tensor, sd: Tensor) -> float:
        return float(torch.distributions.Normal(mean, sd).log_prob(query.y).mean())

    best = likelihood(mean, sd)
    for other in ((mean, 1.2 * sd), (mean, 0.8 * sd), (0.9 * mean, sd), (mean + 0.1, sd)):
        assert likelihood(*other) < best
    prior = math.sqrt(1.01)
    assert likelihood(torch.zeros_like(mean), torch.full_like(sd, prior)) < best - 0.5
    standardised = (query.y - mean) / sd
    assert abs(float(standardised.square().mean()) - 1) < 0.1


def test_the_first_points_of_a_curve_do_not_depend_on_how_many_follow() -> None:
    few, many = (GaussianProcessCurves(shots=3, queries=n).sample("test", 5, 1) for n in (2, 40))
    assert torch.equal(few.support.x, many.support.x)
    assert (few.support.y - many.support.y).abs().max() < 1e-6
    assert (few.query.y - many.query.y[:, :2]).abs().max() < 1e-6


def test_a_noiseless_curve_is_followed_wherever_it_was_seen() -> None:
    tasks = GaussianProcessCurves(shots=40, queries=5, noise=1e-5)
    support, _ = tasks.sample("test", 3, 0)
    support = Batch(support.x.double(), support.y.double())
    mean, sd = tasks.posterior(support, support.x)
    assert (mean - support.y).abs().max() < 1e-4
    assert bool(torch.isfinite(sd).all())
    assert 1e-5 <= float(sd.min()) <= float(sd.max()) < 2e-5


def test_inputs_fill_the_named_interval() -> None:
    x = GaussianProcessCurves(50, 1, x_low=1.0, x_high=3.0).sample("train", 40, 0).support.x
    assert 1.0 <= float(x.min()) < 1.02
    assert 2.98 < float(x.max()) < 3.0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"kernel": "RFB"}, "did you mean 'RBF'"),
        ({"length_scale": 0.0}, "length_scale > 0"),
        ({"output_scale": -1.0}, "output_scale > 0"),
        ({"noise": 0.0}, "noise >= 1e-05"),
        ({"noise": 1e-3, "output_scale": 1e3}, "noise >= 0.01"),
        ({"x_low": 2.0}, "x_low < x_high"),
        ({"x_high": float("inf")}, "finite x_high"),
        ({"shots": 0}, "shots >= 1"),
    ],
)
def test_a_bad_scale_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        GaussianProcessCurves(**how)


def test_shapes_that_do_not_fit_are_told() -> None:
    tasks = GaussianProcessCurves()
    support, query = tasks.sample("test", 3, 0)
    for given, asked in ((support, query.x[:2]), (Batch(support.x, support.y[:, :2]), query.x)):
        with pytest.raises(DataError, match="the same task axis"):
            tasks.posterior(given, asked)
