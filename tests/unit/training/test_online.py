"""A learner in a stream adapts to what it saw last, and a plan is the best of the candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from innerloop.algorithms import MAML, ConditionalNeuralProcess, LearningToAdapt
from innerloop.core.errors import ConfigError, DataError
from innerloop.core.learner import DATA, adapt
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Fast, Meta
from innerloop.models import MLP
from innerloop.tasks import Cart
from innerloop.tasks.cart import FORCE, advanced
from innerloop.training.online import Online, RandomShooting

MODULE = MLP(3, 2, hidden=(8,))
LEARNER = LearningToAdapt(MODULE, inner_lr=0.1, inner_steps=2)
META = LEARNER.init(torch.Generator().manual_seed(0))
STREAM = Batch(*(part[0] for part in Cart(shots=12).sample("train", 1, 0).support))


def fed(model: Online, upto: int = 12) -> Tensor:
    for x, y in zip(STREAM.x[:upto], STREAM.y[:upto], strict=True):
        model.observe(x, y)
    return model.predict(STREAM.x)


def by_hand(support: Batch, learner: Any = LEARNER, steps: int = 2) -> Tensor:
    with torch.no_grad(), running_in(first_order=True):
        fast = adapt(learner, META, support, steps)
        return learner.predict(META, fast, STREAM.x)


def last(count: int, upto: int = 12) -> Batch:
    return Batch(STREAM.x[upto - count : upto], STREAM.y[upto - count : upto])


def test_it_adapts_from_the_prior_to_the_last_examples() -> None:
    assert torch.equal(fed(Online(LEARNER, META, memory=4)), by_hand(last(4)))
    assert not torch.equal(by_hand(last(4)), by_hand(last(5)))
    assert torch.equal(fed(Online(LEARNER, META, memory=4), upto=3), by_hand(last(3, upto=3)))


def test_before_it_has_seen_anything_and_after_it_forgot_the_prior_predicts() -> None:
    model = Online(LEARNER, META, memory=4)
    prior = by_hand(last(4), steps=0)
    assert torch.equal(model.predict(STREAM.x), prior)
    assert not torch.equal(fed(model), prior)
    model.reset()
    assert torch.equal(model.predict(STREAM.x), prior)
    assert torch.equal(fed(Online(LEARNER, META, inner_steps=0)), prior)


def test_carried_on_it_is_fine_tuned_step_by_step() -> None:
    learner = MAML(MODULE, inner_lr=0.05, loss="mse")
    params = dict(META["params"])
    for upto in range(1, 13):
        batch = last(min(upto, 4), upto)
        params = {n: p.detach().requires_grad_() for n, p in params.items()}
        error = (torch.func.functional_call(MODULE, params, (batch.x,)) - batch.y).square().mean()
        grads = torch.autograd.grad(error, list(params.values()))
        params = {n: p - 0.05 * g for (n, p), g in zip(params.items(), grads, strict=True)}
    expected = torch.func.functional_call(MODULE, params, (STREAM.x,)).detach()
    tuned = Online(learner, META, memory=4, carry=True)
    assert torch.allclose(fed(tuned), expected, atol=1e-6)
    assert (fed(Online(learner, META, memory=4)) - expected).abs().max() > 1e-3  # planted: from the prior
    fed(tuned)
    tuned.reset()
    assert torch.allclose(fed(tuned), expected, atol=1e-6)  # a reset forgets the tuning too


class Remembering(MAML):  # a concrete base is fine in a test
    """Predicts the mean of its support, which it holds as the task's data."""

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return super().begin(meta, support) | {DATA: {"targets": support.y}}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return fast[DATA]["targets"].mean(0).expand(len(inputs), 2)


def test_what_is_carried_on_is_not_the_data_of_the_past() -> None:
    model = Online(Remembering(MODULE, loss="mse"), META, memory=4, carry=True)
    assert torch.allclose(fed(model)[0], last(4).y.mean(0))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_leaves_no_trace(value: float) -> None:
    model = Online(LEARNER, META, memory=4)
    before = fed(model)
    with pytest.raises(DataError, match="NaN or infinity"):
        model.observe(STREAM.x[0], torch.tensor([0.0, value]))
    assert torch.equal(model.predict(STREAM.x), before)
    assert not model.diverged


