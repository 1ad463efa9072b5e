"""Learning without forgetting: what the teacher predicts after adapting, as labels, for every algorithm."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import CASES, Case, as_double
from innerloop.algorithms import MAML, Reptile
from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients.base import learned
from innerloop.models import MLP
from innerloop.tasks import Arrays
from innerloop.training.config import TrainConfig
from innerloop.training.retain.base import Moment
from innerloop.training.retain.check import check_distills
from innerloop.training.retain.config import RetainConfig
from innerloop.training.retain.distillation import Distillation, relabelled
from innerloop.training.step import Engine, estimated
from unit.measure.settings import BOWLS, RATE, STEPS
from unit.training.retain.moments import at, flat, force, moment, same_after_a_checkpoint, zeros

HERE, TEACHER, WEIGHT = at(0.5, 2.0, -1.0), at(1.0, -2.0, 0.3), 0.7
QUICK = [case for case in CASES if case.network == "mlp"]


def taught(teacher: Meta = TEACHER) -> Distillation:
    remedy = Distillation(WEIGHT)
    remedy.anchored(teacher)
    return remedy


# --- known answers ---------------------------------------------------------------------------------------


def test_on_bowls_it_is_the_distance_of_adapted_parameters() -> None:
    """Predictions of the student and the teacher are A (theta - teacher) apart, whatever the task."""
    descent = BOWLS.descent(RATE, STEPS)
    away = flat(HERE) - flat(TEACHER)
    expected = WEIGHT * descent.contraction * descent.curvatures * descent.contraction * away
    torch.testing.assert_close(force(taught(), HERE), expected, rtol=1e-9, atol=1e-12)


def test_a_teacher_that_is_the_learner_teaches_nothing() -> None:
    assert float(force(taught(HERE), HERE).abs().max()) < 1e-15
    assert not force(Distillation(WEIGHT), HERE).any(), "nor does none"


def test_it_is_added_to_what_is_there() -> None:
    grads = at(1.0, 2.0, 3.0)
    found = flat(taught().changed(grads, moment(HERE)))
    torch.testing.assert_close(found, flat(grads) + force(taught(), HERE), rtol=0, atol=1e-12)


def classifier(inner_steps: int) -> tuple[MAML, list[Meta], Episode]:
    learner = MAML(MLP(4, 3, hidden=(), bias=False), inner_lr=0.3, inner_steps=inner_steps)
    metas = [tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(seed))) for seed in (0, 1)]
    generator = torch.Generator().manual_seed(2)
    tasks = as_double(Arrays.tiny().sample("train", 2, 0))
    x = [torch.randn(*b.y.shape, 4, generator=generator, dtype=torch.float64) for b in tasks]
    return learner, metas, Episode(*(b._replace(x=inputs) for b, inputs in zip(tasks, x, strict=True)))


@pytest.mark.parametrize("inner_steps", [0, 1])
def test_for_classes_it_is_the_gradient_of_the_divergence_from_the_teacher(inner_steps: int) -> None:
    """KL(teacher, student) of adapted softmax regressions, by autograd alone."""
    learner, (theta, teacher), tasks = classifier(inner_steps)

    def predicted(weight: Tensor, i: int) -> Tensor:
        x, y = tasks.support.x[i], tasks.support.y[i]
        for _ in range(inner_steps):
            loss = torch.nn.functional.cross_entropy(x @ weight.T, y)
            weight = weight - 0.3 * torch.autograd.grad(loss, weight, create_graph=True)[0]
        return (tasks.query.x[i] @ weight.T).log_softmax(-1)

    one, two = (meta["params"]["head.weight"].clone().requires_grad_() for meta in (theta, teacher))
    divergences = [
        (predicted(two, i).exp() * (predicted(two, i) - predicted(one, i))).sum(-1).mean() for i in range(2)
    ]
    (expected,) = torch.autograd.grad(WEIGHT * torch.stack(divergences).mean(), one)
    found = taught(teacher).changed(tree.zeros_like(theta), moment(theta, tasks, learner=learner))
    torch.testing.assert_close(flat(found), expected.flatten(), rtol=1e-9, atol=1e-12)


def test_the_support_keeps_its_labels_and_the_query_its_inputs() -> None:
    learner, (theta, _), tasks = classifier(1)
    found = relabelled(learner, theta, tasks, 0)
    assert torch.equal(found.support.y, tasks.support.y)
    assert torch.equal(found.query.x, tasks.query.x)
    torch.testing.assert_close(found.query.y.sum(-1), torch.ones(2, 9, dtype=torch.float64))


def test_labels_of_queries_have_no_part_in_it() -> None:
    learner, (theta, teacher), tasks = classifier(1)
    other = Episode(tasks.support, tasks.query._replace(y=tasks.query.y.roll(1, 1)))
    one, two = (
        taught(teacher).changed(tree.zeros_like(theta), moment(theta, given, learner=learner))
        for given in (tasks, other)
    )
    assert torch.equal(flat(one), flat(two))


# --- every algorithm -------------------------------------------------------------------------------------


class Given:
    """The tasks of a case, as a source."""

    def __init__(self, case: Case) -> None:
        self.sample = lambda split, num_tasks, rng: tree_of(take(case.episodes(4), slice(0, num_tasks)))


def tree_of(episodes: Episode) -> Episode:
    """As sources give them."""
    return Episode(*(b._replace(x=b.x.float(), y=_single(b.y)) for b in episodes))


def _single(y: Tensor) -> Tensor:
    return y.float() if y.is_floating_point() else y


@functools.cache
def refused(case: Case) -> ConfigError | None:
    return refusal(case.learner(), Given(case))


def refusal(learner: ModuleLearner, tasks: Any) -> ConfigError | None:
    config = TrainConfig(retain=RetainConfig(distill=WEIGHT), tasks_axis="vmap")
    try:
        check_distills(learner, tasks, config)
    except ConfigError as error:
        return error
    return None


def pulled(case: Case, teacher: Meta) -> tuple[Meta, Meta]:
    """What distillation adds at the case's meta-parameters; the outer gradient with true labels."""
    learner, meta, episodes = case.learner(), case.meta(), case.episodes(3)
    engine = Engine(learner.gradient, "vmap")

    def gradient(given: Episode) -> Meta:
        return estimated(engine, learner, meta, given, key=7)[0]

    step = Moment(learner, meta, gradient, episodes, [0] * 3, 7)
    found = taught(teacher).changed(tree.zeros_like(meta), step)
    return learned(found), gradient(relabelled(learner, teacher, episodes, 7))


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_every_algorithm_learns_from_a_teacher_or_says_why_not(case: Case) -> None:
    error = refused(case)
    if error is not None:
        assert case.algorithm in error.got
        assert "retain.distill = 0.7" in error.got
        assert "use replay, project, l2, ewc or si instead" in error.do
        return
    meta = case.meta()
    teacher = tree.map(lambda leaf: leaf + 0.05 * torch.sin(torch.arange(leaf.numel()).view_as(leaf)), meta)
    found, expected = pulled(case, teacher)
    assert tree.is_finite(found)
    assert bool((flat(found) != 0).any())
    torch.testing.assert_close(flat(found), WEIGHT * flat(learned(expected)), rtol=1e-9, atol=1e-12)


