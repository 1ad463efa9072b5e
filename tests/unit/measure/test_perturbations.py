"""What each perturbation does to a task, and what is recorded of it, against closed forms."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import CASES, SIZE, Case
from innerloop.algorithms import MAML, ProtoNet
from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ConfigError
from innerloop.core.mode import running_in
from innerloop.core.rng import fold, task_keys, tensor_keys, uniform
from innerloop.core.types import Batch, Episode, Meta, TaskSpec
from innerloop.core.vectorise import take
from innerloop.diagnose.effects import Effects
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.stability import judge_stability
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.run import evaluate
from innerloop.measure.attack import Attack
from innerloop.measure.perturb import adversarial, inputs, queries, support
from innerloop.measure.perturb.inner import FACTORS, SCALES, safety_factor
from innerloop.measure.perturb.subject import REFERENCE, Perturbation, Subject
from innerloop.measure.perturbations import (
    PERTURBATIONS,
    Stability,
    chosen_perturbations,
    first_block,
    fits,
    names,
)
from innerloop.models import MLP
from innerloop.tasks import Bowls, Linear, Quadratics, Sinusoid

BOWLS = Bowls((0.7, 1.3, 1.9), centre=0.5, spread=2.0)
STEPS = 3


class Pictures:
    """Noisy pictures of a few classes, as a source; task i is the same whatever their number."""

    def __init__(self, shots: int = 2, queries: int = 4, ways: int = 3, side: int = 8) -> None:
        self.shots, self.queries, self.ways, self.side = shots, queries, ways, side

    @property
    def spec(self) -> TaskSpec:
        shape = (1, self.side, self.side)
        return TaskSpec(shape, self.ways, "cross_entropy", "accuracy", self.shots, self.queries)

    def sample(self, split: Any, num_tasks: int, rng: Any) -> Episode:
        each = self.shots + self.queries
        keys, pixels = task_keys(int(rng), num_tasks), self.side**2
        own = uniform(keys, self.ways * pixels).reshape(num_tasks, self.ways, 1, pixels)
        noise = uniform(fold(keys, 1), self.ways * each * pixels).reshape(num_tasks, self.ways, each, pixels)
        x = torch.from_numpy(0.4 * own + 0.6 * noise).float().unflatten(3, (1, self.side, self.side))

        def batch(part: Tensor) -> Batch:
            labels = torch.arange(self.ways).repeat_interleave(part.shape[2]).repeat(num_tasks, 1)
            return Batch(part.flatten(1, 2), labels)

        return Episode(batch(x[:, :, : self.shots]), batch(x[:, :, self.shots :]))

    def resized(self, *, ways: Any = None, shots: Any = None, queries: Any = None) -> Pictures:
        if (shots or 0) > 3:
            raise ConfigError(f"shots = {shots}", expected="at most 3", do="ask for fewer")
        return Pictures(shots or self.shots, queries or self.queries, ways or self.ways, self.side)


def subject_of(
    learner: ModuleLearner, tasks: Any, *, meta: Meta | None = None, count: int = 12, **more: Any
) -> tuple[Subject, FixedEpisodes]:
    chosen = FixedEpisodes("test", count, 0)
    meta = learner.init(torch.Generator().manual_seed(0)) if meta is None else meta
    return Subject(learner, meta, tasks, first_block(chosen, tasks, meta), **more), chosen


def on_bowls(**settings: Any) -> tuple[Subject, FixedEpisodes]:
    given = {"inner_lr": 0.4, "inner_steps": STEPS} | settings
    learner = MAML(MLP(3, 1, hidden=(), bias=False), loss="mse", **given)
    meta = learner.init(torch.Generator().manual_seed(0))
    meta["params"]["head.weight"] = torch.tensor([[1.0, -2.0, 0.3]])
    return subject_of(learner, BOWLS, meta=meta)


def on_pictures(learner: ModuleLearner | None = None, **sizes: int) -> tuple[Subject, FixedEpisodes]:
    return subject_of(
        learner or ProtoNet(Flat(64, None, hidden=(16,)), batch_norm="support"), Pictures(**sizes)
    )


class Flat(MLP):
    """An MLP of flattened pictures."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def rows_of(
    given: tuple[Subject, FixedEpisodes], *only: str, axis: Any = "vmap"
) -> dict[str, dict[str, Any]]:
    """The rows by size, of perturbations that have to apply."""
    rows, skipped = Stability(*given, axis=axis).rows(chosen_perturbations(only), lambda name: None)
    assert not skipped, skipped
    return {row["size"]: row for row in rows}


