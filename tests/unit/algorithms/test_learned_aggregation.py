"""LearnedAggregation is its definition, worker by worker, and MAML where no worker is preferred."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cases import Case, as_double
from innerloop.algorithms import MAML, LearnedAggregation
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

LR = 0.05


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 7), nn.Tanh(), nn.Linear(7, 1)).double()


def episodes(shots: int = 6, **how: Any) -> Episode:
    return as_double(Sinusoid(shots=shots, queries=4, **how).sample("train", 3, 1))


def made(**how: Any) -> tuple[LearnedAggregation, Meta]:
    learner = LearnedAggregation(network(), inner_lr=LR, loss="mse", **how)
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    return learner, meta


def by_hand(meta: Meta, support: Batch, workers: int, p: float = 10.0) -> dict[str, Tensor]:
    """One step: gradients one worker at a time, the network written out, one tensor at a time."""
    net, theta = network(), {n: v.clone().requires_grad_() for n, v in meta["params"].items()}
    sent, losses = [], []
    for x, y in zip(support.x.chunk(workers), support.y.chunk(workers), strict=True):
        loss = F.mse_loss(functional_call(net, theta, (x,)), y)
        sent.append(dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True)))
        losses.append(loss.detach())
    keys = meta["keys"]

    def log_sign(value: Tensor) -> list[Tensor]:
        small = value < math.exp(-p)
        return [-torch.ones_like(value), value * math.exp(p)] if small else [value.log() / p, value * 0 + 1]

    after = {}
    for name in theta:
        mean = torch.stack([g[name] for g in sent]).mean(0)
        rows = []
        for g, loss in zip(sent, losses, strict=True):
            cosine = (g[name] * mean).sum() / (g[name].norm() * mean.norm())
            rows.append(torch.stack([*log_sign(g[name].norm()), *log_sign(loss), cosine]))
        seen = [torch.cat([row, torch.stack(rows).mean(0)]) for row in rows]
        scores = []
        for row in seen:
            for layer in ("body.1", "body.3"):
                row = (keys[f"{layer}.weight"] @ row + keys[f"{layer}.bias"]).relu()
            scores.append(row @ meta["query"] / math.sqrt(len(meta["query"])))
        shares = torch.stack(scores).softmax(0)
        mixed = sum(share * g[name] for share, g in zip(shares, sent, strict=True))
        after[name] = theta[name].detach() - meta["rates"][name] * mixed
    return after


@pytest.mark.parametrize("workers", [None, 1, 2, 3, 6])
def test_a_step_is_its_definition(workers: int | None) -> None:
    learner, meta = made(workers=workers, attention=1.0)
    for i, rate in enumerate(meta["rates"]):
        meta["rates"][rate] = torch.tensor(0.01 * (i + 1), dtype=torch.float64)
    support = take(episodes(), 0).support
    with torch.no_grad():
        fast = adapt(learner, meta, support, 1)
    close(fast["params"], by_hand(meta, support, workers or 6), 1e-11)
    # Planted: without the attention it is another step.
    plain = by_hand(meta | {"query": 0 * meta["query"]}, support, workers or 6)
    assert (deviation(fast["params"], plain) > 1e-5) == (workers != 1)


@pytest.mark.parametrize("axis", ["loop", "vmap"])
@pytest.mark.parametrize(
    "how", [{"attention": 0.0}, {"attention": 0.0, "workers": 3}, {"workers": 1}], ids=str
)
def test_where_nobody_is_preferred_it_is_maml(how: dict[str, Any], axis: Any) -> None:
    learner, meta = made(inner_steps=3, **how)
    maml = MAML(network(), inner_lr=LR, inner_steps=3, loss="mse")
    grads, record = estimate(learner, meta, episodes(), axis=axis)
    expected, other = estimate(maml, {"params": meta["params"]}, episodes(), axis=axis)
    close(grads["params"], expected["params"], 1e-12)
    close(record.losses, other.losses, 1e-12)


@pytest.mark.parametrize("network", ["batch", "group"])
def test_so_it_is_with_pictures_and_batch_norm(network: str) -> None:
    case = Case("LearnedAggregation", network)
    learner, meta = case.learner(attention=0.0), case.meta()
    meta |= {
        "query": 0 * meta["query"],
        "rates": {n: torch.tensor(0.1, dtype=torch.float64) for n in meta["rates"]},
    }
    maml = Case("MAML", network).learner()
    grads, _ = estimate(learner, meta, case.episodes())
    expected, _ = estimate(maml, {"params": meta["params"]}, case.episodes())
    close(grads["params"], expected["params"], 1e-10)


def test_workers_are_believed_more_or_less_and_differently_for_each_tensor() -> None:
    learner, meta = made(attention=20.0)
    support = take(episodes(outliers=0.4), 0).support
    with torch.no_grad():
        fast = learner.begin(meta, support)
        shares = torch.stack(list(learner.shares(meta, *learner.sent(meta, fast, support)).values()))
    assert shares.shape == (4, 6)
    assert torch.allclose(shares.sum(1), torch.ones(4).double())
    assert shares.std(1).min() > 0.01
    assert shares.std(0).max() > 0.01


def test_workers_losses_and_gradients_are_their_own() -> None:
    learner, meta = made(workers=3)
    support = take(episodes(), 0).support
    with torch.no_grad():
        sent, losses = learner.sent(meta, learner.begin(meta, support), support)
    groups = [
        F.mse_loss(network()(x), y) for x, y in zip(support.x.chunk(3), support.y.chunk(3), strict=True)
    ]
    close(losses.detach(), torch.stack(groups).detach(), 1e-12)
    assert {name: g.shape[0] for name, g in sent.items()} == dict.fromkeys(meta["params"], 3)


def test_groups_make_the_order_matter_and_single_examples_do_not() -> None:
    support = take(episodes(), 0).support
    turned = Batch(support.x.flip(0).roll(1, 0), support.y.flip(0).roll(1, 0))
    for workers, ordered in ((None, False), (1, False), (3, True)):
        learner, meta = made(workers=workers, attention=5.0)
        assert learner.ordered == ordered
        with torch.no_grad():
            found = deviation(*(adapt(learner, meta, s, 1)["params"] for s in (support, turned)))
        assert (found > 1e-9) == ordered


def test_a_gradient_of_zero_has_a_derivative() -> None:
    module = MLP(1, 1, hidden=(4,))
    with torch.no_grad():
        module.body[1].bias.fill_(-100.0)  # every unit is dead, so the first layer's gradients are zero
    learner = LearnedAggregation(module, inner_steps=2, loss="mse", attention=1.0)
    meta = learner.init(torch.Generator().manual_seed(0))
    grads, record = estimate(learner, meta, Sinusoid().sample("train", 2, 0))
    assert tree.is_finite(grads)
    assert all(outcome.ok for outcome in record.outcomes)


def test_each_worker_drops_units_of_its_own() -> None:
    learner = LearnedAggregation(MLP(1, 1, hidden=(50,), dropout=0.5), loss="mse")
    meta = learner.init(torch.Generator().manual_seed(0))
    same = Batch(torch.ones(4, 1), torch.zeros(4, 1))
    with torch.no_grad(), running_in(training=True, key=torch.tensor(5)):
        _, losses = learner.sent(meta, learner.begin(meta, same), same)
        assert len(set(losses.tolist())) == 4
    with torch.no_grad():
        _, losses = learner.sent(meta, learner.begin(meta, same), same)
    assert losses.std() < 1e-6


def test_the_first_meta_step_moves_everything() -> None:
    learner = LearnedAggregation(MLP(1, 1), loss="mse")
    meta = learner.init(torch.Generator().manual_seed(0))
    grads, _, _ = Unrolled().estimate(learner, meta, Sinusoid(shots=10).sample("train", 4, 0))
    assert [path for path, g in tree.flatten(grads).items() if not g.abs().max() > 0] == []


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"workers": 0}, "workers = 0"),
        ({"workers": 1.5}, "workers = 1.5"),
        ({"width": 0}, "width = 0"),
        ({"attention": -1.0}, "attention = -1.0"),
        ({"p": 0.0}, "p = 0.0"),
    ],
)
def test_bad_arguments_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**how)


def test_workers_without_their_share_of_examples_are_refused() -> None:
    learner, meta = made(workers=4)
    with pytest.raises(ConfigError, match="workers = 4 for 6 support examples"):
        learner.begin(meta, take(episodes(), 0).support)
