"""What each algorithm is by its paper, written out by hand with plain torch, beside what it computes."""

from __future__ import annotations

import copy
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cases import Case, as_double, images
from innerloop import algorithms
from innerloop.core import tree
from innerloop.core.types import Batch, Episode
from innerloop.core.vectorise import num_tasks, take
from innerloop.gradients import Displacement, FirstOrder, Unrolled
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close, estimate, predictions

LR = 0.05


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(1, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 1)).double()


@pytest.fixture
def episodes() -> Episode:
    return as_double(Sinusoid(shots=5, queries=6).sample("train", 3, 1))


def loss(net: nn.Module, params: dict[str, Tensor], batch: Batch) -> Tensor:
    return F.mse_loss(functional_call(net, params, (batch.x,)), batch.y)


def by_hand(net: nn.Module, episodes: Episode, steps: int, *, adapts: str = "", second: bool = True) -> dict:
    """The meta-gradient of MAML by `torch.autograd.grad`; of FOMAML without `second`; of ANIL by a prefix."""
    theta = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    total = torch.zeros((), dtype=torch.float64)
    for i in range(num_tasks(episodes)):
        support, query = take(episodes, i)
        phi = dict(theta)
        for _ in range(steps):
            names = [name for name in phi if name.startswith(adapts)]
            grads = torch.autograd.grad(loss(net, phi, support), [phi[n] for n in names], create_graph=second)
            steps_down = [LR * (g if second else g.detach()) for g in grads]
            phi |= {n: phi[n] - down for n, down in zip(names, steps_down, strict=True)}
        total = total + loss(net, phi, query) / num_tasks(episodes)
    return dict(zip(theta, torch.autograd.grad(total, list(theta.values())), strict=True))


@pytest.mark.parametrize("steps", [1, 3])
def test_maml_is_the_gradient_through_its_steps(episodes: Episode, steps: int) -> None:
    net = network()
    learner = algorithms.MAML(net, inner_lr=LR, inner_steps=steps, loss="mse")
    grads, _ = estimate(learner, learner.init(torch.Generator()), episodes)
    close(grads["params"], by_hand(net, episodes, steps), 1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_fomaml_is_the_query_gradient_at_the_adapted_point(episodes: Episode, steps: int) -> None:
    net = network()
    learner = algorithms.FOMAML(net, inner_lr=LR, inner_steps=steps, loss="mse")
    grads, _ = estimate(learner, learner.init(torch.Generator()), episodes)
    total = tree.zeros_like(grads["params"])
    for i in range(num_tasks(episodes)):
        support, query = take(episodes, i)
        trained = copy.deepcopy(net)
        for _ in range(steps):
            trained.zero_grad()
            F.mse_loss(trained(support.x), support.y).backward()
            with torch.no_grad():
                for p in trained.parameters():
                    p -= LR * p.grad  # pyright: ignore
        trained.zero_grad()
        F.mse_loss(trained(query.x), query.y).backward()
        total = {n: total[n] + p.grad / num_tasks(episodes) for n, p in trained.named_parameters()}  # pyright: ignore
    close(grads["params"], total, 1e-12)
    close(grads["params"], by_hand(net, episodes, steps, second=False), 1e-12)


@pytest.mark.parametrize("steps", [1, 3])
def test_anil_adapts_the_head_and_learns_both(episodes: Episode, steps: int) -> None:
    net = network()
    learner = algorithms.ANIL(net, inner_lr=LR, inner_steps=steps, loss="mse")
    meta = learner.init(torch.Generator())
    grads, _ = estimate(learner, meta, episodes)
    close(grads["params"], by_hand(net, episodes, steps, adapts="4."), 1e-12)
    fast = learner.begin(meta, take(episodes, 0).support)
    assert set(fast["params"]) == {"4.weight", "4.bias"}
    moved = learner.displaced(meta, learner.step(meta, fast, take(episodes, 0).support, 0))["params"]
    for name, before in meta["params"].items():
        assert torch.equal(moved[name], before) == (not name.startswith("4.")), name
    assert all(float(grads["params"][name].abs().max()) > 1e-9 for name in grads["params"])


@pytest.mark.parametrize("rule", ["Adam", "SGD"])
def test_reptile_moves_to_where_ordinary_training_ends(
    episodes: Episode, rule: Literal["Adam", "SGD"]
) -> None:
    net = network()
    learner = algorithms.Reptile(net, inner_lr=LR, inner_steps=4, inner_rule=rule, loss="mse")
    grads, _ = estimate(learner, learner.init(torch.Generator()), episodes)
    moved = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for i in range(num_tasks(episodes)):
        support = take(episodes, i).support
        trained = copy.deepcopy(net)
        parameters = trained.parameters()
        adam = torch.optim.Adam(parameters, LR, betas=(0.0, 0.999)) if rule == "Adam" else None
        optimizer = adam or torch.optim.SGD(parameters, LR)
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(trained(support.x), support.y).backward()
            optimizer.step()
        after = dict(trained.named_parameters())
        moved = {n: moved[n] + (p - after[n]).detach() / 3 for n, p in net.named_parameters()}
    close(grads["params"], moved, 1e-9)


def test_reptile_draws_minibatches_of_the_support() -> None:
    seen: list[int] = []

    class Counting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(len(input))
            return super().forward(input)

    episodes = Sinusoid(shots=9, queries=4).sample("train", 1, 0)
    learner = algorithms.Reptile(Counting(1, 1), inner_steps=3, inner_batch=5, loss="mse")
    estimate(learner, learner.init(torch.Generator()), episodes, axis="loop")
    assert seen == [5, 5, 5, 4]


def test_protonet_scores_by_squared_distance_to_class_means() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.Tanh()).double()
    learner = algorithms.ProtoNet(net)
    episode = take(images(1), 0)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    episode = episode._replace(support=Batch(*(t[order] for t in episode.support)))
    embedded, queries = net(episode.support.x), net(episode.query.x)
    means = [embedded[episode.support.y == n].mean(0) for n in range(3)]
    expected = torch.stack([-((queries - mean) ** 2).sum(1) for mean in means], dim=1)
    close(predictions(learner, learner.init(torch.Generator()), episode), expected.detach(), 1e-12)