def test_a_rate_that_is_too_large_is_seen() -> None:
    model = Online(MAML(MODULE, inner_lr=1e6, inner_steps=9, loss="mse"), META)
    fed(model, upto=3)
    assert model.diverged


@pytest.mark.parametrize(
    ("learner", "how", "said"),
    [
        (MAML(MLP(3, 2)), {}, "loss 'cross_entropy' in a stream"),
        (ConditionalNeuralProcess(MLP(1, None)), {}, "ConditionalNeuralProcess"),
        (LearningToAdapt(MLP(3, 2, batch_norm=True)), {}, "MLP with BatchNorm"),
        (LEARNER, {"memory": 0}, "memory = 0"),
        (LEARNER, {"inner_steps": -1}, "inner_steps = -1"),
    ],
)
def test_what_cannot_follow_a_stream_is_refused(learner: Any, how: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Online(learner, META, **how)


# --- planning --------------------------------------------------------------------------------------------

PLANNER = RandomShooting(Cart(), (-FORCE,), (FORCE,), horizon=6, candidates=200)


def physics(mass: float) -> Any:
    """The model that is right for a cart of this mass without friction."""

    def predict(x: Tensor) -> Tensor:
        position, velocity, force = (x * torch.tensor([2.0, 2.0, FORCE])).unbind(-1)
        after = advanced(position, velocity, force, mass, 0.0, 0.0)  # pyright: ignore
        return Cart.target(torch.stack([position, velocity], -1), torch.stack(after, -1))  # pyright: ignore

    return predict


def far(states: Tensor, actions: Tensor, k: int) -> Tensor:
    return (states[:, 0] - 1.0).square()


def test_a_plan_is_the_cheapest_of_its_candidates() -> None:
    best = PLANNER.plan(physics(1.0), torch.zeros(2), far, 3)
    assert best.shape == (6, 1)
    costs = []
    candidates = drawn(3)
    for forces in candidates.T:  # one after another, on the simulator
        cart = Cart().simulator(1.0, 0.0)
        costs.append(sum(float(far(cart.step(float(force))[None], best, 0)) for force in forces))
    chosen = int(torch.tensor(costs).argmin())
    assert torch.equal(candidates[:, chosen], best[:, 0])


def drawn(moment: int) -> Tensor:
    """The candidates of a moment [horizon, candidates], seen by a cost that looks at nothing else."""
    seen: list[Tensor] = []

    def looking(states: Tensor, actions: Tensor, k: int) -> Tensor:
        seen.append(actions[:, 0])
        return actions[:, 0]

    PLANNER.plan(physics(1.0), torch.zeros(2), looking, moment)
    return torch.stack(seen)


def test_candidates_are_a_function_of_seed_and_moment_within_their_bounds() -> None:
    state = torch.get_rng_state()
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert torch.equal(state, torch.get_rng_state())
    assert -FORCE <= drawn(0).min() < -0.95 * FORCE
    assert 0.95 * FORCE < drawn(0).max() < FORCE
    other = replace(PLANNER, seed=1).plan(physics(1.0), torch.zeros(2), far, 0)
    assert not torch.equal(other, PLANNER.plan(physics(1.0), torch.zeros(2), far, 0))


def test_a_plan_that_is_not_finite_is_never_chosen() -> None:
    def cost(states: Tensor, actions: Tensor, k: int) -> Tensor:
        spoiled = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(67)[:200]
        return torch.where(actions[:, 0] < 4.0, spoiled, actions[:, 0])

    assert replace(PLANNER, horizon=1).plan(physics(1.0), torch.zeros(2), cost, 0).item() >= 4.0


def test_who_knows_the_mass_steers_better_than_who_does_not() -> None:
    costs = {}
    for believed in (0.6, 4.0):
        cart = Cart().simulator(0.6, 0.0)
        state, costs[believed] = cart.reset(), 0.0
        for moment in range(40):
            plan = PLANNER.plan(physics(believed), state, far, moment)
            state = cart.step(float(plan[0]))
            costs[believed] += float(far(state[None], plan, 0)) if moment >= 15 else 0.0
    assert costs[0.6] < 0.5 * costs[4.0]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"horizon": 0}, "horizon = 0"),
        ({"candidates": 0}, "candidates = 0"),
        ({"low": (1.0,), "high": (1.0,)}, "low < high"),
        ({"low": (0.0, 0.0)}, "low < high"),
    ],
)
def test_what_cannot_plan_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(PLANNER, **how)
