"""MetaLSTM beside its equations in plain torch, at its start, and with its gradients cut."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cases import as_double
from innerloop.algorithms import MetaLSTM
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.learner import adapt
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Unrolled
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close, deviation, estimate

HIDDEN, STEPS = 5, 3


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()


def learner_and_meta(**how: Any) -> tuple[MetaLSTM, Meta]:
    """At a point where every gate and cell matters."""
    learner = MetaLSTM(network(), hidden=HIDDEN, inner_steps=STEPS, loss="mse", **how)
    meta = tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))
    torch.manual_seed(5)
    moved = {name: tree.map(lambda leaf: leaf + 0.5 * torch.randn_like(leaf), meta[name]) for name in meta}
    moved["gates"]["forget"]["bias"] = torch.tensor([1.5], dtype=torch.float64)
    moved["gates"]["input"]["bias"] = torch.tensor([-1.0], dtype=torch.float64)
    return learner, moved


def episodes(num: int = 2) -> Episode:
    return as_double(Sinusoid(shots=5, queries=6).sample("train", num, 1))


def preprocessed(x: Tensor) -> Tensor:
    """The paper's two numbers, by cases."""
    large = x.abs() >= math.exp(-10)
    first = torch.where(large, x.abs().clamp_min(1e-300).log() / 10, -torch.ones_like(x))
    return torch.stack([first, torch.where(large, x.sign(), math.exp(10) * x)], -1)


def by_hand(meta: Meta, support: Batch, *, pre_sigmoid: bool = False) -> dict[str, Tensor]:
    """The loop of the equations: one vector of all parameters, torch's own LSTM cell, gradients cut."""
    net = network()
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    sizes = [p.numel() for p in net.parameters()]
    cell = torch.cat([meta["params"][name].flatten() for name in names])
    weight, bias = meta["lstm"]["weight"], meta["lstm"]["bias"]
    h = c = torch.zeros(len(cell), HIDDEN, dtype=torch.float64)
    f = i = torch.zeros(len(cell), dtype=torch.float64)
    for _ in range(STEPS):
        at = cell.detach().requires_grad_()
        params = {n: v.view(s) for n, v, s in zip(names, at.split(sizes), shapes, strict=True)}
        loss = F.mse_loss(functional_call(net, params, (support.x,)), support.y)
        (grad,) = torch.autograd.grad(loss, at)
        x = torch.cat([preprocessed(grad), preprocessed(loss.detach()).expand(len(cell), 2)], 1)
        zero = torch.zeros_like(bias)
        h, c = torch.lstm_cell(x, (h, c), weight[:, :4], weight[:, 4:], bias, zero)
        gates = meta["gates"]
        f = torch.cat([h, cell[:, None], f[:, None]], 1) @ gates["forget"]["weight"] + gates["forget"]["bias"]
        i = torch.cat([h, cell[:, None], i[:, None]], 1) @ gates["input"]["weight"] + gates["input"]["bias"]
        cell = f.sigmoid() * cell - i.sigmoid() * grad
        if not pre_sigmoid:
            f, i = f.sigmoid(), i.sigmoid()
    return {n: v.view(s) for n, v, s in zip(names, cell.split(sizes), shapes, strict=True)}


@pytest.mark.parametrize("pre_sigmoid", [False, True])
def test_the_inner_loop_is_that_of_the_equations(pre_sigmoid: bool) -> None:
    learner, meta = learner_and_meta(pre_sigmoid=pre_sigmoid)
    support = take(episodes(), 0).support
    with running_in(first_order=True):
        found = adapt(learner, meta, support, STEPS)["params"]
    close(found, by_hand(meta, support, pre_sigmoid=pre_sigmoid), 1e-12)
    assert deviation(found, by_hand(meta, support, pre_sigmoid=not pre_sigmoid)) > 1e-4


@pytest.mark.parametrize("pre_sigmoid", [False, True])
def test_the_meta_gradient_is_that_of_the_equations_with_gradients_cut(pre_sigmoid: bool) -> None:
    learner, meta = learner_and_meta(pre_sigmoid=pre_sigmoid)
    drawn = episodes()
    found, _ = estimate(learner, meta, drawn)
    given = tree.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    losses = []
    for index in range(2):
        support, query = take(drawn, index)
        adapted = by_hand(given, support, pre_sigmoid=pre_sigmoid)
        losses.append(F.mse_loss(functional_call(network(), adapted, (query.x,)), query.y))
    expected = torch.autograd.grad(torch.stack(losses).mean(), tree.leaves(given))
    close(found, tree.rebuild(given, list(expected)), 1e-12)
    whole, _ = estimate(learner, meta, drawn, gradient=Unrolled())
    assert deviation(found, whole) > 1e-4, "there was nothing to cut"


def test_it_begins_near_plain_gradient_descent() -> None:
    learner = MetaLSTM(network(), inner_steps=1, loss="mse")
    meta = tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))
    support = take(episodes(), 0).support
    begun = learner.begin(meta, support)
    with running_in(first_order=True):
        after = learner.step(meta, begun, support, 0)
    forget, rate = after["gates"]["forget"], after["gates"]["input"]
    assert 0.98 < float(forget.min()) <= float(forget.max()) < 0.9935
    assert 0.0065 < float(rate.min()) <= float(rate.max()) < 0.0182
    assert float(rate.max() - rate.min()) < 2e-3, "all parameters have about one rate"
    leaves = [*tree.leaves(meta["lstm"]), *(gate["weight"] for gate in meta["gates"].values())]
    assert all(float(leaf.abs().max()) <= 0.01 for leaf in leaves)


def test_minibatches_are_drawn_for_each_step() -> None:
    seen: list[int] = []

    class Counting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(len(input))
            return super().forward(input)

    learner = MetaLSTM(Counting(1, 1), inner_steps=3, inner_batch=2, loss="mse")
    estimate(learner, learner.init(torch.Generator()), Sinusoid(shots=5).sample("train", 1, 0), axis="loop")
    assert seen == [2, 2, 2, 15]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"hidden": 0}, "hidden >= 1"),
        ({"preprocess": 0.0}, "preprocess > 0"),
        ({"inner_batch": 0}, "inner_batch"),
    ],
)
def test_bad_settings_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MetaLSTM(MLP(1, 1), loss="mse", **how)


def test_a_learner_whose_gates_forget_their_past_is_seen() -> None:
    class Forgetful(MetaLSTM):
        def step(self, meta: Meta, fast: Any, support: Batch, k: int) -> Any:
            return super().step(meta, fast | {"gates": tree.zeros_like(fast["gates"])}, support, k)

    _, meta = learner_and_meta()
    support = take(episodes(), 0).support
    forgetful = Forgetful(network(), hidden=HIDDEN, inner_steps=STEPS, loss="mse")
    with running_in(first_order=True), pytest.raises(AssertionError, match="differ by"):
        close(adapt(forgetful, meta, support, STEPS)["params"], by_hand(meta, support), 1e-12)
