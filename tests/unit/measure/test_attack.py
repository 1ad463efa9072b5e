"""Attacked inputs are the worst of their ball where that is known, stay in it, and repeat; bugs are found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from cases import CASES, Case
from innerloop.algorithms import FOMAML, MAML
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.learner import adapt
from innerloop.core.losses import loss_value
from innerloop.core.mode import running_in
from innerloop.core.rng import tensor_keys
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import TasksAxis, num_tasks, over_tasks, take
from innerloop.measure import attack as module
from innerloop.measure.attack import Attack, attacked_queries, attacked_supports, bounds_of
from innerloop.measure.randomness import random_states
from innerloop.models import MLP

CPU = torch.device("cpu")
SMALL = Attack(epsilon=0.05, steps=3)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def queries_of(
    learner: Any, meta: Meta, episodes: Episode, attack: Attack = SMALL, *, axis: TasksAxis = "vmap", key=5
) -> Tensor:
    """The attacked queries of stacked tasks [T, Q, ...], as in training."""

    def one_task(episode: Episode, key: Tensor, own: Tensor) -> Tensor:
        with running_in(training=True, first_order=True, key=own):
            fast = adapt(learner, meta, episode.support, learner.inner_steps)
            return attacked_queries(learner, meta, fast, episode.query, attack, key).x

    return _lifted(one_task, episodes, axis, key)


def supports_of(
    learner: Any, meta: Meta, episodes: Episode, attack: Attack = SMALL, *, axis: TasksAxis = "vmap", key=5
) -> Tensor:
    """The attacked supports of stacked tasks [T, S, ...], as in training."""

    def one_task(episode: Episode, key: Tensor, own: Tensor) -> Tensor:
        with running_in(training=True, first_order=True, key=own):
            return attacked_supports(learner, meta, episode, attack, key).support.x

    return _lifted(one_task, episodes, axis, key)


def _lifted(one_task: Callable[..., Tensor], episodes: Episode, axis: TasksAxis, key: int) -> Tensor:
    count, classes = num_tasks(episodes), not episodes.support.y.is_floating_point()
    ways = int(episodes.support.y.max()) + 1 if classes else None
    with torch.no_grad(), running_in(ways=ways):
        return over_tasks(
            one_task, episodes, tensor_keys(key, count, CPU), tensor_keys(9, count, CPU), axis=axis
        )


# --- known answers ---------------------------------------------------------------------------------------


def logistic() -> tuple[MAML, Meta, Episode]:
    """Two classes and a linear model, whose loss is convex in the inputs; four tasks."""
    learner = MAML(MLP(6, 2, hidden=()), inner_lr=0.3, inner_steps=2)
    meta = tree.map(torch.Tensor.double, learner.init(torch.Generator().manual_seed(0)))
    labels = torch.tensor([0, 1, 1, 0, 1]).repeat(4, 1)
    return (
        learner,
        meta,
        Episode(Batch(normal(4, 5, 6, seed=1), labels), Batch(normal(4, 5, 6, seed=2), labels)),
    )


def queries_are_the_worst_of_a_linear_model() -> None:
    """The loss grows along w_other - w_label, so the worst input is x + epsilon times its sign."""
    learner, meta, episodes = logistic()
    found = queries_of(learner, meta, episodes, Attack(0.2))
    for i in range(4):
        fast = adapt(learner, meta, take(episodes, i).support, 2)
        weight, labels = fast["params"]["head.weight"], episodes.query.y[i]
        worst = episodes.query.x[i] + 0.2 * (weight[1 - labels] - weight[labels]).sign()
        torch.testing.assert_close(found[i], worst, rtol=0, atol=1e-6)


def regression() -> tuple[MAML, Meta, Episode]:
    """One inner step from zero on a linear model: phi = (2 lr / S) sum_i y_i x_i; a single query each."""
    learner = MAML(MLP(4, 1, hidden=(), bias=False), inner_lr=0.1, inner_steps=1, loss="mse")
    meta: Meta = {"params": {"head.weight": torch.zeros(1, 4, dtype=torch.float64)}}
    support = Batch(normal(3, 5, 4, seed=3), normal(3, 5, 1, seed=4))
    return (
        learner,
        meta,
        Episode(support, Batch(normal(3, 1, 4, seed=5), 10.0 * normal(3, 1, 1, seed=6).sign())),
    )


def supports_are_the_worst_of_a_linear_model(kind: type[Any] = MAML) -> None:
    """The query's residual r is linear in the supports, so the worst is x_i + epsilon sign(r y_i x_query)."""
    _, meta, episodes = regression()
    learner = kind(MLP(4, 1, hidden=(), bias=False), inner_lr=0.1, inner_steps=1, loss="mse")
    found = supports_of(learner, meta, episodes, Attack(0.3))
    (x, y), query = episodes.support, episodes.query
    phi = 0.2 / 5 * (y * x).sum(1, keepdim=True)
    residual = (phi * query.x).sum(-1, keepdim=True) - query.y
    assert bool((residual.abs() > 5.0).all())  # its sign is the same all over the ball
    torch.testing.assert_close(found, x + 0.3 * (residual * y * query.x).sign(), rtol=0, atol=1e-6)


