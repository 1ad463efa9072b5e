"""Relation networks, pair by pair in a loop, beside what the learner computes for vectors and for maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import images
from innerloop.algorithms import RelationNet
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Meta
from innerloop.core.vectorise import take
from innerloop.models import MLP, Conv4
from innerloop.testing import questions as ask
from innerloop.testing.probing import adapted, close, deviation, predictions


def maps(**settings: Any) -> RelationNet:
    """Around a network that ends with maps [4, 4, 4]."""
    return RelationNet(Conv4(None, size=16, width=4, pooling="max", halvings=2), **settings)


def double_meta(learner: RelationNet) -> Meta:
    return tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))


def embedded(learner: RelationNet, meta: Meta, x: Tensor) -> Tensor:
    with torch.no_grad():
        return learner.net(meta["params"], x, statistics=meta.get("statistics"))


def test_vectors_are_compared_by_a_perceptron() -> None:
    learner = RelationNet(MLP(256, None, hidden=(9, 5)), hidden=(7,))
    meta, episode = double_meta(learner), take(images(1, shots=3), 0)
    support, query = (embedded(learner, meta, batch.x) for batch in episode)
    g = meta["relation"]
    expected = torch.zeros(len(query), 3, dtype=torch.float64)
    for q, row in enumerate(query):
        for n in range(3):
            both = torch.cat([support[episode.support.y == n].sum(0), row])
            inside = F.relu(g["body.1.weight"] @ both + g["body.1.bias"])
            expected[q, n] = torch.sigmoid(g["head.weight"] @ inside + g["head.bias"])
    close(predictions(learner, meta, episode), expected, 1e-12)
    assert ((expected > 0) & (expected < 1)).all()


def test_maps_are_compared_by_convolutions_of_their_stacked_channels() -> None:
    learner = maps()
    meta, episode = double_meta(learner), take(images(1, shots=2), 0)
    support, query = (embedded(learner, meta, batch.x).reshape(-1, 4, 4, 4) for batch in episode)
    g = meta["relation"]
    expected = torch.zeros(len(query), 3, dtype=torch.float64)
    for q, row in enumerate(query):
        for n in range(3):
            x = torch.cat([support[episode.support.y == n].sum(0), row])[None]
            for layer in ("body.0", "body.3"):
                x = F.conv2d(x, g[f"{layer}.weight"], g[f"{layer}.bias"], padding=1)
                x = F.max_pool2d(F.relu(x), 2)
            x = F.relu(F.linear(x.flatten(1), g["head.body.1.weight"], g["head.body.1.bias"]))
            expected[q, n] = F.linear(x, g["head.head.weight"], g["head.head.bias"]).sigmoid()
    close(predictions(learner, meta, episode), expected, 1e-12)


def test_the_loss_is_the_squared_distance_to_one_hot_labels() -> None:
    learner = RelationNet(MLP(256, None, hidden=(9, 5)))
    meta, episode = double_meta(learner), take(images(1), 0)
    fast = adapted(learner, meta, episode.support)
    scores = learner.predict(meta, fast, episode.query.x)
    loss, statistics = learner.query_loss(meta, fast, episode.query)
    squares = [
        (float(scores[q, n]) - (n == int(y))) ** 2 for q, y in enumerate(episode.query.y) for n in range(3)
    ]
    assert float(loss) == pytest.approx(sum(squares) / len(squares), abs=1e-14)
    assert statistics == {}


def test_running_statistics_are_gathered_while_it_is_trained() -> None:
    learner = maps()
    meta, episodes = double_meta(learner), images(2)
    _, _, record = learner.gradient.estimate(learner, meta, episodes)
    assert record.statistics.keys() == meta["statistics"].keys()
    assert deviation(record.statistics, meta["statistics"]) > 1e-3


def test_with_maps_it_answers_what_every_algorithm_is_asked() -> None:
    learner, episodes = maps(batch_norm="support"), images(2)
    meta = double_meta(learner)
    ask.vmap_chunks_and_loop_agree(learner, meta, episodes)
    ask.gradient_equals_finite_differences(learner, meta, episodes, coordinates=False)
    ask.every_leaf_is_learned(learner, meta, episodes)
    ask.queries_do_not_reach_each_other_unless_declared(learner, meta, episodes)
    ask.initial_meta_is_a_function_of_rng(learner)


@pytest.mark.parametrize(
    ("module", "given", "convolves"),
    [
        (Conv4(None, width=8, pooling="max", halvings=2), None, True),
        (Conv4(None, width=8, pooling="max"), None, False),  # maps of 1x1
        (Conv4(None, width=8), None, False),  # a spatial mean
        (nn.Conv2d(1, 6, 3, padding=1), (6, 28, 28), True),
        (nn.Conv2d(1, 6, 27), (6, 2, 2), False),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 5)), (5,), False),
    ],
)
def test_what_compares_follows_from_the_shape_of_an_embedding(
    module: nn.Module, given: tuple[int, ...] | None, convolves: bool
) -> None:
    learner = RelationNet(module, embedding_shape=given)
    meta = learner.init(torch.Generator().manual_seed(0))
    kernels = [leaf for leaf in meta["relation"].values() if leaf.ndim == 4]
    assert bool(kernels) == convolves
    first = next(leaf for leaf in meta["relation"].values() if leaf.ndim == 2)
    assert len(first) == (8 if convolves else 64)
    x = torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    fast = learner.begin(meta, take(images(1), 0).support._replace(x=x))
    assert learner.predict(meta, fast, x[:2]).shape == (2, 3)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "give embedding_shape"),
        ({"embedding_shape": (4, 0, 4)}, "embedding_shape"),
        ({"embedding_shape": (4,), "hidden": (0,)}, "hidden"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RelationNet(nn.Linear(3, 4), **settings)
