"""What an estimate records, and what it does with tasks that fail."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

import innerloop as il
from cases import as_double
from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.outcome import Outcome
from innerloop.core.types import Batch, Episode
from innerloop.gradients import FirstOrder, Record, Unrolled
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close, estimate


class RootAtZero(nn.Linear):
    """|x| as a root of a square: finite everywhere, without a derivative where the output is zero."""

    def __init__(self) -> None:
        super().__init__(1, 1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).square().sqrt()


def episodes(count: int = 4) -> Episode:
    return as_double(Sinusoid(shots=4, queries=3).sample("train", count, 0))


def learner_and_meta() -> tuple[MAML, dict]:
    learner = MAML(MLP(1, 1, hidden=(8,)), inner_lr=0.01, loss="mse")
    return learner, tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))


def with_support(batch: Episode, which: list[int], value: float) -> Episode:
    x = batch.support.x.clone()
    x[which] = value
    return batch._replace(support=Batch(x, batch.support.y))


def test_a_finite_loss_with_an_infinite_gradient_is_an_outcome_of_its_own() -> None:
    learner = MAML(RootAtZero().double(), inner_lr=0.01, inner_steps=0, loss="mse")
    meta = learner.init(torch.Generator())
    tasks = episodes(3)
    tasks.query.x[1] = 0.0
    for axis in ("vmap", "loop"):
        grads, record = estimate(learner, meta, tasks, axis=axis)
        assert record.outcomes == [Outcome.FINITE, Outcome.NONFINITE_GRADIENT, Outcome.FINITE]
        assert record.kept == [0, 2]
        assert bool(torch.isfinite(record.losses).all())
        others = Episode(*(Batch(b.x[[0, 2]], b.y[[0, 2]]) for b in tasks))
        close(grads, estimate(learner, meta, others)[0])


@pytest.mark.parametrize("which", [[0], [1, 2], [3]])
def test_failed_tasks_are_left_out_wherever_they_stand(which: list[int]) -> None:
    learner, meta = learner_and_meta()
    kept = [i for i in range(4) if i not in which]
    grads, record = estimate(learner, meta, with_support(episodes(), which, float("nan")))
    others = Episode(*(Batch(b.x[kept], b.y[kept]) for b in episodes()))
    assert record.kept == kept
    assert [record.outcomes[i] for i in which] == [Outcome.NONFINITE_LOSS] * len(which)
    close(grads, estimate(learner, meta, others)[0])


@pytest.mark.parametrize(("failed", "mostly"), [(0, False), (1, False), (2, False), (3, True), (4, True)])
def test_more_than_half_failed_is_mostly_failed(failed: int, mostly: bool) -> None:
    learner, meta = learner_and_meta()
    _, record = estimate(learner, meta, with_support(episodes(), list(range(failed)), float("inf")))
    assert len(record.kept) == 4 - failed
    assert record.mostly_failed is mostly


def test_an_inner_loop_that_overflows_is_reported() -> None:
    learner = MAML(MLP(1, 1, hidden=(8,)), inner_lr=1e9, inner_steps=30, loss="mse")
    grads, record = il.meta_gradient(
        learner, learner.init(torch.Generator().manual_seed(0)), Sinusoid().sample("train", 3, 0)
    )
    assert record.mostly_failed
    assert all(not leaf.any() for leaf in tree.leaves(grads))
    assert record.loss != record.loss  # NaN: no task has one


def test_outcomes_are_sentences() -> None:
    assert all(len(outcome.value.split()) >= 1 for outcome in Outcome)
    assert [o for o in Outcome if o.ok] == [Outcome.FINITE]


def test_a_record_means_over_the_tasks_it_kept() -> None:
    outcomes = [Outcome.FINITE, Outcome.NONFINITE_LOSS, Outcome.FINITE]
    assert Record(torch.tensor([1.0, float("nan"), 3.0]), outcomes, {}).loss == 2.0


def test_meta_gradient_uses_the_learner_s_own_way_unless_told() -> None:
    learner = il.algorithms.FOMAML(MLP(1, 1), inner_lr=0.1, inner_steps=2, loss="mse")
    meta = learner.init(torch.Generator().manual_seed(0))
    tasks = Sinusoid().sample("train", 3, 0)
    own, record = il.meta_gradient(learner, meta, tasks)
    first, _ = il.meta_gradient(learner, meta, tasks, FirstOrder())
    exact, _ = il.meta_gradient(learner, meta, tasks, gradient=Unrolled(), tasks_axis="loop")
    assert all(map(torch.equal, tree.leaves(own), tree.leaves(first)))
    assert not all(map(torch.allclose, tree.leaves(own), tree.leaves(exact)))
    assert record.losses.shape == (3,)
    assert not record.losses.requires_grad


def test_meta_gradient_takes_an_int_or_a_generator_as_randomness() -> None:
    learner = MAML(MLP(1, 1, dropout=0.5), loss="mse")
    meta, tasks = learner.init(torch.Generator().manual_seed(0)), Sinusoid().sample("train", 3, 0)
    losses = [
        il.meta_gradient(learner, meta, tasks, rng=rng)[1].losses
        for rng in (0, 0, 1, -1, torch.Generator().manual_seed(0), torch.Generator().manual_seed(0))
    ]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[4], losses[5])
    assert not torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[2], losses[3])


def test_one_task_is_a_batch_of_one() -> None:
    learner, meta = learner_and_meta()
    whole, _ = estimate(learner, meta, episodes(3))
    alone = [Episode(*(Batch(b.x[i : i + 1], b.y[i : i + 1]) for b in episodes(3))) for i in range(3)]
    singles = [estimate(learner, meta, episode)[0] for episode in alone]
    close(whole, tree.map(lambda *g: sum(g) / 3, *singles))


def test_good_tasks_are_not_recomputed(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    class Counting(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(input)

    learner = MAML(Counting(1, 1), inner_lr=0.01, inner_steps=1, loss="mse")
    with caplog.at_level(logging.DEBUG):
        il.meta_gradient(learner, learner.init(torch.Generator()), Sinusoid().sample("train", 8, 0))
    assert len(calls) == 2  # the support and the query pass, once for all tasks