def test_without_inner_steps_every_backpropagated_gradient_is_that_of_joint_training(
    episodes: Episode,
) -> None:
    net = network()
    for kind in (algorithms.MAML, algorithms.FOMAML, algorithms.ANIL):
        learner = kind(net, inner_lr=LR, inner_steps=0, loss="mse")
        grads, _ = estimate(learner, learner.init(torch.Generator()), episodes)
        close(grads["params"], by_hand(net, episodes, 0), 1e-12)


def test_first_order_is_wrong_where_the_exact_gradient_is_right(episodes: Episode) -> None:
    net = network()
    learner = algorithms.MAML(net, inner_lr=LR, inner_steps=3, loss="mse")
    meta = learner.init(torch.Generator())
    exact, first = (estimate(learner, meta, episodes, gradient=g)[0] for g in (Unrolled(), FirstOrder()))
    assert (
        max(float((a - b).abs().max()) for a, b in zip(*map(tree.leaves, (exact, first)), strict=True)) > 1e-3
    )


def test_displacement_works_for_any_learner_with_an_initialisation(episodes: Episode) -> None:
    net = network()
    learner = algorithms.MAML(net, inner_lr=LR, inner_steps=1, loss="mse")
    moved, _ = estimate(learner, learner.init(torch.Generator()), episodes, gradient=Displacement())
    theta = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    losses = [loss(net, theta, take(episodes, i).support) for i in range(3)]
    grads = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()))
    close(moved["params"], {n: LR * g for n, g in zip(theta, grads, strict=True)}, 1e-12)


def test_a_learner_without_an_initialisation_says_so() -> None:
    case = Case("ProtoNet", "mlp")
    with pytest.raises(NotImplementedError, match="no initialisation to displace"):
        estimate(case.learner(), case.meta(), case.episodes(), gradient=Displacement())


def test_the_sinusoid_network_of_maml_learns_from_float32_tasks() -> None:
    learner = algorithms.MAML(MLP(1, 1), inner_lr=0.01, inner_steps=1, loss="mse")
    grads, record = estimate(
        learner, learner.init(torch.Generator().manual_seed(0)), Sinusoid().sample("train", 4, 0)
    )
    assert {leaf.dtype for leaf in tree.leaves(grads)} == {torch.float32}
    assert record.losses.shape == (4,)