def inputs_stay_in_the_ball_and_in_bounds() -> None:
    case = Case("ProtoNet", "batch", "support")
    episodes = _shaded(case.episodes())
    bounds = (0.0, 1.0)
    for epsilon, step_size in ((0.1, None), (0.1, 1.0), (0.7, None)):
        attack = Attack(epsilon, steps=4, step_size=step_size, bounds=bounds)
        found = queries_of(case.learner(), case.meta(), episodes, attack)
        gone = (found - episodes.query.x).abs()
        assert float(gone.max()) <= epsilon + 1e-12
        assert float(gone.max()) > 0.9 * min(epsilon, 1.0)
        assert float(found.min()) >= 0.0
        assert float(found.max()) <= 1.0
        beyond = queries_of(case.learner(), case.meta(), episodes, Attack(epsilon, steps=4))
        assert float(beyond.min()) < 0.0
        assert float(beyond.max()) > 1.0


def test_queries_are_the_worst_of_a_linear_model() -> None:
    queries_are_the_worst_of_a_linear_model()


@pytest.mark.parametrize("kind", [MAML, FOMAML])
def test_supports_are_the_worst_of_a_linear_model(kind: type[Any]) -> None:
    supports_are_the_worst_of_a_linear_model(kind)


def test_inputs_stay_in_the_ball_and_in_bounds() -> None:
    inputs_stay_in_the_ball_and_in_bounds()


def test_a_learner_that_is_sure_is_attacked_as_well() -> None:
    a_learner_that_is_sure_is_attacked_as_well()


def test_no_loss_of_a_convex_problem_is_below_that_of_the_clean_query() -> None:
    learner, meta, episodes = logistic()
    for steps in (1, 2, 7, 20):
        found = queries_of(learner, meta, episodes, Attack(0.1, steps=steps))
        for i in range(4):
            fast = adapt(learner, meta, take(episodes, i).support, 2)
            outputs = [learner.predict(meta, fast, x) for x in (episodes.query.x[i], found[i])]
            clean, attacked = (loss_value("cross_entropy", o, episodes.query.y[i]) for o in outputs)
            assert attacked > clean


def a_learner_that_is_sure_is_attacked_as_well() -> None:
    """Where the softmax of float32 is one exactly, the cross-entropy has a wrong derivative, or none."""
    _, meta, episodes = logistic()
    learner = MAML(MLP(6, 2, hidden=()), inner_steps=0)
    sure = {"params": {name: (leaf * 1e3).float() for name, leaf in meta["params"].items()}}
    single = Episode(*(Batch(batch.x.float(), batch.y) for batch in episodes))
    weight = meta["params"]["head.weight"]
    labels = (episodes.query.x @ (weight[1] - weight[0]) > 0).long()  # all of them right, and sure
    known = single._replace(query=Batch(single.query.x, labels))
    found = queries_of(learner, sure, known, Attack(0.2))
    worst = episodes.query.x + 0.2 * (weight[1 - labels] - weight[labels]).sign()
    torch.testing.assert_close(found, worst.float(), rtol=0, atol=1e-6)


