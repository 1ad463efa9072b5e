"""Clipped inner gradients: their norm, their derivative, no difference where they are within the bound."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from cases import ROWS, Case
from innerloop import algorithms
from innerloop.algorithms import MAML
from innerloop.algorithms.base import GradientLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.learner import adapt
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode
from innerloop.core.vectorise import take
from innerloop.gradients import FirstOrder, Recompute, Unrolled
from innerloop.gradients.check import check_gradient
from innerloop.rules import shared
from innerloop.rules.shared import clipped
from innerloop.testing.probing import close, deviation, estimate

Clip = Callable[[dict[str, Tensor], float], dict[str, Tensor]]
#: Those whose constructor takes a bound.
CLIPPED = [
    name
    for name in ROWS
    if "inner_clip" in getattr(algorithms, name).__init__.__annotations__
    and issubclass(getattr(algorithms, name), GradientLearner)
]


def moved(learner: GradientLearner, case: Case) -> float:
    """How far one inner step goes, over all that adapts."""
    meta, support = case.meta(), take(case.episodes(), 0).support
    with running_in(first_order=True):
        before, after = learner.begin(meta, support), adapt(learner, meta, support, 1)
    pairs = zip(tree.leaves(before["params"]), tree.leaves(after["params"]), strict=True)
    return float(torch.cat([(a - b).flatten() for a, b in pairs]).norm())


def test_the_step_is_as_long_as_the_bound_allows() -> None:
    case = Case("MAML", "mlp")
    free = moved(case.learner(inner_steps=1), case) / 0.1  # type: ignore[arg-type]
    for bound in (0.5 * free, 0.01):
        found = moved(case.learner(inner_steps=1, inner_clip=bound), case)  # type: ignore[arg-type]
        assert found == pytest.approx(0.1 * bound, rel=1e-10)


@pytest.mark.parametrize("name", CLIPPED)
def test_a_bound_that_is_not_reached_changes_no_bit_and_one_that_is_does(name: str) -> None:
    case = Case(name, "mlp")
    free, loose, tight = (
        estimate(case.learner(**given), case.meta(), case.episodes())[0]
        for given in ({}, {"inner_clip": 1e6}, {"inner_clip": 1e-2})
    )
    close(loose, free, 0.0)
    assert deviation(tight, free) > 1e-8


def test_every_algorithm_that_descends_on_the_support_loss_takes_a_bound() -> None:
    assert {"ALFA", "ANIL", "BOIL", "CAVIA", "FOMAML", "MAML", "MAMLPlusPlus", "MetaSGD", "Reptile"} < set(
        CLIPPED
    )


def derivative_is_right(clip: Clip, bound: float) -> None:
    """Against difference quotients, at a gradient whose norm is 5."""
    grads = {
        "a": torch.tensor([3.0, 0.0], dtype=torch.float64),
        "b": torch.tensor([[4.0]], dtype=torch.float64),
    }
    flat = tuple(leaf.clone().requires_grad_() for leaf in grads.values())

    def out(*leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple(clip(dict(zip(grads, leaves, strict=True)), bound).values())

    assert torch.autograd.gradcheck(out, flat, raise_exception=False)


@pytest.mark.parametrize("bound", [2.0, 5.5, 100.0])
def test_the_derivative_is_that_of_the_scaled_gradient(bound: float) -> None:
    derivative_is_right(clipped, bound)


def test_planted_a_scale_that_is_taken_for_a_constant_is_seen() -> None:
    def cut(grads: dict[str, Tensor], bound: float) -> dict[str, Tensor]:
        kept = clipped({name: g.detach() for name, g in grads.items()}, bound)
        return {name: g * (kept[name] / g.detach()).nan_to_num() for name, g in grads.items()}

    with pytest.raises(AssertionError):
        derivative_is_right(cut, 2.0)


@pytest.mark.parametrize("path", [Unrolled(), Recompute(), FirstOrder()])
def test_a_gradient_of_zero_stays_zero_with_a_derivative(path: Unrolled | Recompute | FirstOrder) -> None:
    """A model that is right already. Planted: with the plain norm in its place, the meta-gradient is NaN."""
    learner = MAML(nn.Linear(1, 1, bias=False), inner_lr=0.1, inner_clip=1.0, loss="mse")
    meta = {"params": {"weight": torch.full((1, 1), 2.0)}}
    x = torch.tensor([[[1.0], [2.0]]])
    right, off = Episode(Batch(x, 2 * x), Batch(x, 2 * x)), Episode(Batch(x, 2 * x), Batch(x, 3 * x))
    for episodes, expected in ((right, 0.0), (off, -5.0 if isinstance(path, FirstOrder) else -5.0 * 0.5)):
        grads, _, record = path.estimate(learner, meta, episodes, axis="vmap")
        assert record.outcomes[0].ok
        assert float(grads["params"]["weight"]) == pytest.approx(expected, abs=1e-6)


def test_planted_the_plain_norm_has_no_derivative_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "root", torch.sqrt)
    with pytest.raises(AssertionError):
        test_a_gradient_of_zero_stays_zero_with_a_derivative(Unrolled())


def test_large_gradients_do_not_overflow() -> None:
    grads = clipped({"w": torch.tensor([3e30, -4e30])}, 5.0)
    torch.testing.assert_close(grads["w"], torch.tensor([3.0, -4.0]))


@pytest.mark.parametrize("name", ["MAML", "MAMLPlusPlus", "CAVIA", "MetaSGD"])
def test_the_meta_gradient_of_a_clipped_loop_is_exact(name: str) -> None:
    case = Case(name, "mlp")
    learner = case.learner(inner_clip=0.05)
    report = check_gradient(learner, case.episodes(2), meta=case.meta())
    assert report.passed, report


def test_lifted_tasks_are_clipped_each_on_its_own() -> None:
    case = Case("MAML", "mlp")
    grads = [
        Unrolled().estimate(case.learner(inner_clip=0.1), case.meta(), case.episodes(), axis=axis)[0]
        for axis in ("vmap", "loop", 3)
    ]
    close(grads[0], grads[1], 1e-10)
    close(grads[0], grads[2], 1e-10)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan"), True])
def test_a_bound_is_above_zero(bound: float) -> None:
    with pytest.raises(ConfigError, match="inner_clip"):
        Case("MAML", "mlp").learner(inner_clip=bound)