def test_most_algorithms_learn_from_a_teacher() -> None:
    assert sum(refused(case) is not None for case in QUICK) < len(QUICK) / 5


def test_a_learner_of_whole_batches_is_refused() -> None:
    error = refused(next(case for case in QUICK if case.kind.pooled))
    assert error is not None
    assert "trained on few-shot tasks" in error.expected


def test_a_learner_that_predicts_a_distribution_is_refused() -> None:
    error = refused(next(c for c in QUICK if c.kind.distribution is not ModuleLearner.distribution))
    assert error is not None
    assert "its mean alone would narrow it" in error.expected


def test_a_loss_that_takes_no_probabilities_is_refused_with_what_it_says() -> None:
    class Hard(MAML):
        """It counts its labels."""

        def query_loss(self, meta: Meta, fast: Any, query: Any) -> Any:
            torch.nn.functional.one_hot(query.y, 3)
            return super().query_loss(meta, fast, query)

    case = next(c for c in QUICK if not c.regression)
    error = refusal(Hard(MLP(256, 3, hidden=()), inner_lr=0.1), Given(case))
    assert error is not None
    assert "retain.distill = 0.7 with Hard: one_hot is only applicable to index" in error.got
    assert "takes probabilities" in error.expected


def test_a_gradient_without_queries_is_refused() -> None:
    """Reptile's: a teacher's labels would change nothing, and the setting would be silent."""
    case = next(c for c in QUICK if c.regression)
    error = refusal(Reptile(MLP(1, 1, hidden=(4,)), loss="mse"), Given(case))
    assert error is not None
    assert "labels of queries have a part in" in error.expected


# --- in time ---------------------------------------------------------------------------------------------


def test_the_teacher_is_the_learner_at_the_end_of_the_last_stage() -> None:
    moving = at(1.0, -2.0, 0.3)
    remedy = Distillation(WEIGHT)
    remedy.stage_ended(moment(at(9.0, 9.0, 9.0)))
    remedy.stage_ended(moment(moving))
    moving["params"]["head.weight"].add_(5.0)
    assert torch.equal(force(remedy, HERE), force(taught(), HERE))


def test_it_is_the_same_after_a_checkpoint() -> None:
    found = same_after_a_checkpoint(taught(), Distillation(WEIGHT))
    assert torch.equal(force(found, HERE), force(taught(), HERE))
    same_after_a_checkpoint(Distillation(WEIGHT), Distillation(WEIGHT))


def test_the_teacher_has_its_own_running_statistics() -> None:
    more = {"statistics": {"mean": torch.ones(2)}}
    remedy = taught(TEACHER | more)
    assert "statistics/mean" in remedy.tensors()
    found = remedy.changed(zeros() | tree.zeros_like(more), moment(HERE | more))
    assert not found["statistics"]["mean"].any()
