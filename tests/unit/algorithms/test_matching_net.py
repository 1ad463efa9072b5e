"""Matching networks, written out with loops and torch's own LSTM, beside what the learner computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Case, images
from innerloop.algorithms import MatchingNet
from innerloop.algorithms.embedding import unit
from innerloop.algorithms.recurrent import lstm_init
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch, Meta
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.testing import questions as ask
from innerloop.testing.probing import close, deviation, predictions

PIXELS = 256


def in_context(**settings: int) -> tuple[MatchingNet, Meta]:
    learner = MatchingNet(MLP(PIXELS, None, hidden=(8, 5)), full_context=True, **settings)  # pyright: ignore
    return learner, tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_a_query_takes_the_labels_of_the_support_by_cosine_attention(scale: float) -> None:
    learner = MatchingNet(MLP(PIXELS, None, hidden=(8, 5)), scale=scale)
    meta = tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))
    episode = take(images(1, shots=3), 0)
    support, query = (learner.net(meta["params"], batch.x) for batch in episode)
    expected = torch.zeros(len(query), 3, dtype=torch.float64)
    for q, row in enumerate(query):
        similar = torch.stack([torch.dot(row, s) / (row.norm() * s.norm()) for s in support])
        weights = torch.exp(scale * similar) / torch.exp(scale * similar).sum()
        for weight, label in zip(weights, episode.support.y, strict=True):
            expected[q, label] += weight
    found = predictions(learner, meta, episode)
    close(found.exp(), expected, 1e-12)
    close(found.exp().sum(1), torch.ones(len(query), dtype=torch.float64), 1e-12)
    loss, _ = learner.query_loss(meta, learner.begin(meta, episode.support), episode.query)
    close(loss, F.nll_loss(expected.log(), episode.query.y), 1e-12)


def torch_lstm(cell: Meta, rows: Tensor) -> Tensor:
    """What `nn.LSTM` makes of one sequence [S, D] with the weights of a cell of ours."""
    size = rows.shape[1]
    lstm = nn.LSTM(size, size, batch_first=True).double()
    with torch.no_grad():
        for name, value in zip(
            ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"),
            (*cell["weight"].split(size, 1), cell["bias"], torch.zeros_like(cell["bias"])),
            strict=True,
        ):
            getattr(lstm, name).copy_(value)
        return lstm(rows[None])[0][0]


@pytest.mark.parametrize("steps", [1, 4])
def test_full_context_is_a_bidirectional_lstm_and_an_attention_lstm(steps: int) -> None:
    learner, meta = in_context(processing_steps=steps)
    episode = take(images(1, shots=2), 0)
    embedded, query = (learner.net(meta["params"], batch.x) for batch in episode)
    context = meta["context"]
    backwards = torch_lstm(context["backward"], embedded.flip(0)).flip(0)
    g = torch_lstm(context["forward"], embedded) + backwards + embedded
    cell = nn.LSTMCell(10, 5).double()
    with torch.no_grad():
        weights = context["attention"]["weight"].split([10, 5], 1)
        given = (*weights, context["attention"]["bias"], torch.zeros(20, dtype=torch.float64))
        for parameter, value in zip(cell.parameters(), given, strict=True):
            parameter.copy_(value)
        h = c = torch.zeros_like(query)
        for _ in range(steps):
            read = torch.stack([F.softmax(g @ row, 0) @ g for row in h])
            hidden, c = cell(torch.cat([query, read], 1), (h, c))
            h = hidden + query
    attention = F.softmax(F.cosine_similarity(h[:, None], g[None], dim=2), 1)
    expected = attention @ F.one_hot(episode.support.y).double()
    close(predictions(learner, meta, episode).exp(), expected, 1e-12)


def test_with_full_context_it_answers_what_every_algorithm_is_asked() -> None:
    learner, meta = in_context()
    episodes = images(3)
    ask.vmap_chunks_and_loop_agree(learner, meta, episodes)
    ask.gradient_equals_finite_differences(learner, meta, episodes)
    ask.every_leaf_is_learned(learner, meta, episodes)
    ask.queries_do_not_reach_each_other_unless_declared(learner, meta, episodes)
    ask.initial_meta_is_a_function_of_rng(learner)


def test_it_is_ordered_with_full_context_and_only_then() -> None:
    learner, meta = in_context()
    assert learner.ordered
    ask.support_order_is_irrelevant_unless_declared(learner, meta, images(1))
    case = Case("MatchingNet", "mlp")
    assert not case.learner().ordered
    ask.support_order_is_irrelevant_unless_declared(case.learner(), case.meta(), case.episodes(1))
    learner.ordered = False  # planted: an undeclared order is seen
    with pytest.raises(AssertionError, match="order of the support"):
        ask.support_order_is_irrelevant_unless_declared(learner, meta, images(1))


def test_a_class_without_support_gets_almost_no_probability_and_breaks_no_gradient() -> None:
    case = Case("MatchingNet", "mlp")
    learner, episode = case.learner(), take(case.episodes(1), 0)
    meta = tree.map(lambda leaf: leaf.requires_grad_(), case.meta())
    lacking = Batch(episode.support.x, episode.support.y.clamp(max=1) * 2)  # of the classes 0 and 2 alone
    query = Batch(episode.query.x, episode.query.y.clamp(max=1) * 2)
    outputs = learner.predict(meta, learner.begin(meta, lacking), query.x)
    assert torch.isfinite(outputs).all()
    assert not outputs[:, 1].exp().any()
    loss, _ = learner.query_loss(meta, learner.begin(meta, lacking), query)
    grads = torch.autograd.grad(loss, tree.leaves(meta))
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert max(float(grad.abs().max()) for grad in grads) > 1e-6


@pytest.mark.parametrize("factor", [1.0, 1e-170, 1e200])
def test_rows_of_any_length_are_brought_to_one(factor: float) -> None:
    rows = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = rows / rows.norm(dim=1, keepdim=True)
    close(unit(factor * rows), expected, 1e-14)
    if factor != 1.0:  # planted: torch's own does not
        assert deviation(F.normalize(factor * rows, dim=1), expected) > 0.1


def test_bringing_rows_to_length_one_has_its_true_gradient_and_a_mild_one_at_zero() -> None:
    rows = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(unit, rows.requires_grad_())
    zeros = torch.zeros(2, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(unit(zeros).sum(), zeros)
    close(grad, torch.ones(2, 4), 0.0)
    assert torch.isnan(unit(torch.tensor([[torch.inf, 1.0]]))).any()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"processing_steps": 0}, "processing_steps"),
        ({"scale": 0.0}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"batch_norm": "none"}, "batch_norm"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        MatchingNet(MLP(1, None), **settings)  # pyright: ignore


def test_full_context_around_a_module_of_unknown_width_asks_for_it() -> None:
    rng = torch.Generator().manual_seed(0)
    with pytest.raises(ConfigError, match="embedding_size"):
        MatchingNet(nn.Linear(3, 4), full_context=True).init(rng)
    meta = MatchingNet(nn.Linear(3, 4), full_context=True, embedding_size=4).init(rng)
    shapes = tree.map(lambda leaf: leaf.shape, lstm_init(rng, 8, 4))
    assert tree.map(lambda leaf: leaf.shape, meta["context"]["attention"]) == shapes
