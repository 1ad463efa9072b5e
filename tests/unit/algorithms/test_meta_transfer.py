"""MetaTransfer: filters that stay, scaled and shifted by hand; ANIL where nothing is scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import images
from innerloop import algorithms
from innerloop.core import tree
from innerloop.core.errors import ContractError
from innerloop.core.learner import FROZEN
from innerloop.core.vectorise import take
from innerloop.testing.probing import close, estimate, predictions

LR = 0.1


def network() -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 3, 3, stride=4), nn.Tanh(), nn.Conv2d(3, 2, 2, bias=False), nn.GroupNorm(1, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(18, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def started(**settings: Any) -> tuple[Any, dict[str, Any]]:
    learner = algorithms.MetaTransfer(network(), **{"inner_lr": LR, "inner_steps": 2} | settings)
    return learner, learner.init(torch.Generator().manual_seed(0))


def shaken(meta: dict[str, Any]) -> dict[str, Any]:
    """Meta-parameters away from where scales are one and shifts zero."""
    rng = torch.Generator().manual_seed(1)

    def moved(leaf: Tensor) -> Tensor:
        return leaf + 0.1 * torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype)

    return meta | {name: tree.map(moved, meta[name]) for name in ("params", "scales", "shifts")}


def test_what_is_frozen_what_scales_and_what_is_learned_as_it_is() -> None:
    _, meta = started()
    assert sorted(meta[FROZEN]) == ["0.bias", "0.weight", "2.weight", "5.bias", "5.weight"]
    shapes = {name: tuple(leaf.shape) for name, leaf in meta["scales"].items()}
    assert shapes == {"0.weight": (3, 1), "2.weight": (2, 3), "5.weight": (5,)}
    assert {name: tuple(leaf.shape) for name, leaf in meta["shifts"].items()} == {
        "0.bias": (3,),
        "5.bias": (5,),
    }
    assert sorted(meta["params"]) == ["3.bias", "3.weight", "7.bias", "7.weight"]
    assert all(bool((leaf == 1).all()) for leaf in meta["scales"].values())
    assert not any(bool(leaf.any()) for leaf in meta["shifts"].values())


def test_the_meta_gradient_is_that_of_scaled_and_shifted_layers_written_out() -> None:
    learner, meta = started()
    meta = shaken(meta)
    episodes = images(2)
    grads, record = estimate(learner, meta, episodes)
    inputs = {
        n: {k: v.clone().requires_grad_() for k, v in meta[n].items()} for n in ("params", "scales", "shifts")
    }
    p, s, b, w = inputs["params"], inputs["scales"], inputs["shifts"], meta[FROZEN]

    def features(x: Tensor) -> Tensor:
        x = F.conv2d(
            x, w["0.weight"] * s["0.weight"][:, :, None, None], w["0.bias"] + b["0.bias"], stride=4
        ).tanh()
        x = F.conv2d(x, w["2.weight"] * s["2.weight"][:, :, None, None])
        x = F.group_norm(x, 1, p["3.weight"], p["3.bias"]).flatten(1)
        return F.linear(x, w["5.weight"] * s["5.weight"][:, None], w["5.bias"] + b["5.bias"]).tanh()

    losses = []
    for i in range(2):
        support, query = take(episodes, i)
        head = [p["7.weight"], p["7.bias"]]
        for _ in range(2):
            loss = F.cross_entropy(F.linear(features(support.x), *head), support.y)
            downhill = torch.autograd.grad(loss, head, create_graph=True)
            head = [h - LR * g for h, g in zip(head, downhill, strict=True)]
        losses.append(F.cross_entropy(F.linear(features(query.x), *head), query.y))
    close(record.losses, torch.stack(losses).detach(), 1e-12)
    torch.stack(losses).mean().backward()
    close({n: grads[n] for n in inputs}, tree.map(lambda leaf: leaf.grad, inputs), 1e-12)
    assert not any(bool(leaf.any()) for leaf in tree.leaves(grads[FROZEN]))


def test_where_nothing_is_scaled_it_predicts_what_anil_does() -> None:
    learner, meta = started()
    anil = algorithms.ANIL(network(), inner_lr=LR, inner_steps=2)
    episode = take(images(1), 0)
    expected = predictions(anil, anil.init(torch.Generator()), episode)
    close(predictions(learner, meta, episode), expected, 1e-12)
    assert float((predictions(learner, shaken(meta), episode) - expected).abs().max()) > 1e-3


def test_the_features_of_the_support_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, meta = started(inner_steps=4)
    seen: list[int] = []
    forward = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (seen.append(len(x)), forward(self, x))[1])
    episode = take(images(1), 0)
    predictions(learner, meta, episode)
    assert seen == [len(episode.support.y)] * 2 + [len(episode.query.y)] * 2


@pytest.mark.parametrize("module", [nn.Linear(4, 3), nn.Sequential(nn.Flatten(), nn.Linear(4, 3))])
def test_a_head_alone_is_refused(module: nn.Module) -> None:
    with pytest.raises(ContractError, match="a head alone"):
        algorithms.MetaTransfer(module)
