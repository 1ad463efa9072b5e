"""Checks for leaks are silent where nothing passes, and see each planted leak."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases import Case, images
from innerloop.algorithms import MAML
from innerloop.core.types import Batch, Episode, Fast, Meta
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.leaks import class_leak, query_leak, state_leak, transduction
from innerloop.measure.randomness import random_states, random_states_kept
from innerloop.tasks import Glyphs, Sinusoid
from unit.measure.settings import exact_bowls, on_sinusoids

# --- between tasks ---------------------------------------------------------------------------------------


class Remembers(MAML):
    """Keeps on itself what belongs in its state."""

    seen: Tensor | float = 0.0

    def begin(self, meta: Meta, support: Batch) -> Fast:
        self.seen = self.seen + support.y.mean()
        return super().begin(meta, support)

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return super().predict(meta, fast, inputs) + 0.01 * self.seen


class RemembersInTraining(Remembers):
    """The same, where nothing is evaluated."""

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        plain = MAML.predict(self, meta, fast, inputs)
        return Remembers.predict(self, meta, fast, inputs) if self.counts() else plain

    def counts(self) -> bool:
        from innerloop.core.mode import mode

        return mode().training


class Counts(MAML):
    """Passes support sets through a BatchNorm layer of its own, whose running statistics nobody looks at."""

    def __init__(self, module: nn.Module, **settings: Any) -> None:
        super().__init__(module, **settings)
        self.norm = nn.BatchNorm1d(1)

    def begin(self, meta: Meta, support: Batch) -> Fast:
        self.norm(support.x.float())
        return super().begin(meta, support)


class Draws(MAML):
    """Draws a number in each step, and does nothing with it."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        torch.rand(())
        return super().step(meta, fast, support, k)


class DrawsElsewhere(MAML):
    """The same, of Python's."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        random.random()
        return super().step(meta, fast, support, k)


class Perturbs(MAML):
    """Adds noise that no key makes."""

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return super().predict(meta, fast, inputs) + torch.from_numpy(np.random.normal(size=1))


@pytest.mark.parametrize("learner", [Remembers, RemembersInTraining, Counts, Draws, DrawsElsewhere, Perturbs])
def test_a_planted_state_is_seen_and_neither_the_learner_nor_random_numbers_are_touched(learner):
    built, meta, episodes = on_sinusoids(learner)
    seen, before = getattr(built, "seen", None), random_states()
    assert state_leak(built, meta, episodes) > 0.0
    assert getattr(built, "seen", None) is seen
    assert random_states() == before


def test_what_has_no_state_leaks_none(case: Case):
    found = state_leak(case.learner(), case.meta(), case.episodes())
    assert found == 0.0


def test_outputs_that_are_not_finite_are_compared_by_place():
    learner, meta, episodes = on_sinusoids(inner_lr=50.0, inner_steps=20)
    assert state_leak(learner, meta, episodes) == 0.0


def test_one_task_is_not_enough():
    learner, meta, episodes = on_sinusoids(num_tasks=1)
    for check in (state_leak, transduction):
        with pytest.raises(NotEvaluated, match="single task"):
            check(learner, meta, episodes)


def test_random_numbers_are_put_back():
    before = random_states()
    with random_states_kept():
        drawn = (float(torch.rand(())), np.random.rand(), random.random())
        assert random_states() != before
    assert random_states() == before
    assert (float(torch.rand(())), np.random.rand(), random.random()) == drawn


# --- from support to query -------------------------------------------------------------------------------


def test_tasks_of_this_package_have_no_query_in_their_support():
    for source in (Sinusoid(), Glyphs.tiny()):
        assert query_leak(source.sample("train", 20, 0)) == 0.0


def test_support_rows_in_the_query_are_seen_in_the_worst_task():
    support, query = Sinusoid(queries=10).sample("train", 5, 0)
    x = query.x.clone()
    x[3, :4] = support.x[3, :4]
    assert query_leak(Episode(support, Batch(x, query.y))) == pytest.approx(0.4)
    x[2, :4] = support.x[3, :4]  # another task's support is no leak
    assert query_leak(take(Episode(support, Batch(x, query.y)), slice(0, 3))) == 0.0


def test_a_task_that_is_its_own_test_leaks_all_of_it():
    assert query_leak(exact_bowls(2)) == 1.0


# --- from training to validation -------------------------------------------------------------------------


def test_splits_of_this_package_share_no_example():
    for source in (Sinusoid(), Glyphs.tiny()):
        train, val = (source.sample(split, 50, 0) for split in ("train", "val"))
        assert class_leak(train, val) == 0.0


def test_classes_of_training_among_those_of_validation_are_seen_whatever_their_labels():
    train, other = images(6, 0), images(6, 1)
    other = Episode(*(Batch(batch.x, batch.y.flip(1)) for batch in other))
    assert class_leak(train, other) == 0.0
    pairs = zip(train, other, strict=True)
    shared = Episode(*(Batch(torch.cat([ours.x[:3], theirs.x[3:]]), theirs.y) for ours, theirs in pairs))
    assert class_leak(train, shared) == pytest.approx(0.5)


def test_validation_on_the_training_classes_of_a_source_is_seen():
    source = Glyphs.tiny()
    train, leaked = source.sample("train", 50, 0), source.sample("train", 20, 1)
    assert class_leak(train, leaked) > 0.2


def test_functions_may_be_looked_at_in_the_same_places():
    x = torch.linspace(-1, 1, 5)[None, :, None]
    train, val = (Episode(Batch(x, slope * x), Batch(x, slope * x)) for slope in (1.0, 2.0))
    assert class_leak(train, val) == pytest.approx(0.2)  # they meet at the origin alone
    assert class_leak(train, train) == 1.0


# --- between queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["MAML", "ANIL", "ProtoNet"])
@pytest.mark.parametrize("policy", ["support", "transductive", "running"])
def test_transductive_batch_norm_is_seen_and_the_other_policies_are_not(algorithm, policy):
    case = Case(algorithm, "batch", policy)
    found = transduction(case.learner(), case.meta(), case.episodes())
    assert found > 0.01 if policy == "transductive" else found < 1e-12


class Centres(MAML):
    """Takes the mean of the queries from each."""

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        outputs = super().predict(meta, fast, inputs)
        return outputs - outputs.mean(0)


def test_a_learner_that_compares_queries_is_seen_however_few_there_are():
    learner, meta, episodes = on_sinusoids(Centres)
    single = Episode(episodes.support, Batch(episodes.query.x[:, :1], episodes.query.y[:, :1]))
    assert transduction(learner, meta, episodes) > 0.01
    assert transduction(learner, meta, single) > 0.01
    assert transduction(*on_sinusoids()[:2], single) < 1e-12