def one(subject: Subject, i: int = 0) -> Episode:
    return take(subject.example, i)


def key(i: int = 0) -> Tensor:
    return tensor_keys(7, i + 1, torch.device("cpu"))[i]


# --- the inner loop --------------------------------------------------------------------------------------


def bowl_losses(subject: Subject, rate: float, steps: int) -> list[float]:
    theta = subject.meta["params"]["head.weight"][0].double()
    return BOWLS.descent(rate, steps).meta_losses(theta, BOWLS.centres(subject.example)).tolist()


def test_an_inner_rate_that_is_stretched_is_that_rate() -> None:
    given = on_bowls()
    rows = rows_of(given, "inner rate")
    assert [row["amount"] for row in rows.values()] == list(SCALES)
    for scale in SCALES:
        expected = bowl_losses(given[0], 0.4 * scale, STEPS)
        assert rows[f"x {scale:g}"]["loss"] == pytest.approx(expected, rel=2e-4)


def test_more_inner_steps_are_more_of_the_same() -> None:
    given = on_bowls()
    rows = rows_of(given, "inner steps")
    for factor in FACTORS:
        expected = bowl_losses(given[0], 0.4, factor * STEPS)
        row = rows[f"{factor} x {STEPS} = {factor * STEPS}"]
        assert row["loss"] == pytest.approx(expected, rel=2e-4, abs=1e-9)


def test_the_safety_factor_is_two_over_rate_times_curvature() -> None:
    assert safety_factor(on_bowls()[0]) == pytest.approx(2.0 / (0.4 * 1.9), rel=1e-3)
    with pytest.raises(NotEvaluated, match="no inner steps"):
        safety_factor(on_pictures()[0])


def test_the_safety_factor_is_that_of_the_sharpest_task() -> None:
    learner = MAML(MLP(1, 1, hidden=(), bias=False), inner_lr=0.01, inner_steps=1, loss="mse")
    subject, _ = subject_of(learner, Sinusoid())
    sharpest = max(2.0 * float(one(subject, i).support.x.square().mean()) for i in range(5))
    assert safety_factor(subject) == pytest.approx(2.0 / (0.01 * sharpest), rel=1e-3)


@pytest.mark.parametrize(("rate", "severity"), [(0.3, None), (1.0, "error")])
def test_a_rate_at_its_edge_is_brittle_and_a_low_one_is_not(rate: float, severity: str | None) -> None:
    """The largest curvature is 1.9, so that steps diverge above a rate of 1.05."""
    subject, chosen = on_bowls(inner_lr=rate, inner_steps=12)
    measured = Stability(subject, chosen)
    rows, skipped = measured.rows(chosen_perturbations(["inner rate"]), lambda name: None)
    setup = {"metric": "mse", "config": {"algorithm": {"inner_lr": rate}}, "test_inner_steps": 12}
    records = {"setup": setup, "undisturbed": measured.undisturbed(), "rows": rows, "skipped": skipped}
    found = {f.id: f.severity.value for f in judge_stability(Effects(records)).findings}
    assert found == ({} if severity is None else {"BRITTLE_INNER_LR": severity})


# --- the support -----------------------------------------------------------------------------------------


