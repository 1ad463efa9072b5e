"""What an outer step descends on: each setting is the gradient of what it says, and none when it is off."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import mse_loss

from cases import Case
from innerloop import algorithms
from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.losses import trivial_loss
from innerloop.core.mode import running_in
from innerloop.core.rng import key
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import FirstOrder, Recompute, Truncated, Unrolled
from innerloop.models import MLP, Conv4
from innerloop.tasks import Arrays, Linear, Sinusoid
from innerloop.testing.probing import close, deviation
from innerloop.training import objective
from innerloop.training.check import check_fit
from innerloop.training.config import ObjectiveConfig, OptimizerConfig, TrainConfig
from innerloop.training.fit import train
from innerloop.training.objective import adapted_losses, chosen, inverse_trivial
from innerloop.training.state import new_state
from innerloop.training.step import Engine, gradient_of
from unit.training.resuming import Setup, resumes_bitwise, sinusoid_learner, small_config

PLACE = key(3, "inner", 0)


def found(case: Case, step: int = 0, *, tasks_per_step: int = 4, tasks: int = 4, **settings: Any) -> Any:
    """The gradient of an objective at a step of ten, and the record."""
    given = ObjectiveConfig(**settings)
    config = small_config(steps=10, tasks_per_step=tasks_per_step, objective=given)
    state = new_state(case.meta(), config)
    state.step = step
    engine = Engine(case.learner().gradient, "vmap")
    grads, _, record = gradient_of(state, case.learner(), case.episodes(tasks), engine, config)
    return grads, record


def single(case: Case, index: int, tasks: int = 4) -> Meta:
    """The meta-gradient of one task."""
    few = take(case.episodes(tasks), slice(index, index + 1))
    return Unrolled().estimate(case.learner(), case.meta(), few, axis="vmap")[0]


def combined(case: Case, weights: dict[int, float], tasks: int = 4) -> Meta:
    alone = [tree.map(lambda g, w=w: w * g, single(case, i, tasks)) for i, w in weights.items()]
    return tree.map(lambda *leaves: torch.stack(leaves).sum(0), *alone)


MAML = Case("MAML", "mlp")


# --- off -------------------------------------------------------------------------------------------------


def test_the_usual_objective_is_the_path_s_own_gradient_to_the_last_bit() -> None:
    with running_in(progress=0.0):
        plain, _, _ = Unrolled().estimate(
            MAML.learner(), MAML.meta(), MAML.episodes(), key=PLACE, axis="vmap"
        )
    close(found(MAML)[0], plain, 0.0)


def test_a_curriculum_that_is_over_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("tasks were adapted to choose from them, where there is nothing to choose")

    monkeypatch.setattr(objective, "adapted_losses", never)
    close(found(MAML, 5, curriculum=0.5)[0], found(MAML, 5)[0], 0.0)


# --- tasks that count differently ------------------------------------------------------------------------


def test_a_normalised_objective_divides_each_loss_by_that_of_the_support_mean() -> None:
    support, query = MAML.episodes()
    trivial = (query.y - support.y.mean(1, keepdim=True)).square().mean((1, 2))
    weights = {i: 1 / 4 / float(value) for i, value in enumerate(trivial)}
    close(found(MAML, normalise=True)[0], combined(MAML, weights), 1e-10)


def test_a_normalised_loss_has_no_unit() -> None:
    """Planted: the usual one has."""
    small, large = (Episode(*(Batch(b.x, scale * b.y) for b in MAML.episodes())) for scale in (1.0, 100.0))
    ratio = inverse_trivial(MAML.learner(), small) / inverse_trivial(MAML.learner(), large)
    torch.testing.assert_close(ratio, torch.full((4,), 1e4, dtype=torch.float64))


def test_a_task_whose_targets_do_not_vary_does_not_drown_the_others() -> None:
    support, query = MAML.episodes()
    flat = [Batch(b.x, torch.cat([torch.zeros_like(b.y[:1]), b.y[1:]])) for b in (support, query)]
    weights = inverse_trivial(MAML.learner(), Episode(*flat))
    assert float(1.0 / weights[0]) == pytest.approx(0.01 * float((1.0 / weights[1:]).median()), rel=1e-6)
    nothing = Episode(*(Batch(b.x, torch.ones_like(b.y)) for b in flat))
    assert inverse_trivial(MAML.learner(), nothing).tolist() == [1.0] * 4
    huge = Episode(*(Batch(b.x, torch.cat([1e4 * b.y[:1], b.y[1:]])) for b in MAML.episodes()))
    usual = inverse_trivial(MAML.learner(), MAML.episodes())
    torch.testing.assert_close(inverse_trivial(MAML.learner(), huge)[1:], usual[1:])


def test_classes_have_one_trivial_predictor() -> None:
    episodes = Case("MAML", "group").episodes()
    assert float(trivial_loss("cross_entropy", take(episodes, 0), 3)) == pytest.approx(math.log(3))
    weights = inverse_trivial(Case("MAML", "group").learner(), episodes)
    torch.testing.assert_close(weights, torch.full((4,), 1 / math.log(3), dtype=torch.float64))


def adapted(case: Case, tasks: int = 4) -> list[float]:
    episodes = [take(case.episodes(tasks), slice(i, i + 1)) for i in range(tasks)]
    return [
        float(Unrolled().estimate(case.learner(), case.meta(), e, axis="vmap")[2].losses) for e in episodes
    ]


def trains_on_the_worst(select: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    losses = adapted(MAML)
    worst = sorted(range(4), key=lambda i: losses[i])[2:]
    monkeypatch.setattr(objective, "chosen", select)
    grads, record = found(MAML, worst=0.5)
    close(grads, combined(MAML, dict.fromkeys(worst, 0.5)), 1e-10)
    assert record.losses.tolist() == pytest.approx([losses[i] for i in sorted(worst)], rel=1e-10)


def test_the_worst_share_is_the_mean_over_the_tasks_of_largest_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    trains_on_the_worst(chosen, monkeypatch)


def test_planted_the_best_share_in_its_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def best(losses: Tensor, *, keep: int, worst: float) -> Tensor:
        return chosen(-losses, keep=keep, worst=worst)

    with pytest.raises(AssertionError):
        trains_on_the_worst(best, monkeypatch)


def test_the_worst_share_of_normalised_losses_is_ranked_as_it_is_weighed() -> None:
    weights = inverse_trivial(MAML.learner(), MAML.episodes())
    scaled = torch.tensor(adapted(MAML), dtype=torch.float64) * weights
    worst = int(scaled.argmax())
    assert worst != int(torch.tensor(adapted(MAML)).argmax()), "the case cannot tell the two rankings apart"
    grads, _ = found(MAML, worst=0.25, normalise=True)
    close(grads, combined(MAML, {worst: float(weights[worst])}), 1e-10)


def test_a_curriculum_keeps_the_easiest_of_twice_as_many() -> None:
    losses = adapted(MAML, 8)
    easiest = sorted(range(8), key=lambda i: losses[i])[:4]
    grads, record = found(MAML, curriculum=0.5, tasks=8)
    close(grads, combined(MAML, dict.fromkeys(easiest, 0.25), 8), 1e-10)
    assert len(record.losses) == 4


def test_a_curriculum_draws_fewer_and_fewer() -> None:
    given = ObjectiveConfig(curriculum=0.5)
    drawn = [given.candidates(8, step / 10) for step in range(7)]
    assert drawn == [16, 15, 13, 12, 10, 8, 8]


@pytest.mark.parametrize("row", ["MAML", "Reptile", "MAMLPlusPlus"])
def test_tasks_are_judged_by_the_losses_that_the_gradient_finds(row: str) -> None:
    """With dropout and minibatches: the same keys. Planted: another key is seen."""
    case = Case(row, "mlp", dropout=0.4)
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    _, _, record = learner.gradient.estimate(learner, meta, episodes, key=PLACE, axis="vmap")
    judged, others = (
        adapted_losses(learner, meta, episodes, key=place, axis="vmap") for place in (PLACE, PLACE + 1)
    )
    assert deviation(judged, record.losses) < 1e-12
    assert deviation(others, record.losses) > 1e-6


def test_a_failed_task_is_chosen_last_and_most_failing_are_no_choice() -> None:
    nan, inf = math.nan, math.inf
    assert chosen(torch.tensor([1.0, nan, 3.0, 2.0]), keep=4, worst=0.25).tolist() == [0, 0, 1, 0]
    assert chosen(torch.tensor([1.0, nan, 3.0, 2.0]), keep=2, worst=1.0).tolist() == [1, 0, 0, 1]
    assert chosen(torch.tensor([nan, inf, 3.0, nan]), keep=4, worst=0.25).tolist() == [1, 1, 1, 1]


def test_a_step_in_which_most_tasks_fail_says_so_whatever_is_chosen() -> None:
    config = small_config(objective=ObjectiveConfig(worst=0.25))
    state = new_state(MAML.meta(), config)
    bad = Episode(*(Batch(torch.full_like(b.x, torch.inf), b.y) for b in MAML.episodes()))
    _, _, record = gradient_of(state, MAML.learner(), bad, Engine(Unrolled()), config)
    assert record.mostly_failed
    assert len(record.outcomes) == 4


# --- the joint loss --------------------------------------------------------------------------------------


def joint_by_hand(case: Case) -> Meta:
    """The gradient of the mean squared error of the module itself on all examples, by torch alone."""
    module, params = case.learner().module.double(), case.meta()["params"]
    leaves = tree.map(lambda p: p.detach().clone().requires_grad_(), params)
    losses = []
    for i in range(4):
        support, query = take(case.episodes(), i)
        outputs = functional_call(module, leaves, (torch.cat([support.x, query.x]),))
        losses.append(mse_loss(outputs, torch.cat([support.y, query.y])))
    grads = torch.autograd.grad(torch.stack(losses).mean(), list(leaves.values()))
    return {"params": dict(zip(leaves, grads, strict=True))}


def test_a_joint_objective_adds_the_gradient_of_the_unadapted_model_on_all_examples() -> None:
    expected = tree.map(lambda g, j: g + 0.3 * j, found(MAML)[0], joint_by_hand(MAML))
    close(found(MAML, joint=0.3)[0], expected, 1e-10)


@pytest.mark.parametrize(("step", "left"), [(0, 1.0), (2, 0.5), (4, 0.0), (9, 0.0)])
def test_its_weight_falls_to_nothing(step: int, left: float) -> None:
    grads, _ = found(MAML, step, joint=0.3, joint_until=0.4)
    close(grads, tree.map(lambda g, j: g + left * 0.3 * j, found(MAML, step)[0], joint_by_hand(MAML)), 1e-10)


def test_its_tasks_have_the_weights_that_they_have_elsewhere() -> None:
    weights = inverse_trivial(MAML.learner(), MAML.episodes())
    whole = found(MAML, joint=0.3, normalise=True)[0]
    rest = tree.map(lambda a, b: (a - b) / 0.3, whole, found(MAML, normalise=True)[0])
    expected = tree.zeros_like(rest)
    for i in range(4):
        one = Case("MAML", "mlp")
        episodes = take(one.episodes(), slice(i, i + 1))
        grads, _, _ = objective_joint(one, episodes)
        expected = tree.map(lambda e, g, i=i: e + float(weights[i]) / 4 * g, expected, grads)
    close(rest, expected, 1e-9)


def objective_joint(case: Case, episodes: Episode) -> Any:
    from innerloop.training.joint import Joint

    return Joint().estimate(case.learner(), case.meta(), episodes, axis="vmap")


LEARNERS: dict[str, tuple[Callable[[], ModuleLearner], Any, str]] = {
    "amortised": (lambda: algorithms.ProtoNet(Conv4(None, width=3)), Arrays, "before it has seen"),
    "pooled": (lambda: algorithms.Baseline(Conv4(None, width=3), classes=14), Arrays, "before it has seen"),
    "learned optimizer": (
        lambda: algorithms.LearnedOptimizer(
            MLP(1, 1, hidden=(4,)), inner_steps=2, loss="mse", init_scale=0.5
        ),
        Sinusoid,
        "depend on what is learned",
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_a_joint_loss_is_refused_where_nothing_is_predicted_before_adaptation(name: str) -> None:
    learner, source, told = LEARNERS[name]
    tasks = source.tiny()
    check_fit(learner(), tasks, TrainConfig())
    with pytest.raises(ConfigError, match=told):
        check_fit(learner(), tasks, TrainConfig(objective=ObjectiveConfig(joint=0.1)))


@pytest.mark.parametrize("row", ["MAML", "ANIL", "CAVIA", "MAMLPlusPlus", "Reptile", "MetaSGD", "ALFA"])
def test_a_joint_loss_is_there_for_learners_that_begin_with_a_model(row: str) -> None:
    check_fit(Case(row, "mlp").learner(), Sinusoid(), TrainConfig(objective=ObjectiveConfig(joint=0.1)))


# --- first order, then exact -----------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["MAML", "MAMLPlusPlus", "CAVIA"])
@pytest.mark.parametrize("path", [Unrolled(), Recompute()])
def test_first_order_gradients_come_first_and_exact_ones_then(path: Any, row: str) -> None:
    case = Case(row, "mlp")

    def at(step: int) -> Meta:
        config = small_config(steps=10, objective=ObjectiveConfig(first_order_until=0.3))
        state = new_state(case.meta(), config)
        state.step = step
        return gradient_of(state, case.learner(), case.episodes(), Engine(path, "vmap"), config)[0]

    def by(path: Any, step: int) -> Meta:
        with running_in(progress=step / 10):
            return path.estimate(case.learner(), case.meta(), case.episodes(), axis="vmap")[0]

    assert deviation(by(FirstOrder(), 2), by(path, 2)) > 1e-5
    close(at(2), by(FirstOrder(), 2), 1e-12)
    close(at(3), by(path, 3), 1e-12)


# --- what does not fit -----------------------------------------------------------------------------------

UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "first order before first order": (
        {"gradient": "FirstOrder", "objective": ObjectiveConfig(first_order_until=0.5)},
        "an exact path",
    ),
    "weights of tasks that are carried": (
        {"gradient": Truncated(horizon=8), "objective": ObjectiveConfig(normalise=True)},
        "new in every outer step",
    ),
    "families of tasks that are carried": (
        {"gradient": Truncated(horizon=8), "optimizer": OptimizerConfig(aggregate="PCGrad")},
        "new in every outer step",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_has_no_meaning_is_refused(name: str) -> None:
    settings, told = UNFIT[name]
    with pytest.raises(ConfigError, match=told):
        check_fit(sinusoid_learner(), Linear(), TrainConfig(**settings))


# --- the whole run ---------------------------------------------------------------------------------------

OBJECTIVES: dict[str, dict[str, Any]] = {
    "normalise": {"normalise": True},
    "worst": {"worst": 0.5},
    "curriculum": {"curriculum": 0.6},
    "joint": {"joint": 0.5, "joint_until": 0.5},
    "first_order_until": {"first_order_until": 0.5},
    "all": {
        "normalise": True,
        "worst": 0.5,
        "curriculum": 0.6,
        "joint": 0.5,
        "joint_until": 0.5,
        "first_order_until": 0.5,
    },
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_resumes_bitwise(name: str, tmp_path: Path) -> None:
    setup = Setup(config=small_config(objective=ObjectiveConfig(**OBJECTIVES[name])))
    resumes_bitwise(setup, tmp_path)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_changes_what_is_learned(name: str) -> None:
    config = small_config(objective=ObjectiveConfig(**OBJECTIVES[name]))
    usual = train(sinusoid_learner(), Sinusoid.tiny(), config=small_config()).meta
    changed = train(sinusoid_learner(), Sinusoid.tiny(), config=config).meta
    assert deviation(usual, changed) > 1e-9
