"""What is asked before training: records, and reasons where there are none; nothing is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from innerloop.algorithms import FOMAML, MAML, ProtoNet
from innerloop.core import tree
from innerloop.core.rng import generator
from innerloop.diagnose.doctor import diagnose
from innerloop.diagnose.finding import Finding, Severity
from innerloop.gradients import FirstOrder, Unrolled
from innerloop.measure.preflight import leak_rows
from innerloop.measure.probe import Probe
from innerloop.models import MLP, Conv4
from innerloop.tasks import Bowls, Glyphs, Sinusoid
from innerloop.training.config import ProbeConfig, TrainConfig
from innerloop.training.preflight import preflight

CONFIG = TrainConfig(steps=10, tasks_per_step=2, compile=False, probe=ProbeConfig(tasks=4))


def sinusoid(kind: Any = MAML, **settings: Any) -> Any:
    return kind(MLP(1, 1, hidden=(8,)), **{"inner_lr": 0.01, "inner_steps": 2, "loss": "mse"} | settings)


class Flipped(Unrolled):
    """The exact gradient with the wrong sign."""

    def estimate(self, *args: Any, **settings: Any) -> Any:
        grads, carry, record = super().estimate(*args, **settings)
        return tree.map(torch.neg, grads), carry, record


class PassedOff(FirstOrder):
    """First-order gradients that claim to be exact."""

    exact = True


def answers(learner: Any, tasks: Any, config: TrainConfig = CONFIG) -> dict[str, Any]:
    found = diagnose(preflight(learner, tasks, config))
    return {answer.id: answer for answer in (*found.findings, *found.passed, *found.silent)}


def test_leaks_are_asked_of_tasks_of_classes() -> None:
    learner = ProtoNet(Conv4(None, width=2))
    rows, skipped = leak_rows(
        learner.init(generator(0, "init")), Probe(learner, Glyphs(ways=3, shots=1, queries=2), val=4)
    )
    assert {r["name"]: r["values"] for r in rows} == {
        name: [pytest.approx(0.0, abs=1e-5)]
        for name in ("state_leak", "query_leak", "class_leak", "transduction")
    }
    assert skipped == {}


def test_what_does_not_apply_has_a_reason() -> None:
    learner = MAML(MLP(3, 1, hidden=(), bias=False), inner_lr=0.1, inner_steps=1, loss="mse")
    rows, skipped = leak_rows(learner.init(generator(0, "init")), Probe(learner, Bowls(), val=4))
    assert skipped == {
        "query_leak": "a task is its own test by design",
        "class_leak": "tasks are not made of classes",
    }
    assert {r["name"] for r in rows} == {"state_leak", "transduction"}


def test_a_healthy_learner_passes_and_is_left_as_it_was() -> None:
    learner = sinusoid()
    before = {name: leaf.clone() for name, leaf in learner.module.state_dict().items()}
    found = answers(learner, Sinusoid(shots=5, queries=5))
    assert not [answer for answer in found.values() if isinstance(answer, Finding)]
    assert found["META_GRADIENT_WRONG"].value < found["META_GRADIENT_WRONG"].threshold
    assert all(torch.equal(leaf, before[name]) for name, leaf in learner.module.state_dict().items())


@pytest.mark.parametrize("path", [Flipped(), PassedOff()])
def test_a_gradient_that_is_wrong_is_an_error_before_anything_is_trained(path: Any) -> None:
    config = TrainConfig(steps=10, tasks_per_step=2, compile=False, gradient=path, probe=ProbeConfig(tasks=4))
    found = answers(sinusoid(inner_lr=0.05), Sinusoid(shots=5, queries=5), config)
    assert found["META_GRADIENT_WRONG"].severity is Severity.ERROR


def test_a_gradient_that_is_known_to_be_inexact_is_no_error() -> None:
    found = answers(sinusoid(FOMAML, inner_lr=0.05), Sinusoid(shots=5, queries=5))["META_GRADIENT_WRONG"]
    assert not isinstance(found, Finding) or found.severity is Severity.INFO


def test_the_same_is_asked_twice_with_the_same_answer() -> None:
    one, other = (preflight(sinusoid(), Sinusoid(shots=5, queries=5), CONFIG) for _ in range(2))
    assert diagnose(one).to_dict() == diagnose(other).to_dict()
