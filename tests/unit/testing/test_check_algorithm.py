"""`il.testing.check_algorithm` and `innerloop check`: what passes, what is seen, and what is told."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import innerloop as il
from innerloop.algorithms import REGISTRY
from innerloop.algorithms.base import GradientLearner
from innerloop.cli.main import main
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Unrolled
from innerloop.testing import questions as ask
from innerloop.testing.battery import QUESTIONS
from innerloop.testing.life import learns, resumes_bitwise, survives_its_configuration
from innerloop.testing.probing import predictions
from innerloop.testing.samples import algorithm_class, smallest
from planted import mutants as bug


class Own(GradientLearner):
    """An algorithm as a user writes it: MAML under another name."""

    gradient = Unrolled()


class OwnThatForgets(Own):
    """The same, with one of its arguments lost from `self`."""

    def __init__(self, module: nn.Module, *, inner_lr: float = 0.5, loss: Any = "cross_entropy") -> None:
        super().__init__(module, inner_lr=inner_lr, inner_steps=2, loss=loss)
        self.inner_lr = 2 * inner_lr


class Bare(il.MetaLearner):
    """The contract and nothing else: ridge regression on learned features."""

    inner_steps, loss = 0, "mse"
    amortised = True

    def init(self, rng: torch.Generator) -> Meta:
        return {"features": torch.randn(1, 3, generator=rng)}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        x = (support.x @ meta["features"]).tanh()
        return {"weights": torch.linalg.solve(x.T @ x + torch.eye(3, dtype=x.dtype), x.T @ support.y)}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return fast

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return (inputs @ meta["features"]).tanh() @ fast["weights"]


def maml(**settings: Any) -> il.MetaLearner:
    return il.algorithms.MAML(il.models.MLP(1, 1, hidden=(8,)), inner_lr=0.05, loss="mse", **settings)


def checked(learner: il.MetaLearner, **how: Any) -> il.testing.Certificate:
    tasks = il.tasks.Linear.tiny()
    return il.testing.check_algorithm(learner, tasks, **{"steps": 0, "on_fail": "return"} | how)


def outcomes(found: il.testing.Certificate) -> dict[str, str]:
    return {answer.question: answer.outcome for answer in found.answers}


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_leaf_is_learned_under_the_defaults(name: str) -> None:
    from innerloop.testing.battery import _near_its_start, _sampled  # pyright: ignore

    learner, tasks = smallest(algorithm_class(name))
    double, meta = _near_its_start(learner, 0)
    ask.every_leaf_is_learned(double, meta, _sampled(learner, tasks, 0)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_registered_algorithm_answers_every_question_well(name: str) -> None:
    kind = algorithm_class(name)
    learner, tasks = smallest(kind)
    found = il.testing.check_algorithm(learner, tasks, pupil=smallest(kind, kind.small)[0], on_fail="return")
    assert found, str(found)
    assert outcomes(found)["learns"] == "yes"


def test_an_algorithm_of_ones_own_certifies_itself() -> None:
    learner = Own(il.models.MLP(1, 1, hidden=(8,)), inner_lr=0.05, loss="mse")
    weights = copy.deepcopy(learner.module.state_dict())
    found = checked(learner)
    assert found, str(found)
    assert outcomes(found)["survives_its_configuration"] == "not asked"  # no file can describe it
    assert all(torch.equal(weights[name], value) for name, value in learner.module.state_dict().items())


def test_the_bare_contract_is_enough() -> None:
    found = outcomes(checked(Bare()))
    assert {name for name, outcome in found.items() if outcome == "no"} == set()
    assert found["gradient_equals_finite_differences"] == "yes"
    assert found["learns"] == found["resumes_bitwise"] == "not asked"


@pytest.mark.parametrize(
    ("mutant", "question"),
    [
        (bug.KeepsTheLastTask, "tasks_are_isolated"),
        (bug.MixesQueries, "queries_do_not_reach_each_other_unless_declared"),
        (bug.PeeksAtQueryLabels, "query_labels_do_not_reach_predictions"),
        (bug.PosesAsExact, "gradient_equals_finite_differences"),
        (bug.PredictsOneColumn, "shapes_and_types_are_kept"),
    ],
)
def test_a_planted_bug_fails_its_question(mutant: type[Any], question: str) -> None:
    found = checked(bug.mutated(maml(), mutant))
    assert not found
    assert outcomes(found)[question] == "no", str(found)


def test_a_learner_that_raises_is_an_answer_and_not_a_traceback() -> None:
    class Breaks(Own):
        def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
            raise ValueError("no such luck")

    found = checked(Breaks(il.models.MLP(1, 1), loss="mse"))
    assert any(answer.detail == "ValueError: no such luck" for answer in found.failed)


def test_failures_are_raised_unless_they_are_to_be_returned() -> None:
    with pytest.raises(il.ContractError, match="tasks_are_isolated"):
        checked(bug.mutated(maml(), bug.KeepsTheLastTask), on_fail="raise")


@pytest.mark.parametrize(
    ("how", "said"), [({"steps": -1}, "steps >= 0"), ({"on_fail": "shout"}, "raise or return")]
)
def test_bad_arguments_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(il.ConfigError, match=said):
        checked(maml(), **how)


def test_what_is_no_learner_is_refused() -> None:
    with pytest.raises(il.ConfigError, match="a MetaLearner"):
        checked(nn.Linear(1, 1))  # pyright: ignore


def test_every_question_begins_with_a_sentence() -> None:
    names = [question.fn.__name__ for question in QUESTIONS]
    assert len(names) == len(set(names))
    assert all(question.about.endswith(".") or len(question.about) > 40 for question in QUESTIONS)


# --- the questions that train ----------------------------------------------------------------------------


def test_a_learner_that_never_adapts_does_not_learn() -> None:
    learner, tasks = smallest(il.algorithms.MAML, il.algorithms.MAML.small)
    learns(learner, tasks, steps=60, floor=0.5)
    with pytest.raises(AssertionError, match="no better than without adaptation"):
        learns(bug.mutated(learner, bug.NeverAdapts), tasks, steps=60, floor=0.5)


def test_a_floor_that_is_out_of_reach_is_not_reached() -> None:
    learner, tasks = smallest(il.algorithms.MAML, il.algorithms.MAML.small)
    with pytest.raises(AssertionError, match="short of its floor"):
        learns(learner, tasks, steps=60, floor=1.0)


def test_a_resume_that_forgets_is_seen() -> None:
    learner, tasks = smallest(il.algorithms.MAML)
    resumes_bitwise(learner, tasks)
    with bug.resume_that_forgets("optimizer"), pytest.raises(AssertionError, match="resumed runs differ"):
        resumes_bitwise(learner, tasks)


def test_an_argument_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, tasks = smallest(il.algorithms.MAML)
    survives_its_configuration(learner, tasks)
    learner.inner_lr = 0.7  # pyright: ignore
    survives_its_configuration(learner, tasks)
    monkeypatch.setattr("innerloop.testing.life.describe", lambda *how: _forgetful(*how))
    with pytest.raises(AssertionError, match=r"settings .* became"):
        survives_its_configuration(learner, tasks)


def _forgetful(learner: Any, tasks: Any, train: Any) -> Any:
    from innerloop.training.experiment import describe

    other = copy.copy(learner)
    other.inner_lr = learner.inner_lr * 2
    return describe(other, tasks, train)


# --- the command -----------------------------------------------------------------------------------------


def test_check_exits_with_0_where_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "ProtoNet", "--steps", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert {answer["outcome"] for answer in found["answers"]} == {"yes", "not asked"}


def test_check_exits_with_1_where_a_question_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "ProtoNet", "--steps", "1", "--floor", "1.0"]) == 1
    assert "NO  learns" in capsys.readouterr().out


def test_check_takes_an_algorithm_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"{Own.__module__}:Own"
    assert main(["check", name, "--steps", "0", "--algorithm.inner_lr", "0.1"]) == 0, capsys.readouterr().out
    assert "Own on Arrays" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("check", "no NAME"),
        ("check MAMMAL", "did you mean 'MAML'"),
        ("check no.such:Thing", "check the name"),
        ("check json:loads", "name the class of an algorithm"),
        ("check MAML --algorithm.inner_lrr 1", "did you mean algorithm.inner_lr?"),
        ("check MAML --stepps 1", "did you mean --steps?"),
        ("check MAML --steps many", "a whole number"),
    ],
)
def test_check_tells_what_is_wrong(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_predictions_of_a_sample_are_finite() -> None:
    learner, tasks = smallest(il.algorithms.ProtoNet)
    episode = il.Episode(*(il.Batch(b.x[0], b.y[0]) for b in tasks.sample("test", 1, 0)))
    outputs = predictions(learner, learner.init(torch.Generator().manual_seed(0)), episode)
    assert bool(torch.isfinite(outputs).all())
