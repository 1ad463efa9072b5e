"""The ridge head is the minimum of its loss, whichever system it solves, for classes and for numbers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Case, as_double, images
from innerloop.algorithms import RidgeHead
from innerloop.algorithms.embedding import with_ones
from innerloop.algorithms.ridge_head import ridge
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch, Meta
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing import questions as ask
from innerloop.testing.probing import close, deviation, predictions

RNG = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=RNG)


def double_meta(learner: RidgeHead) -> Meta:
    return tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("rows", "width"), [(4, 9), (9, 4), (5, 5)])
def test_both_systems_give_the_minimum_of_the_regularised_squares(rows: int, width: int) -> None:
    x, y, strength = drawn(rows, width), drawn(rows, 3), torch.tensor(0.7, dtype=torch.float64)
    found = ridge(x, y, strength)
    primal = torch.linalg.inv(x.T @ x + 0.7 * torch.eye(width, dtype=torch.float64)) @ x.T @ y
    close(found, primal, 1e-12)
    gradient = 2 * x.T @ (x @ found - y) + 2 * 0.7 * found
    close(gradient, torch.zeros_like(gradient), 1e-12)


@pytest.mark.parametrize(("rows", "width"), [(4, 9), (9, 4)])
def test_the_solution_has_its_true_derivatives(rows: int, width: int) -> None:
    given = (drawn(rows, width), drawn(rows, 2), torch.tensor(0.3, dtype=torch.float64))
    assert torch.autograd.gradcheck(ridge, tuple(t.requires_grad_() for t in given))


@pytest.mark.parametrize("shots", [1, 6])  # fewer examples than features, and more
def test_classes_are_scored_by_regression_to_one_hot_targets(shots: int) -> None:
    learner = RidgeHead(MLP(256, None, hidden=(9, 7)), init_lambda=0.4, init_scale=3.0)
    meta, episode = double_meta(learner), take(images(1, shots=shots), 0)
    support, query = (with_ones(learner.net(meta["params"], batch.x)) for batch in episode)
    targets = F.one_hot(episode.support.y).double()
    lam = meta["head"]["log_lambda"].exp()
    normal = support.T @ support + lam * torch.eye(8, dtype=torch.float64)
    expected = 3.0 * query @ torch.linalg.solve(normal, support.T @ targets)
    close(predictions(learner, meta, episode), expected, 1e-12)
    loss, _ = learner.query_loss(meta, learner.begin(meta, episode.support), episode.query)
    close(loss, F.cross_entropy(expected, episode.query.y), 1e-12)
    close(lam, torch.tensor(0.4, dtype=torch.float64), 1e-7)


def test_numbers_are_predicted_by_regression_with_a_bias() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    learner = RidgeHead(Same(), init_lambda=1e-10, init_scale=1.0, loss="mse")
    meta = double_meta(learner)
    x = drawn(6, 2)
    line = x @ torch.tensor([[1.0, 0.0], [-2.0, 3.0]], dtype=torch.float64) + torch.tensor([5.0, -7.0])
    fast = learner.begin(meta, Batch(x, line))
    close(learner.predict(meta, fast, x), line, 1e-7)
    moved = meta | {"head": meta["head"] | {"shift": torch.tensor(2.0).double()}}
    close(learner.predict(moved, fast, x), line + 2.0, 1e-7)


def test_a_softmax_has_no_use_for_a_shift() -> None:
    assert sorted(Case("RidgeHead", "group").learner().init(RNG)["head"]) == ["log_lambda", "scale"]
    case = Case("RidgeHead", "mlp")
    assert case.regression
    assert sorted(case.meta()["head"]) == ["log_lambda", "scale", "shift"]


def test_classification_with_more_examples_than_features_answers_the_questions() -> None:
    learner = RidgeHead(MLP(256, None, hidden=(6, 4)), init_lambda=0.5, init_scale=2.0)
    meta, episodes = double_meta(learner), images(2, shots=3)
    ask.vmap_chunks_and_loop_agree(learner, meta, episodes)
    ask.gradient_equals_finite_differences(learner, meta, episodes)
    ask.every_leaf_is_learned(learner, meta, episodes)


def test_what_it_regresses_fits_the_support_the_better_the_less_it_is_regularised() -> None:
    episode = take(as_double(Sinusoid(shots=5, queries=5).sample("test", 1, 0)), 0)
    away = []
    for strength in (1e-6, 1e-2, 10.0):
        learner = RidgeHead(MLP(1, None), init_lambda=strength, init_scale=1.0, loss="mse")
        meta = double_meta(learner)
        fast = learner.begin(meta, episode.support)
        away.append(deviation(learner.predict(meta, fast, episode.support.x), episode.support.y))
    assert away == sorted(away)
    assert away[0] < 0.05 < 0.5 < away[-1]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"init_lambda": 0.0}, "init_lambda"),
        ({"init_lambda": -1.0}, "init_lambda"),
        ({"init_scale": 0.0}, "init_scale"),
        ({"init_scale": float("nan")}, "init_scale"),
        ({"loss": "hinge"}, "loss"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RidgeHead(MLP(1, None), **settings)  # pyright: ignore