def test_the_loss_that_supports_raise_is_the_cross_entropy() -> None:
    outputs, labels = 3.0 * normal(5, 3, seed=7), torch.tensor([0, 1, 2, 1, 0])
    odds = module._odds(outputs, labels)
    assert float(softplus(odds).mean()) == pytest.approx(float(cross_entropy(outputs, labels)), abs=1e-12)
    chances = outputs.softmax(-1)[range(5), labels]
    torch.testing.assert_close(odds, torch.log((1 - chances) / chances))


def no_attack_helps_the_learner() -> None:
    """Asked where ascent from a random place ends in a local maximum below the clean loss."""
    case = Case("CAVIA", "mlp")
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    for epsilon in (0.02, 0.2):
        found = supports_of(learner, meta, episodes, Attack(epsilon, steps=7), axis="loop")
        for i in range(num_tasks(episodes)):
            outputs = []
            for x in (episodes.support.x[i], found[i]):
                fast = adapt(learner, meta, Batch(x, episodes.support.y[i]), learner.inner_steps)
                outputs.append(learner.predict(meta, fast, episodes.query.x[i]))
            clean, attacked = (loss_value("mse", o, episodes.query.y[i]) for o in outputs)
            assert attacked >= clean


def test_no_attack_helps_the_learner() -> None:
    no_attack_helps_the_learner()


# --- plants: what the questions above must find ----------------------------------------------------------


def flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descends where it should ascend."""
    usual = module._derivative
    monkeypatch.setattr(module, "_derivative", lambda loss, x: (-usual(loss, x)[0], usual(loss, x)[1]))


def unprojected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps on without a ball."""
    monkeypatch.setattr(torch.Tensor, "clamp", lambda self, low, high: self)


def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the inner gradient for a constant, so that no derivative reaches the support."""
    usual = module.running_in
    monkeypatch.setattr(module, "running_in", lambda first_order: usual(first_order=True))


def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets the bounds."""
    monkeypatch.setattr(torch.Tensor, "clamp_min", lambda self, low: self)


def saturated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ascends the cross-entropy as it is."""
    monkeypatch.setattr(module, "_odds", lambda outputs, y: cross_entropy(outputs, y, reduction="none"))


def last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the last place for the worst."""
    monkeypatch.setattr(module, "_larger", lambda value, x, largest, worst: (x, value))


