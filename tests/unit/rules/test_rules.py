"""Update rules are torch's optimizers, one step at a time, and differentiable everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError
from innerloop.rules import SGD, Adam

CASES: dict[str, tuple[Any, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "SGD": (SGD(0.1), lambda leaves: torch.optim.SGD(leaves, 0.1)),
    "Adam": (Adam(0.01), lambda leaves: torch.optim.Adam(leaves, 0.01)),
    "Adam-reptile": (
        Adam(0.01, beta1=0.0),
        lambda leaves: torch.optim.Adam(leaves, 0.01, betas=(0.0, 0.999)),
    ),
    "Adam-eps": (Adam(0.1, 0.8, 0.9, 0.5), lambda leaves: torch.optim.Adam(leaves, 0.1, (0.8, 0.9), eps=0.5)),
}


def follows(rule: Any, make: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int = 8) -> float:
    """The largest distance of a rule from torch's optimizer, over some steps of sparse random gradients."""
    rng = torch.Generator().manual_seed(0)
    params = {n: torch.randn(4, 3, generator=rng, dtype=torch.float64) for n in ("a", "b")}
    leaves = [p.clone() for p in params.values()]
    optimizer, state, worst = make(leaves), rule.init(params), 0.0
    for _ in range(steps):
        grads = {n: torch.randn(4, 3, generator=rng, dtype=torch.float64) for n in params}
        grads["a"][0] = 0.0
        params, state = rule.step(grads, state, params)
        for leaf, grad in zip(leaves, grads.values(), strict=True):
            leaf.grad = grad
        optimizer.step()
        worst = max(
            worst, *(float((p - q).abs().max()) for p, q in zip(params.values(), leaves, strict=True))
        )
    assert worst <= 1e-9, f"off torch.optim by {worst:.3g}"
    return worst


def meta_gradient_through(rule: Any) -> dict[str, Tensor]:
    """The derivative of a two-step inner loop of units v relu(u), the second of which is dead.

    The gradient of its v is a product with exactly zero: a NaN that arises there reaches all others.
    """
    start = {"u": [1.0, -1.0], "v": [1.0, 0.5]}
    theta = {n: torch.tensor(t, dtype=torch.float64, requires_grad=True) for n, t in start.items()}
    params, state = dict(theta), rule.init(theta)
    for _ in range(2):
        loss = ((params["v"] * params["u"].relu()).sum() - 3.0).square()
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params, state = rule.step(dict(zip(params, grads, strict=True)), state, params)
    outer = torch.stack([(p - 2.0).square().sum() for p in params.values()]).sum()
    return dict(zip(theta, torch.autograd.grad(outer, list(theta.values())), strict=True))


def stays_finite_at_a_dead_unit(rule: Any) -> None:
    found = meta_gradient_through(rule)
    assert all(bool(torch.isfinite(g).all()) for g in found.values()), f"meta-gradient {found}"
    # Nothing moved the dead unit: the derivatives of (u - 2)^2 at -1 and of (v - 2)^2 at 0.5.
    assert (float(found["u"][1]), float(found["v"][1])) == pytest.approx((-6.0, -3.0))


@pytest.mark.parametrize("name", CASES)
def test_rule_equals_torch_step_by_step(name: str) -> None:
    follows(*CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_rule_has_a_finite_meta_gradient_at_a_dead_unit(name: str) -> None:
    stays_finite_at_a_dead_unit(CASES[name][0])


@pytest.mark.parametrize("name", CASES)
def test_rule_leaves_its_arguments_alone(name: str) -> None:
    rule = CASES[name][0]
    params, grads = {"w": torch.ones(3)}, {"w": torch.ones(3)}
    state = rule.init(params)
    rule.step(grads, state, params)
    again = rule.step(grads, state, params)[0]["w"]
    assert torch.equal(params["w"], torch.ones(3))
    assert torch.equal(again, rule.step(grads, rule.init(params), params)[0]["w"])


@pytest.mark.parametrize("name", CASES)
def test_rule_runs_under_vmap(name: str) -> None:
    rule = CASES[name][0]
    params, grads = {"w": torch.randn(5, 3)}, {"w": torch.randn(5, 3)}

    def one(p: dict, g: dict) -> Tensor:
        p, state = rule.step(g, rule.init(p), p)
        return rule.step(g, state, p)[0]["w"]

    lifted = torch.func.vmap(one)(params, grads)
    alone = torch.stack([one({"w": params["w"][i]}, {"w": grads["w"][i]}) for i in range(5)])
    torch.testing.assert_close(lifted, alone)


@pytest.mark.parametrize("settings", [{"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}, {"lr": float("inf")}])
def test_a_rate_that_is_no_rate_is_refused(settings: dict[str, float]) -> None:
    for rule in (SGD, Adam):
        with pytest.raises(ConfigError, match="inner_lr"):
            rule(**settings)


def test_adam_refuses_decays_and_eps_out_of_range() -> None:
    for name, value in [("beta1", 1.0), ("beta2", -0.1), ("eps", 0.0)]:
        with pytest.raises(ConfigError, match=name):
            Adam(0.1, **{name: value})
