"""`check_algorithm`: every question, asked of anyone's algorithm."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.errors import ConfigError, ContractError, check_count
from innerloop.core.learner import MetaLearner
from innerloop.core.rng import generator, key
from innerloop.core.types import Batch, Episode, Meta
from innerloop.gradients import Unrolled
from innerloop.gradients.check import beside, float64_by_default, to_float64
from innerloop.tasks.base import TaskSource
from innerloop.testing import life
from innerloop.testing import questions as ask
from innerloop.testing.certificate import Answer, Certificate, Outcome
from innerloop.testing.definitions import gradient_equals_its_definition, why_undefined
from innerloop.testing.life import NotAsked
from innerloop.testing.samples import FLOORS

_NUM_TASKS = 3


@dataclass(frozen=True)
class Subject:
    """An algorithm as it was given, and in float64 at a point near where it starts.

    Attributes:
        pupil: the algorithm with settings that suit a short training.
        episodes: training tasks; `few` are few-shot ones, which differ where training is `pooled`.
        steps, floor: of the training that has to show that it learns.
    """

    given: MetaLearner
    pupil: MetaLearner
    tasks: TaskSource
    learner: Any
    meta: Meta
    episodes: Episode
    few: Episode
    steps: int
    floor: float

    def trained(self) -> ModuleLearner:
        """The pupil, where training can take it."""
        if not isinstance(self.pupil, ModuleLearner):
            raise NotAsked("training takes a ModuleLearner")
        return self.pupil


def check_algorithm(
    learner: MetaLearner,
    tasks: TaskSource,
    *,
    pupil: MetaLearner | None = None,
    steps: int | None = None,
    floor: float | None = None,
    seed: int = 0,
    on_fail: Literal["raise", "return"] = "raise",
) -> Certificate:
    """Ask an algorithm every question that the algorithms of this package answer.

    Values and gradients are asked in float64 on a few training tasks, beside the initial meta-parameters;
    a short training and a resumed one follow. Small tasks and a small module will do.

    Args:
        learner: an algorithm of this package or of your own; it is left as it is.
        tasks: a source that it can be trained on.
        pupil: the same algorithm with settings that suit a short training, for the questions that train;
            None is `learner` itself.
        steps: outer steps of the training that has to show that it learns, eight tasks each; 0 leaves
            that question out, and None is what its class says (`lessons`).
        floor: the score to reach by then: accuracy, or mean squared error to stay below; None is a mild one.
        seed: of the tasks and the initial meta-parameters.
        on_fail: `raise` a `ContractError` that names what failed, or `return` the answers all the same.

    Returns:
        The certificate, which is true where nothing failed, and which prints as a list.

    >>> import innerloop as il
    >>> learner = il.algorithms.MAML(il.models.MLP(1, 1, hidden=(8,)), inner_lr=0.05, loss="mse")
    >>> certificate = il.testing.check_algorithm(learner, il.tasks.Linear.tiny(), steps=0)
    >>> bool(certificate)
    True
    """
    lessons: int = getattr(learner, "lessons", 300) if steps is None else check_count("steps", steps, low=0)
    if on_fail not in ("raise", "return"):
        raise ConfigError(f"on_fail = {on_fail!r}", expected="raise or return", do="choose one")
    if not isinstance(learner, MetaLearner):
        raise ConfigError(
            f"learner of type {type(learner).__name__}",
            expected="a MetaLearner",
            do="subclass il.MetaLearner, or wrap a module in an algorithm",
        )
    stated = getattr(learner, "floor", None) if floor is None else floor
    mild = FLOORS[tasks.spec.metric] if stated is None else stated
    double, meta = _near_its_start(learner, seed)
    episodes, few = _sampled(learner, tasks, seed)
    subject = Subject(learner, pupil or learner, tasks, double, meta, episodes, few, lessons, mild)
    answers = tuple(_answer(subject, question) for question in QUESTIONS)
    found = Certificate(f"{type(learner).__name__} on {type(tasks).__name__}", answers)
    if on_fail == "raise" and not found:
        told = "; ".join(f"{answer.question} ({answer.detail})" for answer in found.failed)
        raise ContractError(
            f"{found.subject}: {told}",
            expected="every question answered well",
            do="mend the algorithm; on_fail='return' gives all answers, il.check_gradient looks closer",
        )
    return found


def _near_its_start(learner: MetaLearner, seed: int) -> tuple[MetaLearner, Meta]:
    """The learner and its meta-parameters in float64, at a point without symmetries."""
    double: Any = copy.deepcopy(learner)
    to_float64(double)
    if not hasattr(double, "gradient"):
        double.gradient = Unrolled()
    return double, beside(learner.init(generator(seed, "init")), seed)


def _sampled(learner: MetaLearner, tasks: TaskSource, seed: int) -> tuple[Episode, Episode]:
    place = key(seed, "check", "tasks")
    few = _double(tasks.sample("train", _NUM_TASKS, place))
    pooled = getattr(learner, "pooled", False)
    return (_double(tasks.pooled(_NUM_TASKS, place)) if pooled else few), few


def _double(episodes: Episode) -> Episode:
    def cast(batch: Batch) -> Batch:
        return Batch(*(values.double() if values.is_floating_point() else values for values in batch))

    return Episode(*map(cast, episodes))


# --- the questions ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A question, and how it is asked of a subject; its name and what it asks are its function's."""

    fn: Callable[..., Any]
    asked: Callable[[Subject], str | None]

    @property
    def about(self) -> str:
        """The sentence that its function begins with."""
        return (self.fn.__doc__ or "").strip().splitlines()[0]


