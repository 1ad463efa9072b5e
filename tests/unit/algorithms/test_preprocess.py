"""Logarithm and sign: the definition, its continuity, and numbers that have no logarithm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from innerloop.algorithms.preprocess import log_and_sign


def by_definition(x: float, p: float) -> list[float]:
    if abs(x) >= math.exp(-p):
        return [math.log(abs(x)) / p, math.copysign(1.0, x)]
    return [-1.0, math.exp(p) * x]


@pytest.mark.parametrize("p", [5.0, 10.0])
def test_it_is_what_the_paper_defines(p: float) -> None:
    numbers = [sign * 10.0**k for k in range(-12, 6) for sign in (-1, 1)]
    expected = torch.tensor([by_definition(x, p) for x in numbers], dtype=torch.float64)
    found = log_and_sign(torch.tensor(numbers, dtype=torch.float64), p)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_it_is_continuous_where_its_two_parts_meet() -> None:
    border = math.exp(-10.0)
    sides = torch.tensor([border * (1 - 1e-9), border * (1 + 1e-9)], dtype=torch.float64)
    below, above = log_and_sign(sides, 10.0)
    assert (below - above).abs().max() < 1e-8


def test_a_gradient_of_zero_has_a_finite_derivative() -> None:
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_and_sign(x, 10.0).sum(), x)
    torch.testing.assert_close(slope, torch.full_like(slope, math.exp(10.0)))


def test_what_is_not_finite_stays_so() -> None:
    seen = log_and_sign(torch.tensor([math.nan, math.inf, -math.inf]), 10.0)
    assert not torch.isfinite(seen[:, 0]).any()


def test_shapes_gain_an_axis_of_two_also_under_vmap() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    lifted: Tensor = torch.func.vmap(lambda row: log_and_sign(row, 10.0))(x)
    assert lifted.shape == (4, 3, 2)
    torch.testing.assert_close(lifted, log_and_sign(x, 10.0))
