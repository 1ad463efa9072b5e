"""OML descends on the head alone, one example after another, from rows that no task has seen."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from innerloop.algorithms import ANML, OML
from innerloop.algorithms.trajectory import TrajectoryLearner, turn
from innerloop.core.functional import FunctionalModule
from innerloop.core.learner import adapt
from innerloop.core.mode import running_in
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Recompute, Truncated, Unrolled
from innerloop.tasks import ClassIncrementalOmniglot
from innerloop.testing.probing import close, deviation
from innerloop.testing.questions import gradient_equals_finite_differences

LR, OUTPUTS, KEYS = 0.1, 12, tensor_keys(0, 4, torch.device("cpu"))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(49, 6), nn.Tanh(), nn.Linear(6, OUTPUTS)).double()


def trajectories(count: int = 3) -> Episode:
    """Two classes of twelve, twice each, then other drawings of them and three others; float64."""
    episode = ClassIncrementalOmniglot.tiny().sample("train", count, 0)

    def small(batch: Batch) -> Batch:
        pooled = nn.functional.avg_pool2d(batch.x.flatten(0, 1), 4).double()
        return Batch(pooled.reshape(*batch.x.shape[:2], 1, 7, 7), batch.y)

    return Episode(small(episode.support), small(episode.query))


def learner(kind: type[Any] = OML, **changes: Any) -> Any:
    return kind(network(), **{"inner_lr": LR, "inner_steps": 4, **changes})


def meta_of(one: Any) -> Meta:
    return one.init(torch.Generator().manual_seed(0))


def descends_on_the_head_in_order(one: TrajectoryLearner) -> None:
    """Its state after a trajectory is that of plain SGD on the last layer, an example a step."""
    support, net = take(trajectories(), 0).support, network()
    optimizer = torch.optim.SGD(net[3].parameters(), LR)  # type: ignore[index]
    for x, y in zip(support.x, support.y, strict=True):
        optimizer.zero_grad()
        cross_entropy(net(x[None]), y[None]).backward()
        optimizer.step()
    reached = adapt(one, meta_of(one), support, 4)
    query = take(trajectories(), 0).query.x
    close(one.predict(meta_of(one), reached, query).detach(), net(query).detach(), 1e-12)


def test_it_is_plain_gradient_descent_on_the_head_in_order() -> None:
    descends_on_the_head_in_order(learner(reset=False))


class AdaptsTheBody(OML):  # a concrete base is fine in a test
    def adapts(self) -> set[str]:
        return set(self.net.names)

    def features_of(self, meta: Meta, inputs: Tensor, *, rows: int | None = None) -> None:
        return None


class TakesAllAtOnce(OML):
    def step(self, meta: Meta, fast: Any, support: Batch, k: int) -> Any:
        return super(TrajectoryLearner, self).step(meta, fast, support, k)


class RunsBackwards(OML):
    def step(self, meta: Meta, fast: Any, support: Batch, k: int) -> Any:
        return super().step(meta, fast, support, 3 - k)


@pytest.mark.parametrize("planted", [AdaptsTheBody, TakesAllAtOnce, RunsBackwards])
def test_a_planted_inner_loop_of_another_kind_is_seen(planted: type[Any]) -> None:
    with pytest.raises(AssertionError, match="differ"):
        descends_on_the_head_in_order(learner(planted, reset=False))


def test_after_the_last_example_comes_the_first() -> None:
    assert [turn(3, k, 2) for k in range(3)] == [[0, 1], [2, 0], [1, 2]]
    assert turn(2, 1, 5) == [0, 1]


# --- rows that begin anew --------------------------------------------------------------------------------


def heads(one: Any, meta: Meta, episodes: Episode) -> list[Tensor]:
    """The head's weights before the first step, for each task under its key."""
    found = []
    for i in range(len(episodes.support.y)):
        with running_in(key=KEYS[i], training=True):
            found.append(one.begin(meta, take(episodes, i).support)["params"]["3.weight"])
    return found


def known_rows_are_forgotten(one: Any) -> None:
    """What the head knows of a trajectory's classes does not reach it; of all others it does."""
    episodes, meta = trajectories(), meta_of(one)
    moved = meta | {"params": meta["params"] | {"3.weight": meta["params"]["3.weight"] + 1.0}}
    for i, (before, after) in enumerate(
        zip(heads(one, meta, episodes), heads(one, moved, episodes), strict=True)
    ):
        own = torch.zeros(OUTPUTS, dtype=torch.bool)
        own[episodes.support.y[i]] = True
        assert torch.equal(before[own], after[own]), "rows of the trajectory are known already"
        assert torch.equal(before[~own] + 1.0, after[~own]), "other rows are not the learned ones"


def test_rows_of_the_trajectory_begin_anew_and_others_do_not() -> None:
    known_rows_are_forgotten(learner())


def test_planted_rows_that_are_kept_are_seen() -> None:
    with pytest.raises(AssertionError, match="known already"):
        known_rows_are_forgotten(learner(reset=False))


def test_every_task_has_rows_of_its_own_and_biases_stay() -> None:
    one, episode = learner(), trajectories(1)
    twice = Episode(*(Batch(b.x.repeat(2, 1, 1, 1, 1), b.y.repeat(2, 1)) for b in episode))
    meta = meta_of(one)
    first, second = heads(one, meta, twice)
    assert deviation(first, second) > 0.1
    begun = one.begin(meta, take(episode, 0).support)
    assert torch.equal(begun["params"]["3.bias"], meta["params"]["3.bias"])


def test_new_rows_have_the_variance_of_the_official_code() -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(49, 4000), nn.ReLU(), nn.Linear(4000, OUTPUTS)).double()
    one = OML(wide)
    support = take(trajectories(1), 0).support
    rows = one.begin(one.init(torch.Generator()), support)["params"]["3.weight"][support.y.unique()]
    assert float(rows.var()) == pytest.approx(2 / 4000, rel=0.05)


def test_a_task_of_every_class_begins_with_what_was_learned() -> None:
    one = learner()
    x, _ = take(trajectories(1), 0).support
    meta = meta_of(one)
    begun = one.begin(meta, Batch(x.repeat(3, 1, 1, 1), torch.arange(OUTPUTS)))
    assert torch.equal(begun["params"]["3.weight"], meta["params"]["3.weight"])


# --- its gradient ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OML, ANML])
def test_the_gradient_through_new_rows_equals_finite_differences(kind: type[Any]) -> None:
    one = learner(kind)
    gradient_equals_finite_differences(one, meta_of(one), trajectories(2))


@pytest.mark.parametrize("kind", [OML, ANML])
@pytest.mark.parametrize("path", [Unrolled(), Recompute(), Truncated(last=1)], ids=str)
def test_features_computed_once_give_the_same_gradient(kind: type[Any], path: Any) -> None:
    one = learner(kind)
    meta, episodes = meta_of(one), trajectories(2)
    once, _, _ = path.estimate(one, meta, episodes)
    with mock.patch("innerloop.algorithms.head.mode", return_value=mock.Mock(whole=False)):
        each, _, _ = path.estimate(one, meta, episodes)
    close(once, each, 1e-10)


def test_the_body_runs_once_for_all_steps() -> None:
    one, passes, whole = learner(), [], FunctionalModule._pass

    def counted(self: FunctionalModule, *given: Any) -> Tensor:
        passes.append(self)
        return whole(self, *given)

    with mock.patch.object(FunctionalModule, "_pass", counted):
        Unrolled().estimate(one, meta_of(one), trajectories(1), axis="loop")
    assert len(passes) == 2, "the trajectory once, the query once"
