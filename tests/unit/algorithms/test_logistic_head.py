"""The logistic head takes Newton's steps, beside the textbook's form of them, and ends at the minimum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import images
from innerloop.algorithms import LogisticHead
from innerloop.algorithms.embedding import with_ones
from innerloop.algorithms.logistic_head import newton
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Meta
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.testing import questions as ask
from innerloop.testing.probing import close, predictions

RNG = torch.Generator().manual_seed(0)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=RNG)


def double_meta(learner: LogisticHead) -> Meta:
    return tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))


def objective(w: Tensor, rows: Tensor, signs: Tensor, strength: float) -> Tensor:
    return F.softplus(-signs * (rows @ w)).sum() + strength / 2 * w.square().sum()


def newton_by_hand(rows: Tensor, signs: Tensor, strength: float, steps: int) -> Tensor:
    """Newton's method on the objective itself: its gradient and its Hessian by autograd."""
    w = torch.zeros(rows.shape[1], dtype=torch.float64)
    for _ in range(steps):
        grad = torch.func.grad(objective)(w, rows, signs, strength)
        hessian = torch.autograd.functional.hessian(lambda v: objective(v, rows, signs, strength), w)
        w = w - torch.linalg.solve(hessian, grad)
    return w


@pytest.mark.parametrize(("examples", "width"), [(5, 8), (8, 3)])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_step_is_newtons_on_the_regularised_log_likelihood(examples: int, width: int, steps: int) -> None:
    rows, strength = drawn(examples, width), 0.6
    signs = torch.where(drawn(examples, 3) > 0, 1.0, -1.0).double()
    found = rows.T @ newton(rows @ rows.T, signs, torch.tensor(strength, dtype=torch.float64), steps)
    for n in range(3):
        close(found[:, n], newton_by_hand(rows, signs[:, n], strength, steps), 1e-12)


def test_the_steps_end_at_the_minimum() -> None:
    rows, strength = drawn(6, 9), 0.2
    signs = torch.where(drawn(6, 4) > 0, 1.0, -1.0).double()
    dual = newton(rows @ rows.T, signs, torch.tensor(strength, dtype=torch.float64), 12)
    errors = (signs + 1) / 2 - (rows @ rows.T @ dual).sigmoid()
    close(strength * dual, errors, 1e-13)  # where the gradient, of the coefficients, is zero
    few = newton(rows @ rows.T, signs, torch.tensor(strength, dtype=torch.float64), 1)
    assert float((strength * few - errors).abs().max()) > 1e-3, "one step is not there yet"


def test_the_steps_have_their_true_derivatives() -> None:
    signs = torch.where(drawn(3, 2) > 0, 1.0, -1.0).double()
    rows, strength = drawn(3, 4).requires_grad_(), torch.tensor(0.5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, lam: newton(x @ x.T, signs, lam, 3), (rows, strength))


def test_examples_that_are_certain_break_nothing() -> None:
    rows = (40 * drawn(5, 6)).requires_grad_()
    signs = torch.where(drawn(5, 2) > 0, 1.0, -1.0).double()
    dual = newton(rows @ rows.T, signs, torch.tensor(1e-6, dtype=torch.float64), 30)
    assert torch.isfinite(dual).all()
    assert (signs * (rows @ rows.T @ dual) > 5).all()
    (grad,) = torch.autograd.grad(dual.sum(), rows)
    assert torch.isfinite(grad).all()


def test_two_classes_mirror_each_other() -> None:
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]).double()
    rows = drawn(5, 6)
    dual = newton(rows @ rows.T, torch.stack([signs, -signs], 1), torch.tensor(0.5, dtype=torch.float64), 5)
    close(dual[:, 0], -dual[:, 1], 1e-14)


def test_a_class_is_scored_against_the_rest() -> None:
    learner = LogisticHead(MLP(256, None, hidden=(9, 7)), newton_steps=3, init_lambda=0.4, init_scale=2.5)
    meta, episode = double_meta(learner), take(images(1), 0)
    support, query = (with_ones(learner.net(meta["params"], batch.x)) for batch in episode)
    strength = float(meta["head"]["log_lambda"].exp())
    signs = 2 * F.one_hot(episode.support.y).double() - 1
    weights = torch.stack([newton_by_hand(support, signs[:, n], strength, 3) for n in range(3)], 1)
    close(predictions(learner, meta, episode), 2.5 * query @ weights, 1e-12)


def test_more_examples_than_features_are_no_trouble() -> None:
    learner = LogisticHead(MLP(256, None, hidden=(6, 4)), newton_steps=2)
    meta, episodes = double_meta(learner), images(2, shots=3)
    ask.vmap_chunks_and_loop_agree(learner, meta, episodes)
    ask.gradient_equals_finite_differences(learner, meta, episodes)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"newton_steps": 0}, "newton_steps"),
        ({"init_lambda": 0.0}, "init_lambda"),
        ({"init_scale": -1.0}, "init_scale"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LogisticHead(MLP(1, None), **settings)  # pyright: ignore
