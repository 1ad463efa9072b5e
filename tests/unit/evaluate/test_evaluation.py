"""Evaluation: the same episodes for all, honest numbers for tasks that diverge, known answers."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import CASES, Case
from innerloop.algorithms import MAML, ProtoNet
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.learner import states
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import Rng
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.evaluate.baselines import nearest_neighbour, nearest_target, support_mean, untrained_centroid
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import Evaluation, evaluate
from innerloop.evaluate.statistics import median, paired_difference, summarise
from innerloop.models import MLP, Conv4
from innerloop.tasks import Arrays, Sinusoid

INF, NAN = math.inf, math.nan


def strokes() -> Arrays:
    return Arrays.tiny()


def small(source: Any, **settings: Any) -> tuple[Any, Meta]:
    if source.spec.loss == "mse":
        learner: Any = MAML(MLP(1, 1, hidden=(8,)), inner_lr=0.02, inner_steps=2, loss="mse", **settings)
    else:
        learner = MAML(Conv4(source.spec.outputs, width=4), inner_lr=0.2, inner_steps=2, **settings)
    return learner, learner.init(torch.Generator().manual_seed(0))


# --- statistics ------------------------------------------------------------------------------------------


def test_the_interval_is_the_known_one() -> None:
    found = summarise([1.0, 2.0, 3.0, 4.0])
    assert (found.mean, found.n) == (2.5, 4)
    assert found.ci95 == pytest.approx(1.96 * math.sqrt(5 / 3) / 2)
    assert summarise([0.5] * 10).ci95 == 0.0


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    drawn = torch.randn(2000, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covered = [abs(s.mean) <= s.ci95 for s in map(summarise, drawn.tolist())]
    assert 0.92 < sum(covered) / len(covered) < 0.96  # a little less than 0.95: normal, not Student


def test_one_task_has_no_interval() -> None:
    assert math.isnan(summarise([1.0]).ci95)


def test_infinite_scores_make_an_infinite_mean_and_a_finite_median() -> None:
    assert summarise([1.0, INF, 2.0]).mean == INF
    assert math.isnan(summarise([1.0, INF]).ci95)
    assert median([1.0, INF, 2.0]) == 2.0
    assert median([1.0, NAN, 2.0]) == 2.0


def test_a_paired_difference_is_narrower_than_either_score() -> None:
    ours, theirs = [0.1, 0.5, 0.9, 0.3], [0.0, 0.4, 0.8, 0.1]
    found = paired_difference(ours, theirs)
    assert found.mean == pytest.approx(0.125)
    assert found.ci95 < summarise(ours).ci95 / 5
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1.0], [1.0, 2.0])


# --- episodes --------------------------------------------------------------------------------------------


def same(a: Episode, b: Episode) -> bool:
    return all(torch.equal(t, u) for x, y in zip(a, b, strict=True) for t, u in zip(x, y, strict=True))


def stacked(chosen: FixedEpisodes, source: Any) -> tuple[Episode, Tensor]:
    blocks = list(chosen.blocks(source))
    parts = [[episode[which] for episode, _ in blocks] for which in (0, 1)]
    joined = [Batch(torch.cat([b.x for b in part]), torch.cat([b.y for b in part])) for part in parts]
    return Episode(*joined), torch.cat([keys for _, keys in blocks])


@pytest.mark.parametrize("source", [Sinusoid.tiny(), strokes()], ids=lambda s: type(s).__name__)
def test_fewer_episodes_are_the_first_of_more(source: Any) -> None:
    few, few_keys = stacked(FixedEpisodes("test", 7, 3), source)
    many, many_keys = stacked(FixedEpisodes("test", 60, 3), source)
    assert same(few, take(many, slice(0, 7)))
    assert torch.equal(few_keys, many_keys[:7])
    assert len(set(many_keys.tolist())) == 60
    assert len({float(x.sum()) for x in many.support.x}) == 60


@pytest.mark.parametrize("source", [Sinusoid.tiny(), strokes()], ids=lambda s: type(s).__name__)
def test_the_same_seed_and_split_name_the_same_episodes(source: Any) -> None:
    first = stacked(FixedEpisodes("test", 30, 3), source)[0]
    assert same(first, stacked(FixedEpisodes("test", 30, 3), source)[0])
    assert not same(first, stacked(FixedEpisodes("test", 30, 4), source)[0])
    assert not same(first, stacked(FixedEpisodes("val", 30, 3), source)[0])


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"seed": -1}, {"split": "dev"}])
def test_episodes_that_do_not_exist_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FixedEpisodes(**wrong)


def test_scores_do_not_depend_on_how_many_episodes_there_are() -> None:
    source = strokes()
    learner, meta = small(source)
    few, many = (evaluate(learner, meta, source, FixedEpisodes("test", n)) for n in (6, 40))
    assert few.curve == many.curve[:6]


@pytest.mark.parametrize("axis", ["loop", "vmap", 4])
def test_scores_do_not_depend_on_how_tasks_are_lifted(axis: Any) -> None:
    source = Sinusoid.tiny()
    learner, meta = small(source)
    expected = evaluate(learner, meta, source, FixedEpisodes("test", 9), untrained=meta)
    found = evaluate(learner, meta, source, FixedEpisodes("test", 9), untrained=meta, tasks_axis=axis)
    torch.testing.assert_close(torch.tensor(found.curve), torch.tensor(expected.curve))
    assert found.baselines.keys() == expected.baselines.keys()


@pytest.mark.slow
def test_every_algorithm_is_evaluated(subtests_of_cases: list[Case]) -> None:
    for case in subtests_of_cases:
        source = Sinusoid.tiny() if case.regression else Arrays.tiny()
        spec, taken = source.spec, inspect.signature(case.kind).parameters
        known = {"loss": spec.loss, "ways": spec.outputs, "targets": spec.outputs, "classes": 9}
        settings = {name: value for name, value in known.items() if name in taken}
        inputs, width = 1 + case.kind.more_inputs(settings), None if case.kind.embeds else spec.outputs
        module = MLP(inputs, width) if case.regression else Conv4(width, width=4)
        learner = case.kind(module, **settings)
        meta = learner.init(torch.Generator().manual_seed(0))
        found = evaluate(learner, meta, source, FixedEpisodes("test", 5), untrained=meta)
        assert len(found.scores) == 5
        json.dumps(found.to_dict(records=True), allow_nan=False)


@pytest.fixture
def subtests_of_cases() -> list[Case]:
    return [case for case in CASES if case.network != "group" and case.batch_norm == "support"]


# --- tasks that diverge ----------------------------------------------------------------------------------


class Spoiled:
    """A source whose test tasks have NaN inputs at some places."""

    def __init__(self, inner: Any, which: list[int], value: float = NAN) -> None:
        self.inner, self.which, self.value = inner, which, value
        self.spec = inner.spec

    def sample(self, split: Any, num_tasks: int, rng: Rng) -> Episode:
        episodes = self.inner.sample(split, num_tasks, rng)
        x = episodes.support.x.clone()
        x[[i for i in self.which if i < num_tasks]] = self.value
        return episodes._replace(support=Batch(x, episodes.support.y))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_a_diverged_task_counts_as_all_wrong() -> None:
    source: Any = Spoiled(strokes(), [1, 3])
    learner, meta = small(source)
    found = evaluate(learner, meta, source, FixedEpisodes("test", 5), untrained=meta)
    good = evaluate(learner, meta, strokes(), FixedEpisodes("test", 5))
    assert found.diverged == 2
    assert [found.scores[i] for i in (1, 3)] == [0.0, 0.0]
    assert [found.scores[i] for i in (0, 2, 4)] == [good.scores[i] for i in (0, 2, 4)]
    assert "2 diverged" in str(found)


def test_a_diverged_regression_is_infinite_in_the_mean_and_not_in_the_median() -> None:
    source: Any = Spoiled(Sinusoid.tiny(), [0])
    learner, meta = small(source)
    found = evaluate(learner, meta, source, FixedEpisodes("test", 5), untrained=meta)
    assert found.scores[0] == INF
    assert found.summary.mean == INF
    row = json.loads(json.dumps(found.to_dict(records=True), allow_nan=False))
    assert row["mean"] is None
    assert row["diverged"] == 1
    assert math.isfinite(row["median"])
    assert row["records"][0]["scores"][-1] is None
    assert row["baselines"]["support_mean"]["difference"] is None


def test_an_inner_loop_that_explodes_does_not_score_by_the_argmax_of_nan() -> None:
    source = strokes()
    learner, meta = small(source, batch_norm="transductive")
    exploding = MAML(nn.Sequential(nn.Flatten(), nn.Linear(784, 3)), inner_lr=1e38, inner_steps=4)
    found = evaluate(exploding, exploding.init(torch.Generator()), source, FixedEpisodes("test", 4))
    assert found.diverged == 4
    assert found.summary.mean == 0.0
    assert evaluate(learner, meta, source, FixedEpisodes("test", 4)).protocol["transductive"] is True


# --- what is reported ------------------------------------------------------------------------------------


def test_the_curve_starts_at_no_adaptation_and_ends_at_the_score() -> None:
    source = Sinusoid.tiny()
    learner, meta = small(source)
    found = evaluate(learner, meta, source, FixedEpisodes("test", 6), inner_steps=3, untrained=meta)
    assert found.at == [0, 1, 2, 3]
    assert found.baselines["no_adaptation"] == [task[0] for task in found.curve]
    assert found.scores == [task[-1] for task in found.curve]
    for steps in (0, 1, 3):
        again = evaluate(learner, meta, source, FixedEpisodes("test", 6), inner_steps=steps)
        torch.testing.assert_close(
            torch.tensor(again.scores), torch.tensor([task[steps] for task in found.curve])
        )
    assert found.harmed() == sum(task[-1] > task[0] for task in found.curve)


def test_to_dict_holds_what_issue_readers_rely_on() -> None:
    source = strokes()
    learner, meta = small(source)
    row = evaluate(learner, meta, source, FixedEpisodes("test", 6), untrained=meta).to_dict(records=True)
    assert {"metric", "mean", "ci95", "n", "batch_norm", "baselines"} <= row.keys()
    assert (row["metric"], row["n"], row["batch_norm"], row["ways"]) == ("accuracy", 6, "support", 3)
    assert set(row["baselines"]) == {"no_adaptation", "nearest_neighbour", "untrained_centroid"}
    assert all(
        {"mean", "ci95", "difference", "difference_ci95"} == b.keys() for b in row["baselines"].values()
    )
    assert [step["inner_steps"] for step in row["adaptation"]] == [0, 1, 2]
    assert row["adaptation"][-1]["mean"] == row["mean"]
    means = {name: sum(r["baselines"][name] for r in row["records"]) / 6 for name in row["baselines"]}
    for name, baseline in row["baselines"].items():
        assert baseline["mean"] == pytest.approx(means[name], abs=1e-6)
        assert baseline["difference"] == pytest.approx(row["mean"] - means[name], abs=1e-5)
    assert Evaluation("mse", [[2.0, 1.0]], [0, 1], {}).better(1.0, 2.0)


# --- baselines -------------------------------------------------------------------------------------------


def episode() -> Episode:
    support = Batch(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([2, 0, 1]))
    query = Batch(torch.tensor([[5.0, 1.0], [0.1, 0.2], [-9.0, 3.0]]), torch.tensor([2, 0, 1]))
    return Episode(support, query)


def test_nearest_neighbour_is_by_direction_on_raw_inputs() -> None:
    assert nearest_neighbour(4)(episode()).argmax(1).tolist() == [2, 0, 1]
    assert nearest_neighbour(4)(episode()).shape == (3, 4)


def test_nearest_target_and_mean_of_the_support_are_known() -> None:
    support = Batch(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [3.0]]))
    query = Batch(torch.tensor([[1.0], [3.9], [-7.0]]), torch.zeros(3, 1))
    assert nearest_target(Episode(support, query)).flatten().tolist() == [1.0, 3.0, 1.0]
    assert support_mean(Episode(support, query)).flatten().tolist() == [2.0, 2.0, 2.0]


def test_the_untrained_centroid_classifies_by_features_of_the_network() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))  # pyright: ignore
    outputs = untrained_centroid(3, net, {n: p.detach() for n, p in net.named_parameters()})(episode())
    expected = -(episode().query.x[:, None] - episode().support.x[None]).square().sum(-1)[:, [1, 2, 0]]
    torch.testing.assert_close(outputs, expected)


def test_baselines_are_judged_on_the_same_episodes() -> None:
    source = strokes()
    learner, meta = small(source)
    found = evaluate(learner, meta, source, FixedEpisodes("test", 30, 2), untrained=meta)
    tasks, _ = stacked(FixedEpisodes("test", 30, 2), source)
    by_hand = [
        float((nearest_neighbour(3)(take(tasks, i)).argmax(1) == tasks.query.y[i]).float().mean())
        for i in range(30)
    ]
    assert found.baselines["nearest_neighbour"] == pytest.approx(by_hand)


def test_a_learner_that_embeds_guesses_without_support() -> None:
    source = strokes()
    learner = ProtoNet(Conv4(None, width=4))
    meta = learner.init(torch.Generator().manual_seed(0))
    found = evaluate(learner, meta, source, FixedEpisodes("test", 4), untrained=meta)
    assert found.baselines["no_adaptation"] == [1 / 3] * 4
    assert len(tree.leaves(meta)) > 0


# --- several states at once ------------------------------------------------------------------------------


def test_predictions_from_several_states_are_those_from_each(case: Case) -> None:
    learner, meta, episode = case.learner(), case.meta(), take(case.episodes(1), 0)
    with torch.no_grad(), running_in(ways=count_ways(episode.support.y), first_order=True):
        reached = list(states(learner, meta, episode.support, learner.test_inner_steps))
        together = learner.predict_each(meta, iter(reached), episode.query.x)
        for fast, outputs in zip(reached, together, strict=True):
            torch.testing.assert_close(
                outputs, learner.predict(meta, fast, episode.query.x), rtol=0, atol=1e-12
            )
