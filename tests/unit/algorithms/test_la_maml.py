"""La-MAML never steps against a rate below zero, and its weights move by the rates that moved before them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import Case
from innerloop.algorithms import MAML, LaMAML
from innerloop.core import tree
from innerloop.core.errors import ContractError
from innerloop.core.learner import adapt
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Asynchronous, Unrolled
from innerloop.rules import SGD, UpdateRule
from innerloop.testing.definitions import gradient_equals_its_definition
from innerloop.testing.probing import close, estimate
from innerloop.testing.questions import gradient_equals_finite_differences
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.state import new_state
from innerloop.training.step import Engine, meta_step

CASE = Case("LaMAML", "mlp")


def mixed() -> Meta:
    """Meta-parameters of which every other rate is below zero."""
    meta = CASE.meta()

    def turned(rate: Tensor) -> Tensor:
        signs = torch.where(torch.arange(rate.numel()) % 2 == 0, 1.0, -1.0).reshape(rate.shape)
        return rate.abs() * signs

    return meta | {"rates": tree.map(turned, meta["rates"])}


def descends_by_rates_in_order(learner: LaMAML) -> None:
    """Its state is that of descent by hand on minibatches in their order, where no rate is below zero."""
    meta, support = mixed(), take(CASE.episodes(), 0).support
    params = meta["params"]
    for rows in ([0, 1, 2], [3, 4, 0]):
        held = {name: p.detach().requires_grad_() for name, p in params.items()}
        outputs = torch.func.functional_call(learner.net._module, held, (support.x[rows],))
        grads = torch.autograd.grad((outputs - support.y[rows]).square().mean(), list(held.values()))
        pairs = zip(params.items(), grads, strict=True)
        params = {name: p - meta["rates"][name].clamp(min=0) * g for (name, p), g in pairs}
    close(tree.map(torch.Tensor.detach, adapt(learner, meta, support, 2)["params"]), params, 1e-12)


def test_a_step_is_descent_by_rates_on_the_next_minibatch() -> None:
    descends_by_rates_in_order(CASE.learner())  # type: ignore[arg-type]


class ForgetsTheReLU(LaMAML):  # a concrete base is fine in a test
    def rule_at(self, meta: Meta) -> UpdateRule:
        return SGD(lr=meta["rates"])


class TakesAllAtOnce(LaMAML):
    def step(self, meta: Meta, fast: Any, support: Batch, k: int) -> Any:
        return super(LaMAML, self).step(meta, fast, support, k)


@pytest.mark.parametrize("planted", [ForgetsTheReLU, TakesAllAtOnce])
def test_a_planted_step_of_another_kind_is_seen(planted: type[LaMAML]) -> None:
    settings = {"inner_lr": 0.15, "inner_steps": 2, "inner_batch": 3, "loss": "mse"}
    with pytest.raises(AssertionError, match="differ"):
        descends_by_rates_in_order(planted(CASE.module(), **settings))  # type: ignore[arg-type]


# --- the outer step --------------------------------------------------------------------------------------


def moves_rates_first(learner: LaMAML) -> None:
    """An outer step of SGD at rate 1 moves the rates, and then the weights by what the rates have become."""
    meta, episodes = mixed(), CASE.episodes()
    config = TrainConfig(steps=2, optimizer=OptimizerConfig("SGD", lr=1.0))
    grads, _ = estimate(learner, meta, episodes, gradient=Unrolled())
    state = new_state(tree.map(torch.clone, meta), config)
    meta_step(state, learner, episodes, Engine(learner.gradient, "vmap"), config)
    rates = {name: rate - 0.3 * grads["rates"][name] for name, rate in meta["rates"].items()}
    params = {
        name: p - rates[name].clamp(min=0) * grads["params"][name] for name, p in meta["params"].items()
    }
    found = tree.map(torch.Tensor.detach, state.meta)
    close(found["rates"], rates, 1e-10)
    close(found["params"], params, 1e-10)


def test_an_outer_step_moves_rates_first_and_weights_by_them() -> None:
    moves_rates_first(CASE.learner())  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class ByOldRates(Asynchronous):
    def estimate(self, learner: Any, meta: Meta, episodes: Episode, *given: Any, **how: Any) -> Any:
        grads, carry, record = Unrolled().estimate(learner, meta, episodes, *given, **how)
        scaled = tree.map(lambda a, g: torch.relu(a) * g, meta["rates"], grads["params"])
        return {"params": scaled, "rates": tree.map(lambda g: 0.3 * g, grads["rates"])}, carry, record


@dataclasses.dataclass(frozen=True)
class AgainstTheGradient(Asynchronous):
    def estimate(self, learner: Any, meta: Meta, episodes: Episode, *given: Any, **how: Any) -> Any:
        grads, carry, record = Unrolled().estimate(learner, meta, episodes, *given, **how)
        moves = tree.map(lambda g: 0.3 * g, grads["rates"])
        after = tree.map(lambda a, m: a - m, meta["rates"], moves)
        return {"params": tree.map(torch.mul, after, grads["params"]), "rates": moves}, carry, record


@pytest.mark.parametrize(
    "planted", [ByOldRates(), AgainstTheGradient(), Unrolled()], ids=lambda p: type(p).__name__
)
def test_a_planted_outer_step_of_another_kind_is_seen(planted: Any) -> None:
    learner: Any = CASE.learner()
    learner.gradient = planted
    with pytest.raises(AssertionError, match="differ"):
        moves_rates_first(learner)


@pytest.mark.parametrize("planted", [ByOldRates(), AgainstTheGradient()], ids=lambda p: type(p).__name__)
def test_the_definition_of_its_gradient_sees_them_too(planted: Any) -> None:
    learner: Any = CASE.learner()
    learner.gradient = planted
    with pytest.raises(AssertionError, match="differ"):
        gradient_equals_its_definition(learner, mixed(), CASE.episodes())


@pytest.mark.parametrize("first_order", [False, True])
def test_its_gradient_is_what_it_is_defined_to_be(first_order: bool) -> None:
    learner: Any = CASE.learner()
    learner.gradient = Asynchronous(rate_lr=0.7, first_order=first_order)
    gradient_equals_its_definition(learner, mixed(), CASE.episodes())


def test_the_gradient_that_it_scales_equals_finite_differences() -> None:
    learner: Any = CASE.learner()
    learner.gradient = Unrolled()
    gradient_equals_finite_differences(learner, CASE.meta(), CASE.episodes(2))


def test_the_objective_is_the_mean_over_the_steps() -> None:
    equal, default = CASE.learner(step_weights=(0.5, 0.5)), CASE.learner()
    last = CASE.learner(step_weights=(0.0, 1.0))
    losses = [
        estimate(one, mixed(), CASE.episodes(), gradient=Unrolled())[0] for one in (equal, default, last)
    ]
    close(losses[0], losses[1], 0.0)
    with pytest.raises(AssertionError, match="differ"):
        close(losses[1], losses[2], 1e-6)


def test_without_steps_it_is_joint_training() -> None:
    learner = CASE.learner(inner_steps=0)
    assert learner.objective_weights() is None
    grads, _ = estimate(learner, CASE.meta(), CASE.episodes(), gradient=Unrolled())
    assert not any(leaf.any() for leaf in tree.leaves(grads["rates"]))


def test_a_learner_without_rates_is_refused() -> None:
    learner = MAML(nn.Linear(1, 1), loss="mse")
    meta = learner.init(torch.Generator())
    with pytest.raises(ContractError, match="no rates"):
        Asynchronous().estimate(learner, meta, CASE.episodes(2))
