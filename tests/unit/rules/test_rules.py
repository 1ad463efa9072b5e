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


def meta_gradient_through(rule: Any) -> Tensor:
    """The derivative of a two-step inner loop in which one unit is dead: its gradient is exactly zero."""
    theta = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
    params, state = {"w": theta}, rule.init({"w": theta})
    for _ in range(2):
        grads = torch.autograd.grad((params["w"].relu() - 3.0).square().sum(), params["w"], create_graph=True)
        params, state = rule.step({"w": grads[0]}, state, params)
    return torch.autograd.grad((params["w"] - 2.0).square().sum(), theta)[0]


def stays_finite_at_a_dead_unit(rule: Any) -> None:
    found = meta_gradient_through(rule)
    assert bool(torch.isfinite(found).all()), f"meta-gradient {found.tolist()}"
    assert float(found[1]) == pytest.approx(-6.0)  # nothing moved it: d (w - 2)^2 / dw at w = -1


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