def _answer(subject: Subject, question: Question) -> Answer:
    started = time.perf_counter()
    outcome: Outcome = "yes"
    try:
        detail = question.asked(subject) or ""
    except NotAsked as reason:
        outcome, detail = "not asked", str(reason)
    except Exception as error:  # whatever an algorithm does wrong is its answer, not the end of the questions
        kind = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        outcome, detail = "no", kind + (str(error).strip().splitlines() or [""])[0]
    seconds = round(time.perf_counter() - started, 2)
    return Answer(question.fn.__name__, question.about, outcome, detail[:200], seconds)


def _of_training_tasks(fn: Callable[..., Any]) -> Question:
    def asked(subject: Subject) -> None:
        with float64_by_default():
            fn(subject.learner, subject.meta, subject.episodes)

    return Question(fn, asked)


def _of_few_shot_tasks(fn: Callable[..., Any]) -> Question:
    def asked(subject: Subject) -> None:
        with float64_by_default():
            fn(subject.learner, subject.meta, subject.few)

    return Question(fn, asked)


def _exact(subject: Subject) -> None:
    if not subject.learner.gradient.exact:
        raise NotAsked("its gradient is declared inexact")
    with float64_by_default():
        ask.gradient_equals_finite_differences(subject.learner, subject.meta, subject.episodes)


def _inexact(subject: Subject) -> None:
    if subject.learner.gradient.exact:
        raise NotAsked("its gradient is exact")
    reason = why_undefined(subject.learner, subject.meta)
    if reason:
        raise NotAsked(reason)
    with float64_by_default():
        gradient_equals_its_definition(subject.learner, subject.meta, subject.episodes)


def _learns(subject: Subject) -> str:
    if subject.steps == 0:
        raise NotAsked("no training was asked for")
    return life.learns(subject.trained(), subject.tasks, steps=subject.steps, floor=subject.floor)


QUESTIONS = (
    _of_few_shot_tasks(ask.shapes_and_types_are_kept),
    _of_training_tasks(ask.calls_leave_no_trace),
    _of_training_tasks(ask.vmap_chunks_and_loop_agree),
    _of_few_shot_tasks(ask.labels_are_learned_from),
    _of_training_tasks(ask.gradient_is_shaped_like_meta),
    _of_training_tasks(ask.every_leaf_is_learned),
    Question(ask.gradient_equals_finite_differences, _exact),
    Question(gradient_equals_its_definition, _inexact),
    _of_few_shot_tasks(ask.query_labels_do_not_reach_predictions),
    _of_few_shot_tasks(ask.queries_do_not_reach_each_other_unless_declared),
    _of_training_tasks(ask.tasks_are_isolated),
    _of_few_shot_tasks(ask.support_order_is_irrelevant_unless_declared),
    _of_training_tasks(ask.a_diverging_task_is_left_out),
    _of_training_tasks(ask.all_diverging_tasks_are_reported),
    Question(ask.initial_meta_is_a_function_of_rng, lambda s: ask.initial_meta_is_a_function_of_rng(s.given)),
    Question(
        life.survives_its_configuration, lambda s: life.survives_its_configuration(s.trained(), s.tasks)
    ),
    Question(life.resumes_bitwise, lambda s: life.resumes_bitwise(s.trained(), s.tasks)),
    Question(life.learns, _learns),
)