PLANTS = {
    "last": (last, no_attack_helps_the_learner),
    "saturated": (saturated, a_learner_that_is_sure_is_attacked_as_well),
    "flipped, queries": (flipped, queries_are_the_worst_of_a_linear_model),
    "flipped, supports": (flipped, supports_are_the_worst_of_a_linear_model),
    "unprojected, queries": (unprojected, queries_are_the_worst_of_a_linear_model),
    "unprojected, ball": (unprojected, inputs_stay_in_the_ball_and_in_bounds),
    "cut, supports": (cut, supports_are_the_worst_of_a_linear_model),
    "unbounded": (unbounded, inputs_stay_in_the_ball_and_in_bounds),
}


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_bug_turns_a_question_red(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, question = PLANTS[name]
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        question()


# --- every learner, lifted or not ------------------------------------------------------------------------

_FEW = ("MAML-batch-support", "MAML-batch-running", "ANIL-mlp-support", "ProtoNet-batch-transductive")
QUICK = [case for case in CASES if str(case) in _FEW]
OTHERS = [case for case in CASES if case not in QUICK]


@pytest.mark.parametrize("attacked", [queries_of, supports_of])
@pytest.mark.parametrize("case", QUICK, ids=str)
def test_vmap_and_the_loop_attack_alike(case: Case, attacked: Callable[..., Tensor]) -> None:
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    lifted = attacked(learner, meta, episodes, axis="vmap")
    torch.testing.assert_close(lifted, attacked(learner, meta, episodes, axis="loop"), rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("attacked", [queries_of, supports_of])
@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_vmap_and_the_loop_differentiate_every_algorithm_alike(
    case: Case, attacked: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps go along the derivative itself, since where that is zero but for rounding, its sign is any."""
    monkeypatch.setattr(torch.Tensor, "sign", lambda self: 3.0 * self)
    learner, meta, episodes = case.learner(), case.meta(), take(case.episodes(), slice(0, 2))
    found = [attacked(learner, meta, episodes, axis=axis) for axis in ("auto", "loop")]
    torch.testing.assert_close(*found, rtol=0, atol=1e-9)


@pytest.mark.parametrize("attacked", [queries_of, supports_of])
def test_the_same_key_is_the_same_attack_and_nothing_else_is_touched(attacked: Callable[..., Tensor]) -> None:
    case = Case("MAML", "batch", "running", dropout=0.3)
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    before, drawn, own = copy.deepcopy((meta, episodes)), random_states(), learner.net.params()
    first = attacked(learner, meta, episodes)
    assert torch.equal(first, attacked(learner, meta, episodes))
    assert not torch.equal(first, attacked(learner, meta, episodes, key=6))
    assert random_states() == drawn
    assert not first.requires_grad
    for ours, theirs in ((meta, before[0]), (learner.net.params(), own)):
        assert all(map(torch.equal, tree.leaves(ours), tree.leaves(theirs)))
    for ours, theirs in zip(episodes, before[1], strict=True):
        assert torch.equal(ours.x, theirs.x)


def test_a_task_is_attacked_alike_whatever_the_tasks_beside_it() -> None:
    case = Case("ProtoNet", "batch", "support")
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    found = queries_of(learner, meta, episodes)
    fewer = queries_of(learner, meta, take(episodes, slice(0, 2)))
    torch.testing.assert_close(found[:2], fewer, rtol=0, atol=1e-9)
    torch.testing.assert_close(queries_of(learner, meta, episodes, axis=3), found, rtol=0, atol=1e-9)


@pytest.mark.parametrize("attacked", [queries_of, supports_of])
def test_a_task_whose_loss_is_not_finite_keeps_finite_inputs(attacked: Callable[..., Tensor]) -> None:
    learner, meta, episodes = logistic()
    meta = tree.map(lambda leaf: torch.full_like(leaf, torch.nan), meta)
    assert bool(torch.isfinite(attacked(learner, meta, episodes)).all())


# --- what it takes ---------------------------------------------------------------------------------------


def test_without_a_radius_inputs_are_as_they_were() -> None:
    learner, meta, episodes = logistic()
    assert torch.equal(queries_of(learner, meta, episodes, Attack(0.0)), episodes.query.x)
    assert torch.equal(supports_of(learner, meta, episodes, Attack(0.0)), episodes.support.x)


def test_whole_numbers_cannot_be_attacked() -> None:
    learner, meta, episodes = logistic()
    tokens = Episode(episodes.support, Batch(episodes.query.x.long(), episodes.query.y))
    with pytest.raises(ContractError, match="int64"):
        queries_of(learner, meta, tokens)


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"epsilon": -0.1}, "epsilon"),
    ({"epsilon": float("nan")}, "epsilon"),
    ({"epsilon": 0.1, "steps": 0}, "steps"),
    ({"epsilon": 0.1, "step_size": 0.0}, "step_size"),
    ({"epsilon": 0.1, "bounds": (1.0, 0.0)}, "bounds"),
]


@pytest.mark.parametrize(("settings", "named"), UNFIT)
def test_what_has_no_meaning_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Attack(**settings)


def test_images_have_bounds_and_what_was_normalised_has_none() -> None:
    images = torch.rand(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert bounds_of(images) == (0.0, 1.0)
    assert bounds_of(images - 0.5) is None
    assert bounds_of(images.flatten(2)) is None


def test_a_clean_input_beyond_the_bounds_is_no_reason_to_leave_the_ball() -> None:
    learner, meta, episodes = logistic()
    found = queries_of(learner, meta, episodes, Attack(0.1, bounds=(0.0, 1.0)))
    assert float((found - episodes.query.x).abs().max()) <= 0.1 + 1e-12


def _shaded(episodes: Episode) -> Episode:
    """The same images in [0, 1], some of them at its ends."""
    return Episode(*(Batch(batch.x.clamp(0.0, 1.0), batch.y) for batch in episodes))
