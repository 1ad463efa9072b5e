"""Proto-MAML is Prototypical Networks before its first step, and MAML from there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cases import Case, images
from innerloop.algorithms import ProtoMAML, ProtoNet
from innerloop.core import tree
from innerloop.core.vectorise import take
from innerloop.testing.probing import close, estimate, predictions

LR = 0.05


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 5), nn.Tanh()).double()


def test_without_steps_it_predicts_as_prototypical_networks_do() -> None:
    net, episode = network(), take(images(1), 0)
    ours, theirs = ProtoMAML(net, inner_steps=0), ProtoNet(net)
    found, expected = (predictions(one, one.init(torch.Generator()), episode) for one in (ours, theirs))
    close(found.softmax(1), expected.softmax(1), 1e-12)  # -|x|^2 is the same for all classes


def test_a_step_is_gradient_descent_on_network_and_classifier() -> None:
    net, episode = network(), take(images(1), 0)
    learner = ProtoMAML(net, inner_lr=LR, inner_steps=2)
    found = predictions(learner, learner.init(torch.Generator()), episode)
    embedded = net(episode.support.x).detach()
    means = torch.stack([embedded[episode.support.y == n].mean(0) for n in range(3)])
    head = nn.Linear(5, 3).double()
    with torch.no_grad():
        head.weight.copy_(2 * means)
        head.bias.copy_(-means.square().sum(1))
    optimizer = torch.optim.SGD([*net.parameters(), *head.parameters()], LR)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(head(net(episode.support.x)), episode.support.y).backward()
        optimizer.step()
    close(found, head(net(episode.query.x)).detach(), 1e-12)


def test_class_means_are_differentiated_through() -> None:
    case = Case("ProtoMAML", "mlp")
    learner = case.learner(inner_steps=0)
    grads, _ = estimate(learner, case.meta(), case.episodes())
    expected, _ = estimate(ProtoNet(learner.module, batch_norm="support"), case.meta(), case.episodes())
    close(grads["params"], expected["params"], 1e-10)


def test_it_moves_to_where_adaptation_ends_without_the_classifier() -> None:
    case = Case("ProtoMAML", "mlp")
    learner, meta = case.learner(), case.meta()
    support = take(case.episodes(), 0).support
    moved = learner.displaced(meta, learner.step(meta, learner.begin(meta, support), support, 0))
    assert tree.structure(moved) == tree.structure(meta)
