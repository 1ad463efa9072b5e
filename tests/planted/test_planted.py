"""Every question turns red for a planted bug, and is green for the same learner without it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import Case
from innerloop.core.rng import key, task_keys, uniform
from innerloop.gradients import Evolution, Truncated
from innerloop.models import Conv4
from innerloop.tasks import Arrays
from innerloop.testing import questions as ask
from innerloop.testing.definitions import gradient_equals_its_definition
from innerloop.training.config import OptimizerConfig
from planted import mutants as bug
from unit.core.test_rng import tasks_do_not_depend_on_their_number
from unit.training.resuming import Setup, resumes_bitwise, small_config, unrolling_learner

MLP = Case("MAML", "mlp")
CONV = Case("MAML", "batch")
RUNNING = Case("MAML", "batch", "running")
TRANSDUCTIVE = Case("MAML", "batch", "transductive")
EMBEDDING = Case("ProtoNet", "batch", "running")
FIRST, MOVING, SOLVING = Case("FOMAML", "mlp"), Case("Reptile", "mlp"), Case("ImplicitMAML", "mlp")
KEEPING = Case("MetaTransfer", "mlp")
DROPPING = Case("MAML", "mlp", dropout=0.4)

Question = Callable[..., Any]


def of_initialisation(learner: Any, meta: Any, episodes: Any) -> None:
    ask.initial_meta_is_a_function_of_rng(learner)


of_initialisation.asks = ask.initial_meta_is_a_function_of_rng  # pyright: ignore

#: A question, a case that answers it, and a mutant of that case that must not.
PLANTED: list[tuple[Question, Case, type[Any]]] = [
    (ask.vmap_chunks_and_loop_agree, MLP, bug.ChunksDiffer),
    (ask.shapes_and_types_are_kept, MLP, bug.PredictsInSinglePrecision),
    (ask.shapes_and_types_are_kept, MLP, bug.PredictsOneColumn),
    (gradient_equals_its_definition, FIRST, bug.HoldsTooMuch),
    (gradient_equals_its_definition, MOVING, bug.MovesHalfWay),
    (gradient_equals_its_definition, SOLVING, bug.TurnsTheSign),
    (ask.gradient_is_shaped_like_meta, MLP, bug.LosesALeaf),
    (ask.gradient_is_shaped_like_meta, EMBEDDING, bug.MovesStatistics),
    (ask.gradient_is_shaped_like_meta, KEEPING, bug.MovesFrozen),
    (ask.gradient_equals_finite_differences, MLP, bug.PosesAsExact),
    (ask.gradient_equals_finite_differences, CONV, bug.PosesAsExact),
    (ask.gradient_equals_finite_differences, MLP, bug.DropsLastTask),
    (ask.gradient_equals_finite_differences, MLP, bug.OffByAScale),
    (ask.gradient_equals_finite_differences, MLP, bug.FreezesTheFirstLayer),
    (ask.every_leaf_is_learned, MLP, bug.FreezesTheFirstLayer),
    (ask.tasks_are_isolated, MLP, bug.MixesTasks),
    (ask.tasks_are_isolated, EMBEDDING, bug.MixesTasks),
    (ask.tasks_are_isolated, MLP, bug.KeepsTheLastTask),
    (ask.calls_leave_no_trace, MLP, bug.StepsInPlace),
    (ask.calls_leave_no_trace, MLP, bug.NormalisesSupportInPlace),
    (ask.calls_leave_no_trace, MLP, bug.CountsItsCalls),
    (ask.query_labels_do_not_reach_predictions, MLP, bug.PeeksAtQueryLabels),
    (ask.queries_do_not_reach_each_other_unless_declared, MLP, bug.MixesQueries),
    (ask.queries_do_not_reach_each_other_unless_declared, CONV, bug.MixesQueries),
    (ask.queries_do_not_reach_each_other_unless_declared, TRANSDUCTIVE, bug.ClaimsToBeTransductive),
    (ask.queries_do_not_reach_each_other_unless_declared, MLP, bug.ClaimsToBeTransductive),
    (ask.support_order_is_irrelevant_unless_declared, MLP, bug.WeighsFirstExamples),
    (ask.support_order_is_irrelevant_unless_declared, EMBEDDING, bug.WeighsFirstExamples),
    (ask.support_order_is_irrelevant_unless_declared, MLP, bug.ClaimsToBeOrdered),
    (ask.labels_are_learned_from, MLP, bug.ClaimsToBeAmortised),
    (ask.labels_are_learned_from, MLP, bug.AdaptsInBegin),
    (ask.labels_are_learned_from, MLP, bug.NeverAdapts),
    (ask.a_diverging_task_is_left_out, MLP, bug.MultipliesByZero),
    (ask.a_diverging_task_is_left_out, MLP, bug.DividesByAllTasks),
    (ask.a_diverging_task_is_left_out, MLP, bug.HidesFailures),
    (ask.all_diverging_tasks_are_reported, MLP, bug.HidesFailures),
    (of_initialisation, MLP, bug.DrawsGlobally),
    (of_initialisation, MLP, bug.IgnoresTheSeed),
]

#: A question, a case, and a change of the machinery under which it must not pass.
SABOTAGED: list[tuple[Question, Case, Callable[[], AbstractContextManager[None]]]] = [
    (ask.dropout_is_a_function_of_the_key, DROPPING, bug.masks_without_keys),
    (ask.dropout_is_a_function_of_the_key, DROPPING, bug.one_mask_for_all),
    (ask.dropout_is_a_function_of_the_key, DROPPING, bug.dropout_in_evaluation),
    (ask.vmap_chunks_and_loop_agree, TRANSDUCTIVE, bug.fused_batch_norm),
    (ask.gradient_equals_finite_differences, TRANSDUCTIVE, bug.fused_batch_norm),
]


def named(value: Any) -> str:
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("question", "case", "mutant"), PLANTED, ids=named)
def test_a_planted_bug_is_seen(question: Question, case: Case, mutant: type[Any]) -> None:
    with pytest.raises(AssertionError):
        question(bug.mutated(case.learner(), mutant), case.meta(), case.episodes())


@pytest.mark.parametrize(("question", "case", "sabotage"), SABOTAGED, ids=named)
def test_a_sabotaged_core_is_seen(question: Question, case: Case, sabotage: Any) -> None:
    with sabotage(), pytest.raises((AssertionError, RuntimeError)) as raised:
        question(case.learner(), case.meta(), case.episodes())
    if sabotage is not bug.masks_without_keys:  # vmap itself refuses keyless draws
        assert raised.type is AssertionError


@pytest.mark.parametrize(
    ("question", "case"), list(dict.fromkeys((q, c) for q, c, _ in PLANTED + SABOTAGED)), ids=named
)
def test_the_same_learner_without_the_bug_passes(question: Question, case: Case) -> None:
    if (question, case) == (ask.queries_do_not_reach_each_other_unless_declared, TRANSDUCTIVE):
        assert case.learner().transductive
    question(case.learner(), case.meta(), case.episodes())


def test_every_question_has_its_mutant() -> None:
    public = {
        f
        for _, f in inspect.getmembers(ask, inspect.isfunction)
        if f.__module__ == ask.__name__ and "learner" in inspect.signature(f).parameters
    }
    public = {f for f in public if not f.__name__.startswith("_")}
    asked = {getattr(q, "asks", q) for q, _, _ in PLANTED + SABOTAGED}
    assert {f.__name__ for f in public - asked} == set()


# --- randomness, resume ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda n: task_keys(key(0, "tasks", n), n),  # the number of tasks in the key
        lambda n: uniform(task_keys(key(0), 1), 3 * n).reshape(3, n).T,  # one stream for all tasks
        lambda n: np.random.default_rng(0).permutation(n)[:3] if n > 3 else np.arange(3),
    ],
)
def test_randomness_that_depends_on_the_number_of_tasks_is_seen(draw: Any) -> None:
    with pytest.raises(AssertionError, match="number of tasks"):
        tasks_do_not_depend_on_their_number(draw)


EMBEDS = Setup(lambda: EMBEDDING.kind(Conv4(None, width=3), batch_norm="running"), Arrays.tiny)
UNROLLING = Setup(unrolling_learner, config=small_config(gradient=Truncated(last=1, horizon=8)))
PARTICLES = Setup(unrolling_learner, config=small_config(gradient=Evolution(horizon=8)))
WORSENING = Setup(config=small_config(optimizer=OptimizerConfig("SGD", lr=3.0, clip_norm=1.0)))

FORGETTING: dict[str, tuple[Setup, Callable[[], AbstractContextManager[None]]]] = {
    "optimizer": (Setup.optimized(name="Adam"), lambda: bug.resume_that_forgets("optimizer")),
    "momentum": (
        Setup.optimized(name="SGD", lr=1e-3, momentum=0.9),
        lambda: bug.resume_that_forgets("optimizer"),
    ),
    "window": (Setup(), lambda: bug.resume_that_forgets("window")),
    "best": (WORSENING, lambda: bug.resume_that_forgets("best")),
    "statistics": (EMBEDS, lambda: bug.resume_that_forgets("statistics")),
    "carry": (UNROLLING, lambda: bug.resume_that_forgets("carry")),
    "particles": (PARTICLES, lambda: bug.resume_that_forgets("carry")),
    "stream": (Setup(), bug.tasks_from_a_stream),
    "rewind": (Setup(config=small_config(log_every=1)), bug.resume_that_does_not_rewind),
}


@pytest.mark.parametrize("name", FORGETTING)
def test_a_resume_that_forgets_is_seen(name: str, tmp_path: Path) -> None:
    setup, sabotage = FORGETTING[name]
    resumes_bitwise(setup, tmp_path / "good", killed=name == "rewind")
    with sabotage(), pytest.raises(AssertionError):
        resumes_bitwise(setup, tmp_path / "bad", killed=name == "rewind")
