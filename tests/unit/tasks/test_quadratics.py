"""Quadratics are the functions of their definition, in both published variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from innerloop.core.errors import ConfigError
from innerloop.tasks import Quadratics


def coefficients(variant: Any, dim: int = 10, num: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """W [T, dim, dim] and y [T, dim] of some problems."""
    x, y = Quadratics(dim, variant=variant).sample("test", num, 0).support
    return x / dim**0.5, y[..., 0] / dim**0.5


@pytest.mark.parametrize("dim", [1, 10])
@pytest.mark.parametrize("variant", ["paper", "code"])
def test_the_mean_squared_error_of_a_linear_model_is_the_function(variant, dim):
    w, y = coefficients(variant, dim, 5)
    x, targets = Quadratics(dim, variant=variant).sample("test", 5, 0).query
    theta = torch.arange(1.0, dim + 1)
    as_error = (x @ theta - targets[..., 0]).square().mean(1)
    torch.testing.assert_close(as_error, (w @ theta - y).square().sum(1))


def test_coefficients_of_the_paper_are_standard_normal():
    w, y = coefficients("paper")
    for drawn in (w, y):
        assert abs(float(drawn.mean())) < 0.05
        assert abs(float(drawn.std()) - 1.0) < 0.03
    fourth = float(w.pow(4).mean())
    assert abs(fourth - 3.0) < 0.1


def test_coefficients_of_the_code_are_uniform_and_their_curvature_is_lopsided():
    w, y = coefficients("code")
    for drawn in (w, y):
        assert 0.0 <= float(drawn.min()) < 0.01
        assert 0.99 < float(drawn.max()) < 1.0
        assert abs(float(drawn.mean()) - 0.5) < 0.02
    values = torch.linalg.svdvals(w)
    assert float((values[:, 0] / values[:, 1]).median()) > 2.5
    normal = torch.linalg.svdvals(coefficients("paper")[0])
    assert float((normal[:, 0] / normal[:, 1]).median()) < 1.5


def test_rows_and_targets_of_a_problem_are_independent():
    w, y = coefficients("paper")
    rows = torch.cat([w.flatten(0, 1), y.reshape(-1, 1)], dim=1)
    assert (torch.corrcoef(rows.T) - torch.eye(11)).abs().max() < 0.08


def test_a_problem_is_its_own_test():
    support, query = Quadratics().sample("val", 2, 0)
    assert torch.equal(support.x, query.x)
    assert torch.equal(support.y, query.y)


@pytest.mark.parametrize(
    ("settings", "said"), [({"dim": 0}, "dim >= 1"), ({"variant": "papers"}, "did you mean 'paper'")]
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Quadratics(**settings)
