"""LearningToAdapt is MAML on transitions with a step size that is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cases import as_double
from innerloop.algorithms import MAML, LearningToAdapt
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.tasks import Cart
from innerloop.testing.probing import close, deviation, estimate

LR = 0.05


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 2)).double()


def episodes() -> Episode:
    return as_double(Cart(shots=5, queries=4).sample("train", 3, 1))


def made(**how: Any) -> tuple[LearningToAdapt, Meta]:
    learner = LearningToAdapt(network(), inner_lr=LR, **how)
    return learner, tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))


def by_hand(meta: Meta, tasks: Episode, steps: int, names: dict[str, str]) -> Meta:
    """The meta-gradient by `torch.autograd.grad`; `names` says which rate is whose."""
    net = network()
    theta = {n: v.clone().requires_grad_() for n, v in meta["params"].items()}
    rates = {n: v.clone().requires_grad_() for n, v in meta["rates"].items()}
    total = torch.zeros((), dtype=torch.float64)
    for i in range(num_tasks(tasks)):
        support, query = take(tasks, i)
        phi: dict[str, Tensor] = dict(theta)
        for _ in range(steps):
            error = F.mse_loss(functional_call(net, phi, (support.x,)), support.y)
            grads = torch.autograd.grad(error, list(phi.values()), create_graph=True)
            phi = {n: p - rates[names[n]] * g for (n, p), g in zip(phi.items(), grads, strict=True)}
        total = total + F.mse_loss(functional_call(net, phi, (query.x,)), query.y) / num_tasks(tasks)
    found = torch.autograd.grad(total, [*theta.values(), *rates.values()])
    return {
        "params": dict(zip(theta, found, strict=False)),
        "rates": dict(zip(rates, found[len(theta) :], strict=True)),
    }


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("rates", ["shared", "layer"])
def test_the_gradient_is_that_of_its_definition(rates: Any, steps: int) -> None:
    learner, meta = made(rates=rates, inner_steps=steps)
    for i, name in enumerate(meta["rates"]):
        meta["rates"][name] = torch.tensor(0.03 * (i + 1), dtype=torch.float64)
    names = {n: "all" if rates == "shared" else n for n in meta["params"]}
    assert sorted(meta["rates"]) == sorted(set(names.values()))
    grads, _ = estimate(learner, meta, episodes())
    close(grads, by_hand(meta, episodes(), steps, names), 1e-12)


@pytest.mark.parametrize("rates", ["shared", "layer", "fixed"])
def test_before_a_rate_has_moved_it_is_maml(rates: Any) -> None:
    learner, meta = made(rates=rates, inner_steps=2)
    grads, record = estimate(learner, meta, episodes())
    maml = MAML(network(), inner_lr=LR, inner_steps=2, loss="mse")
    expected, other = estimate(maml, {"params": meta["params"]}, episodes())
    close(grads["params"], expected["params"], 1e-8)  # a rate begins as float32's 0.05
    close(record.losses, other.losses, 1e-8)
    assert ("rates" in grads) == (rates != "fixed")
    # Planted: twice the rate.
    twice = MAML(network(), inner_lr=2 * LR, inner_steps=2, loss="mse")
    assert (
        deviation(grads["params"], estimate(twice, {"params": meta["params"]}, episodes())[0]["params"])
        > 1e-3
    )


def test_without_inner_steps_it_is_an_ordinary_model() -> None:
    learner, meta = made(inner_steps=0)
    grads, _ = estimate(learner, meta, episodes())
    net = network()
    tasks = episodes()
    F.mse_loss(net(tasks.query.x), tasks.query.y).backward()
    close(grads["params"], {n: p.grad for n, p in net.named_parameters()}, 1e-12)
    assert not grads["rates"]["all"]


def test_a_bad_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'shared'"):
        made(rates="share")