def test_the_score_of_a_metric_learner_does_not_depend_on_the_order_of_the_support() -> None:
    given = on_pictures()
    usual, row = Stability(*given).undisturbed(), rows_of(given, "support order")["shuffled"]
    assert row["score"] == usual["score"]
    assert row["loss"] == pytest.approx(usual["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.network == "mlp"], ids=str)
def test_the_order_matters_to_no_learner_but_those_that_say_so(case: Case) -> None:
    learner, meta, tasks = case.learner(), case.meta(), case.episodes()
    if not learner.ordered and getattr(learner, "inner_batch", None) is not None:
        learner = case.learner(inner_batch=None)  # a minibatch of a shuffled set is another minibatch
    subject = Subject(learner, meta, Sinusoid() if case.regression else Pictures(), tasks)
    episode = one(subject)
    shuffled = support._shuffled(subject, episode, key(), 1.0)
    assert not torch.equal(shuffled.support.x, episode.support.x)
    with torch.no_grad(), running_in(training=False, first_order=True, key=key(), ways=3):
        before, after = (float(subject.judged(given).loss) for given in (episode, shuffled))
    assert (abs(after - before) < 1e-9) == (not learner.ordered), (before, after)


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("i", range(4))
def test_so_many_labels_are_wrong_and_no_class_is_left_empty(number: int, i: int) -> None:
    """Also where as many are wrong as there are classes, of two examples each."""
    y = torch.arange(5).repeat_interleave(2)
    changed = support._relabelled(y, key(i), number)
    assert int((changed != y).sum()) == number
    assert set(y[changed == y].tolist()) == set(range(5))
    assert 0 <= int(changed.min()) <= int(changed.max()) < 5


def test_wrong_labels_are_a_fifth_of_them_or_one() -> None:
    assert list(rows_of(on_pictures(), "support labels")) == ["1 of 6 wrong"]
    assert list(rows_of(on_pictures(shots=5), "support labels")) == ["1 of 15 wrong", "3 of 15 wrong"]


def test_noise_on_targets_is_a_share_of_their_spread() -> None:
    subject, _ = subject_of(MAML(MLP(1, 1), loss="mse"), Sinusoid(shots=4000))
    episode = one(subject)
    moved = support._noisy(subject, episode, key(), 0.3)
    assert torch.equal(moved.support.x, episode.support.x)
    noise = (moved.support.y - episode.support.y).std()
    assert float(noise / episode.support.y.std()) == pytest.approx(0.3, rel=0.05)


def test_an_outlying_target_is_one_and_three_spreads_off() -> None:
    subject, _ = subject_of(MAML(MLP(1, 1), loss="mse"), Sinusoid())
    episode = one(subject)
    seen = {}

    def judged(episode: Episode) -> Any:
        seen["episode"] = episode

    object.__setattr__(subject, "judged", judged)
    support._one_outlier(subject, episode, key(), {"far": 3.0})
    moved = (seen["episode"].support.y - episode.support.y).abs()
    spread = torch.cat([episode.support.y, episode.query.y]).std(correction=0)
    assert sorted(moved[:, 0].tolist())[-1] == pytest.approx(3.0 * float(spread), rel=1e-5)
    assert int((moved > 0).sum()) == 1


def test_an_outlier_is_of_another_class_and_is_no_longer_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, _ = on_pictures()
    for i in range(6):
        episode, seen = one(subject, i), []
        after = Subject.after
        monkeypatch.setattr(
            Subject,
            "after",
            lambda self, given, seen=seen, after=after, **s: (seen.append(given), after(self, given))[1],
        )
        with running_in(ways=3):
            found = support._one_outlier(subject, episode, key(i), {"one": 1})
        monkeypatch.undo()
        changed = seen[0].support
        (place,) = (changed.x != episode.support.x).flatten(1).any(1).nonzero()[:, 0].tolist()
        assert torch.equal(changed.y, episode.support.y)
        source = [j for j, x in enumerate(episode.query.x) if torch.equal(x, changed.x[place])]
        assert len(source) == 1
        assert episode.query.y[source[0]] != episode.support.y[place]
        # 11 of the 12 queries are judged, the same ones both times
        right = float(found[REFERENCE].score) * 11
        assert right == pytest.approx(round(right), abs=1e-4)


# --- queries and inputs ----------------------------------------------------------------------------------


def test_queries_alone_are_predicted_as_beside_others_unless_the_learner_is_transductive() -> None:
    """BatchNorm that normalises queries by themselves suffers where all of them are of one class."""
    for policy, differs in (("support", False), ("transductive", True)):
        network = Flat(64, None, hidden=(16,), batch_norm=True)
        given = on_pictures(ProtoNet(network, batch_norm=policy))
        row = rows_of(given, "query balance")["all of one class"]
        assert len(row["score"]) == len(row["reference"]["score"])
        assert (row["score"] != row["reference"]["score"]) == differs
        assert (row["loss"] != pytest.approx(row["reference"]["loss"], rel=1e-5)) == differs


def test_queries_of_one_class_are_that() -> None:
    subject, _ = on_pictures()
    seen = []
    object.__setattr__(subject, "judge", lambda outputs, y: seen.append(y))
    classes = set()
    for i in range(12):
        seen.clear()
        with running_in(ways=3):
            queries._of_one_class(subject, one(subject), key(i), {"all of one class": 4})
        assert [len(y) for y in seen] == [4, 4]
        (label,) = set(torch.cat(seen).tolist())
        classes.add(label)
    assert classes == {0, 1, 2}


def test_corruptions_are_as_large_as_they_say() -> None:
    subject, _ = on_pictures()
    x = one(subject).query.x
    noise = inputs.noise(subject, torch.full((400, 1, 8, 8), 0.5), key()) - 0.5
    assert float(noise.std()) == pytest.approx(0.3 * subject.spread, rel=0.03)
    assert float(inputs.noise(subject, x, key()).min()) >= 0.0  # pictures stay pictures
    flat = torch.full((2, 1, 8, 8), 0.25)
    torch.testing.assert_close(inputs.blur(subject, flat, key()), flat)
    assert inputs.blur(subject, x, key()).std() < x.std()
    covered = inputs.occlusion(subject, x, key()) != x
    assert covered.flatten(1).sum(1).tolist() == [16] * len(x)  # a quarter of 64 pixels
    assert len({tuple(c.flatten().tolist()) for c in covered}) > 1  # not at the same place
    torch.testing.assert_close(inputs.inversion(subject, x, key()), 1.0 - x)
    assert torch.equal(inputs.turned(subject, x, key())[0, 0, 0], x[0, 0, :, -1])


def test_a_corruption_leaves_the_other_half_of_the_task_alone() -> None:
    subject, _ = on_pictures()
    episode = one(subject)
    of_queries = inputs._of_queries(subject, episode, key(), inputs.inversion)
    of_supports = inputs._of_supports(subject, episode, key(), inputs.inversion)
    both = inputs._transformed(subject, episode, key(), inputs.inversion)
    changes = [
        [not torch.equal(a.x, b.x) for a, b in zip(changed, episode, strict=True)]
        for changed in (of_queries, of_supports, both)
    ]
    assert changes == [[False, True], [True, False], [True, True]]


def test_an_attack_does_harm_and_nothing_else_is_moved() -> None:
    given = on_pictures()
    usual = Stability(*given).undisturbed()["loss"]
    for name in ("adversarial queries", "adversarial supports"):
        (row,) = rows_of(given, name).values()
        assert all(worse >= clean for worse, clean in zip(row["loss"], usual, strict=True))
        assert sum(row["loss"]) > sum(usual)


def test_attacks_are_as_strong_as_they_say() -> None:
    subject, _ = on_pictures()
    assert adversarial._sizes(subject) == {"8/255 in each pixel": 8 / 255}
    assert adversarial._attack(subject, 8 / 255) == Attack(8 / 255, steps=20, bounds=(0.0, 1.0))
    other, _ = on_bowls()
    (radius,) = adversarial._sizes(other).values()
    assert radius == pytest.approx(0.1 * float(other.example.support.x.std(correction=0)), rel=1e-5)
    assert adversarial._attack(other, radius).bounds is None


def test_supports_are_attacked_through_the_inner_loop() -> None:
    """Before any step the support has no say, and an attack would leave it as it is."""
    given = on_bowls()
    (row,) = rows_of(given, "adversarial supports").values()
    clean = Stability(*given).undisturbed()["loss"]
    assert all(worse > 1.001 * usual for worse, usual in zip(row["loss"], clean, strict=True))


# --- other tasks -----------------------------------------------------------------------------------------


def test_other_shots_and_ways_are_other_tasks_with_their_own_guess() -> None:
    given = on_pictures()
    rows = rows_of(given, "ways")
    assert [(row["ways"], row["tasks"]) for row in rows.values()] == [(2, "other"), (6, "other")]
    assert rows["6 ways"]["trivial"] == pytest.approx([1 / 6] * 12)
    shots = rows_of(given, "shots")  # four are more than there are
    assert [(row["shots"], len(row["score"])) for row in shots.values()] == [(1, 12)]


def test_training_tasks_that_keep_their_size_are_not_judged_as_others() -> None:
    learner = MAML(MLP(1, 1), loss="mse")
    chosen, tasks = FixedEpisodes("train", 12, 0), Sinusoid(shots=4)
    meta = learner.init(torch.Generator().manual_seed(0))
    subject = Subject(learner, meta, tasks, first_block(chosen, tasks, meta), "train")
    _, skipped = Stability(subject, chosen).rows(chosen_perturbations(["shots"]), lambda name: None)
    assert "keep their number of shots" in skipped[0]["reason"]


def test_an_unfamiliar_source_is_judged_as_it_is() -> None:
    learner = MAML(MLP(1, 1), inner_lr=0.01, inner_steps=1, loss="mse")
    given = subject_of(learner, Sinusoid(), others={"lines": Linear()})
    (row,) = rows_of(given, "unfamiliar tasks").values()
    direct = evaluate(learner, given[0].meta, Linear(), given[1], curve=False)
    assert row["score"] == pytest.approx(direct.scores, rel=1e-5)
    fits(given[0], Linear())
    with pytest.raises(ConfigError, match="input_shape"):
        fits(given[0], Quadratics(10))


# --- all of them -----------------------------------------------------------------------------------------


def test_the_undisturbed_score_is_that_of_an_evaluation() -> None:
    for subject, chosen in (on_bowls(), on_pictures()):
        direct = evaluate(subject.learner, subject.meta, subject.tasks, chosen, curve=False)
        assert Stability(subject, chosen).undisturbed()["score"] == pytest.approx(direct.scores, rel=1e-5)


def test_outputs_that_are_no_numbers_score_nothing() -> None:
    subject, _ = on_pictures()
    outputs, y = torch.tensor([[1.0, 0.0, 0.0], [torch.nan, 0.0, 0.0]]), torch.tensor([0, 0])
    assert torch.isnan(subject.judge(outputs, y).score)
    assert float(subject.judge(outputs[:1], y[:1]).score) == 1.0
    rows = rows_of(on_bowls(inner_lr=1e30), "inner rate")
    assert set(rows["x 3"]["score"]) == {None}


@pytest.mark.parametrize("make", [on_bowls, on_pictures])
def test_tasks_one_by_one_are_as_tasks_at_once(make: Any) -> None:
    """Under `vmap` and in a loop the same numbers are drawn."""
    given = make()
    found = [Stability(*given, axis=axis).rows(PERTURBATIONS, lambda name: None) for axis in ("vmap", "loop")]
    assert found[0][1] == found[1][1]
    for fast, slow in zip(found[0][0], found[1][0], strict=True):
        assert fast["size"] == slow["size"]
        assert fast["loss"] == pytest.approx(slow["loss"], rel=2e-3, abs=1e-5), fast["size"]


def test_fewer_tasks_are_the_first_of_more() -> None:
    subject, _ = on_pictures()
    few, many = (
        rows_of((subject, FixedEpisodes("test", count, 0)), "support outlier", "query inputs")
        for count in (5, 12)
    )
    for size, row in few.items():
        assert row["loss"] == pytest.approx(many[size]["loss"][:5], rel=1e-5)


def test_tasks_and_perturbations_draw_numbers_of_their_own() -> None:
    seen: dict[str, list[int]] = {"a": [], "b": []}

    def drawing(name: str) -> Perturbation:
        def run(subject: Subject, episode: Episode, key: Tensor, sizes: Any) -> dict[str, Any]:
            seen[name].append(int(key))
            return {"one": subject.judged(episode)}

        return Perturbation(name, "draws", lambda subject: {"one": 1}, run)

    Stability(*on_pictures(), axis="loop").rows([drawing("a"), drawing("b")], lambda name: None)
    assert len({*seen["a"], *seen["b"]}) == 24


def test_costly_ones_are_asked_of_fewer_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, _ = on_pictures()
    costly = next(p for p in PERTURBATIONS if p.name == "adversarial queries")
    assert costly.most == 50
    object.__setattr__(costly, "most", 3)
    try:
        (row,) = rows_of((subject, FixedEpisodes("test", 12, 0)), costly.name).values()
    finally:
        object.__setattr__(costly, "most", 50)
    assert len(row["score"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("case", [c for c in CASES if c.network == "mlp"], ids=str)
def test_every_perturbation_of_every_learner_is_measured_or_says_why_not(case: Case) -> None:
    tasks = Sinusoid(shots=4, queries=6) if case.regression else Pictures(side=SIZE)
    subject, chosen = subject_of(case.learner(), tasks, count=2)
    rows, skipped = Stability(subject, chosen, axis="vmap").rows(PERTURBATIONS, lambda name: None)
    assert {row["name"] for row in rows} | {row["name"] for row in skipped} == set(names())
    assert all(len(row["score"]) == 2 for row in rows)
    for told in skipped:
        assert "Error" not in told["reason"], told
    json.dumps(rows, allow_nan=False)


def test_a_learner_that_cannot_be_attacked_still_has_its_other_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any, **more: Any) -> Any:
        raise RuntimeError("no derivative\nof this")

    monkeypatch.setattr("innerloop.measure.perturb.adversarial.attacked_queries", broken)
    only = chosen_perturbations(["adversarial queries", "support order"])
    rows, skipped = Stability(*on_pictures()).rows(only, lambda name: None)
    assert [row["name"] for row in rows] == ["support order"]
    assert skipped == [{"name": "adversarial queries", "reason": "RuntimeError: no derivative"}]


def test_a_perturbation_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="inner rate"):
        chosen_perturbations(["iner rate"])


def test_names_are_different() -> None:
    assert len(set(names())) == len(names())
    assert all(p.about for p in PERTURBATIONS)
