"""Exact meta-gradients are exact: by recomputing, by difference quotients, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conformance import exactness as ask
from innerloop.core.functional import FunctionalModule, inner_gradient
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Batch, Fast, Loss, Meta
from innerloop.gradients import Recompute, Unrolled
from innerloop.rules import SGD, Adagrad, Adam, AdamW, RMSprop
from innerloop.testing.probing import estimate
from innerloop.testing.questions import gradient_equals_finite_differences
from unit.gradients.problems import PROBLEMS, Params, Problem, gradient_by_hand, sinusoids


@pytest.fixture(params=PROBLEMS)
def problem(request: pytest.FixtureRequest) -> Problem:
    return PROBLEMS[request.param]()


def test_recomputing_changes_nothing(problem: Problem) -> None:
    ask.recomputing_changes_nothing(problem.learner, problem.meta, problem.episodes)


def test_exact_gradient_is_the_loop_by_hand(problem: Problem) -> None:
    expected = gradient_by_hand(problem)
    ask.equals_by_hand(problem.learner, problem.meta, problem.episodes, expected)


def test_exact_gradient_equals_difference_quotients(problem: Problem) -> None:
    problem.learner.gradient = Recompute()
    two = type(problem.episodes)(*(Batch(b.x[:2], b.y[:2]) for b in problem.episodes))
    gradient_equals_finite_differences(problem.learner, problem.meta, two, coordinates=False)


def test_lifting_changes_nothing(problem: Problem) -> None:
    ask.lifting_changes_nothing(problem.learner, problem.meta, problem.episodes)


@pytest.mark.parametrize("name", ["sum over steps", "conv support", "recurrent rule"])
def test_one_task_that_diverges_leaves_the_others_alone(name: str) -> None:
    problem = PROBLEMS[name]()
    ask.others_are_unmoved_by_one_that_diverges(problem.learner, problem.meta, problem.episodes)


# --- hyperparameters of rules, and dead units ------------------------------------------------------------

RULES = {
    "SGD": (SGD, {"lr": 0.1, "momentum": 0.9}),
    "Adam": (Adam, {"lr": 0.02, "beta1": 0.9, "beta2": 0.99, "eps": 1e-3}),
    "AdamW": (AdamW, {"lr": 0.02, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01}),
    "RMSprop": (RMSprop, {"lr": 0.02, "alpha": 0.9, "momentum": 0.5}),
    "Adagrad": (Adagrad, {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.01}),
}


class Hyper(MetaLearner):
    """A small ReLU network whose rule's numbers are all learned; one unit of it is dead."""

    loss: Loss = "mse"
    inner_steps = 3
    gradient = Unrolled()

    def __init__(self, rule: str) -> None:
        self.rule, self.numbers = RULES[rule]
        self.net = FunctionalModule(nn.Sequential(nn.Linear(1, 5), nn.ReLU(), nn.Linear(5, 1)), "support")

    def init(self, rng: torch.Generator) -> Meta:
        rows = torch.tensor([0.9, -0.7, 0.5, -0.3, 0.2], dtype=torch.float64)
        params = {"0.weight": rows[:, None], "0.bias": rows.flip(0), "2.weight": rows.flip(0)[None] + 0.3}
        params |= {"2.bias": torch.zeros(1, dtype=torch.float64)}
        params["0.bias"] = torch.where(torch.arange(5) == 2, -50.0, params["0.bias"])
        hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.numbers.items()}
        return {"params": params, "hyper": hyper}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return {"params": meta["params"], "rule": self.rule(**meta["hyper"]).init(meta["params"])}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        def support_loss(params: Params) -> Tensor:
            return (self.net(params, support.x) - support.y).square().mean()

        grads = inner_gradient(support_loss, fast["params"])
        params, state = self.rule(**meta["hyper"]).step(grads, fast["rule"], fast["params"])
        return {"params": params, "rule": state}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return self.net(fast["params"], inputs)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gradient", [Unrolled(), Recompute()], ids=["Unrolled", "Recompute"])
def test_learned_hyperparameters_have_gradients_beside_a_dead_unit(rule: str, gradient: Unrolled) -> None:
    learner = Hyper(rule)
    meta, tasks = learner.init(torch.Generator()), sinusoids()
    grads, record = estimate(learner, meta, tasks, gradient=gradient)
    assert record.kept == [0, 1, 2, 3]
    assert all(bool(torch.isfinite(g)) and float(g) for g in grads["hyper"].values()), grads["hyper"]
    assert all(bool(torch.isfinite(g).all()) for g in grads["params"].values())
    assert not grads["params"]["0.weight"][2].any() or rule in ("AdamW", "Adagrad")  # these decay weights
    learner.gradient = gradient
    for name, value in meta["hyper"].items():
        expected = quotient(learner, meta, name, value)
        assert abs(float(grads["hyper"][name]) - expected) <= 1e-6 * max(1.0, abs(expected)), name


def quotient(learner: Hyper, meta: Meta, name: str, value: Tensor, h: float = 1e-6) -> float:
    losses = []
    for sign in (1, -1):
        moved = meta | {"hyper": meta["hyper"] | {name: value + sign * h}}
        losses.append(estimate(learner, moved, sinusoids())[1].loss)
    return (losses[0] - losses[1]) / (2 * h)
