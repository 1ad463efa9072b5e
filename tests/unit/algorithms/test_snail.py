"""SNAIL is, for every query, a causal network on a whole sequence of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import SIZE, WAYS, images
from innerloop.algorithms import SNAIL
from innerloop.core.errors import ConfigError
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.testing.questions import close, deviation, predictions

SIZES: dict[str, Any] = {"max_length": 7, "filters": 3, "keys": (4, 5, 2), "values": (2, 3, 4)}


def made(**how: Any) -> SNAIL:
    return SNAIL(MLP(SIZE * SIZE, None, hidden=(6,)), **{"ways": WAYS} | SIZES | how)


def drawn(learner: SNAIL) -> dict[str, Any]:
    meta = learner.init(torch.Generator().manual_seed(0))
    return {part: {name: leaf.double() for name, leaf in node.items()} for part, node in meta.items()}


def linear(meta: dict[str, Any], name: str, x: Tensor) -> Tensor:
    return F.linear(x, meta[name]["head.weight"], meta[name]["head.bias"])


def dense(meta: dict[str, Any], name: str, x: Tensor, dilation: int) -> Tensor:
    """A causal convolution of width two by torch, for a sequence [S + 1, C]."""
    channels = x.shape[1]
    weight = meta[name]["head.weight"]
    kernel = torch.stack([weight[:, :channels], weight[:, channels:]], -1)
    padded = F.pad(x.T[None], (dilation, 0))
    out = F.conv1d(padded, kernel, meta[name]["head.bias"], dilation=dilation)[0].T
    filtered, gate = out.chunk(2, 1)
    return torch.cat([x, filtered.tanh() * gate.sigmoid()], 1)


def attention(meta: dict[str, Any], name: str, x: Tensor, key: int) -> Tensor:
    """Causal attention by torch's own operator."""
    q, k, v = (part[None] for part in linear(meta, name, x).tensor_split([key, 2 * key], 1))
    return torch.cat([x, F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]], 1)


def by_hand(meta: dict[str, Any], support: tuple[Tensor, Tensor], query: Tensor) -> Tensor:
    """Logits of one query, from the sequence that it ends."""
    x = torch.cat([support[0], query[None]]).flatten(1)
    embedded = F.linear(x, meta["params"]["body.1.weight"], meta["params"]["body.1.bias"]).relu()
    labels = torch.cat([F.one_hot(support[1], WAYS).double(), torch.zeros(1, WAYS, dtype=torch.float64)])
    z = attention(meta, "attention0", torch.cat([embedded, labels], 1), 4)
    for block, key in ((1, 5), (2, 2)):
        for dilation in (1, 2, 4):
            z = dense(meta, f"dense{block}_{dilation}", z, dilation)
        z = attention(meta, f"attention{block}", z, key)
    return linear(meta, "head", z[-1])


@pytest.mark.parametrize("shots", [1, 2])
def test_each_query_is_the_end_of_a_sequence_of_its_own(shots: int) -> None:
    learner, episode = made(), take(images(1, shots=shots), 0)
    meta = drawn(learner)
    expected = torch.stack([by_hand(meta, episode.support, x) for x in episode.query.x])
    close({"logits": predictions(learner, meta, episode)}, {"logits": expected}, 1e-12)


def test_dense_layers_span_the_longest_sequence() -> None:
    """With attention silenced, the first of `max_length` places reaches the last, and one before does not."""
    learner = made(keys=(1, 1), values=(1, 1), max_length=8)
    meta = drawn(learner)
    for name in ("attention0", "attention1"):
        meta[name] = {leaf: torch.zeros_like(value) for leaf, value in meta[name].items()}

    def logits(support: Tensor) -> Tensor:
        labels = torch.zeros(len(support), WAYS, dtype=torch.float64)
        return learner.outputs(meta, support, labels, torch.ones(1, 6, dtype=torch.float64))

    support = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(8, 6)
    for place, reaches in ((0, False), (1, True), (7, True)):
        changed = support.clone()
        changed[place] += 1.0
        found = deviation({"": logits(support)}, {"": logits(changed)})
        assert (found > 1e-9) == reaches, f"place {place} moves the answer by {found}"


@pytest.mark.parametrize(
    ("longest", "dilations"), [(2, [1]), (3, [1, 2]), (8, [1, 2, 4]), (26, [1, 2, 4, 8, 16])]
)
def test_there_are_as_many_dense_layers_as_the_longest_sequence_needs(
    longest: int, dilations: list[int]
) -> None:
    meta = made(max_length=longest).init(torch.Generator().manual_seed(0))
    found = [int(name.removeprefix("dense1_")) for name in meta if name.startswith("dense1_")]
    assert found == dilations


def test_a_query_that_is_no_number_spoils_no_other() -> None:
    learner, episode = made(), take(images(1), 0)
    meta = drawn(learner)
    before = predictions(learner, meta, episode)
    episode.query.x[0] = torch.nan
    after = predictions(learner, meta, episode)
    assert bool(torch.isnan(after[0]).all())
    assert torch.equal(before[1:], after[1:])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"ways": 1}, "ways >= 2"),
        ({"max_length": 1}, "max_length >= 2"),
        ({"filters": 0}, "filters >= 1"),
        ({"keys": (4, 0, 4)}, "keys >= 1"),
        ({"keys": (4, 4)}, "as many keys as values"),
        ({"keys": (), "values": ()}, "one at least"),
    ],
)
def test_a_bad_setting_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made(**how)
