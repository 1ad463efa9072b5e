"""Truncated unrolls, what is carried between outer steps, and randomness that a recomputed step repeats."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from cases import Case
from conformance import exactness as ask
from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.learner import states
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode
from innerloop.core.vectorise import take
from innerloop.gradients import Recompute, Truncated, Unrolled
from innerloop.models import MLP
from innerloop.testing.probing import KEY, close, deviation, estimate, inner_keys
from unit.gradients.problems import PROBLEMS, STEPS, Problem, mlp

TWO_STEPS = Truncated(last=None, horizon=6)


def of_two_steps(name: str = "mlp") -> Problem:
    problem = PROBLEMS[name]()
    problem.learner.inner_steps = 2
    return problem


@pytest.mark.parametrize("name", ["mlp", "momentum", "recurrent rule"])
def test_truncation_at_all_steps_is_no_truncation(name: str) -> None:
    p = PROBLEMS[name]()
    whole, _ = estimate(p.learner, p.meta, p.episodes, gradient=Unrolled())
    for last in (STEPS, STEPS + 1, None):
        close(estimate(p.learner, p.meta, p.episodes, gradient=Truncated(last))[0], whole, 1e-12)


@pytest.mark.parametrize("last", [1, 2])
def test_truncation_differentiates_the_last_steps_by_hand(last: int) -> None:
    p = PROBLEMS["learned rates"]()
    meta = tree.map(lambda leaf: leaf.clone().requires_grad_(), p.meta)
    net, count = p.learner.module, len(p.episodes.query.x)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(count):
        support, query = take(p.episodes, i)
        phi = dict(meta["params"])
        for k in range(STEPS):
            if k == STEPS - last:
                phi = {n: value.detach().requires_grad_() for n, value in phi.items()}
            fit = (torch.func.functional_call(net, phi, (support.x,)) - support.y).square().mean()
            grads = torch.autograd.grad(fit, list(phi.values()), create_graph=True)
            phi = {n: v - meta["lr"][n] * g for (n, v), g in zip(phi.items(), grads, strict=True)}
        total = total + (torch.func.functional_call(net, phi, (query.x,)) - query.y).square().mean() / count
    rates = torch.autograd.grad(total, list(meta["lr"].values()))
    grads, _ = estimate(p.learner, p.meta, p.episodes, gradient=Truncated(last))
    close(list_of(grads["lr"]), list_of(dict(zip(grads["lr"], rates, strict=True))), 1e-8)
    assert all(bool(leaf.any()) for leaf in tree.leaves(grads["lr"])), "learned rates have a gradient"
    assert not any(bool(leaf.any()) for leaf in tree.leaves(grads["params"])), (
        "the initialisation was cut off"
    )


def list_of(named: dict) -> dict:
    return {name: leaf.detach() for name, leaf in named.items()}


@pytest.mark.parametrize("name", ["mlp", "momentum", "recurrent rule"])
def test_an_unroll_goes_on_where_it_stopped(name: str) -> None:
    p = of_two_steps(name)
    ask.an_unroll_goes_on(p.learner, p.meta, p.episodes, gradient=TWO_STEPS)


def test_an_unroll_with_dropout_goes_on_where_it_stopped() -> None:
    p = dropping()
    p.learner.inner_steps = 2
    ask.an_unroll_goes_on(p.learner, p.meta, p.episodes, gradient=TWO_STEPS)


def test_an_unroll_keeps_its_tasks_and_then_takes_the_new_ones() -> None:
    p = of_two_steps()
    other = Episode(*(Batch(b.x + 1, b.y) for b in p.episodes))
    carry = None
    for outer in range(4):
        tasks = p.episodes if outer == 0 else other
        _, carry, _ = TWO_STEPS.estimate(p.learner, p.meta, tasks, carry, key=KEY)
        expected = p.episodes if outer < 3 else other
        assert torch.equal(carry["support"]["x"], expected.support.x)
    fewer = Episode(*(Batch(b.x[:2], b.y[:2]) for b in p.episodes))
    with pytest.raises(ContractError, match="2 tasks, and a carry of 4"):
        TWO_STEPS.estimate(p.learner, p.meta, fewer, carry, key=KEY)


def test_a_carry_is_cut_into_parts_with_its_tasks() -> None:
    p = of_two_steps("learned rates")
    _, carry, _ = TWO_STEPS.estimate(p.learner, p.meta, p.episodes, key=KEY)
    whole = TWO_STEPS.estimate(p.learner, p.meta, p.episodes, carry, key=KEY, axis="vmap")
    assert all(bool(leaf.any()) for leaf in tree.leaves(whole[0]["lr"]))
    for axis in ask.AXES[1:]:
        parts = TWO_STEPS.estimate(p.learner, p.meta, p.episodes, carry, key=KEY, axis=axis)
        close(parts[0], whole[0], 1e-10)
        close(parts[1], whole[1], 1e-10)


def test_paths_without_a_horizon_carry_nothing() -> None:
    p = of_two_steps()
    for path in (Unrolled(), Recompute(), Truncated(1)):
        assert path.estimate(p.learner, p.meta, p.episodes, key=KEY)[1] is None


# --- dropout ---------------------------------------------------------------------------------------------


def dropping() -> Problem:
    p = mlp()
    learner = MAML(MLP(1, 1, hidden=(6, 6), dropout=0.4).double(), inner_lr=0.05, inner_steps=3, loss="mse")
    meta = tree.map(Tensor.double, learner.init(torch.Generator().manual_seed(0)))
    return Problem(learner, meta, p.episodes, p.by_hand)


def test_a_recomputed_step_repeats_its_mask() -> None:
    p = dropping()
    ask.steps_repeat_when_recomputed(p.learner, p.meta, p.episodes)
    other, _ = estimate(p.learner, p.meta, p.episodes, key=KEY + 1)
    assert deviation(other, estimate(p.learner, p.meta, p.episodes)[0]) > 1e-6


def test_convolutions_with_dropout_repeat_their_masks() -> None:
    case = Case("MAML", "batch", dropout=0.4)
    ask.recomputing_changes_nothing(case.learner(), case.meta(), case.episodes())


def test_every_step_draws_a_mask_of_its_own() -> None:
    p = dropping()
    support = take(p.episodes, 0).support
    still = MAML(p.learner.module, inner_lr=1e-12, inner_steps=3, loss="mse")  # only masks change its steps
    with torch.no_grad(), running_in(training=True, key=inner_keys(1)[0]):
        reached = [fast["params"] for fast in states(still, p.meta, support, 3)]
    moves = [tree.map(torch.sub, after, before) for before, after in itertools.pairwise(reached)]
    assert min(deviation(moves[0], moves[1]), deviation(moves[1], moves[2])) > 1e-14


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("segment", [1, 2, 5])
def test_a_truncated_gradient_may_be_computed_in_segments(segment: int, first_order: bool) -> None:
    p = PROBLEMS["recurrent rule"]()
    whole = Truncated(last=3, first_order=first_order)
    parts = Truncated(last=3, first_order=first_order, segment=segment)
    close(
        estimate(p.learner, p.meta, p.episodes, gradient=parts)[0],
        estimate(p.learner, p.meta, p.episodes, gradient=whole)[0],
        1e-12,
    )
    with pytest.raises(ConfigError, match="segment >= 1"):
        Truncated(segment=0)


def test_an_unroll_in_segments_goes_on_where_it_stopped() -> None:
    p = of_two_steps("momentum")
    path = Truncated(last=None, horizon=6, segment=1)
    ask.an_unroll_goes_on(p.learner, p.meta, p.episodes, gradient=path)
