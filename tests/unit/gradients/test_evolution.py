"""Evolution strategies are unbiased, also for unrolls that persist, and their stated error is right."""

from __future__ import annotations

import pytest
import torch

from conformance import exactness as ask
from innerloop.core.types import Batch, Episode
from innerloop.gradients import Evolution, Unrolled
from innerloop.testing.probing import close, estimate
from unit.gradients.quadratics import Proximal, Pulled, pulls, regressions, start, truth_of_the_whole_unroll

PES = Evolution(sigma=0.3, horizon=6)


def quadratic(copies: int) -> tuple[Proximal, dict, Episode]:
    """A quadratic objective without inner steps, and one task many times."""
    learner = Proximal()
    learner.inner_steps = 0
    one = regressions(1)
    tasks = Episode(*(Batch(b.x.expand(copies, -1, -1), b.y.expand(copies, -1, -1)) for b in one))
    meta = start(learner)
    return learner, {"theta": meta["theta"]}, tasks


@pytest.mark.parametrize("antithetic", [True, False])
def test_mean_is_the_gradient_of_a_quadratic(antithetic: bool) -> None:
    learner, meta, tasks = quadratic(3000)
    expected, _ = estimate(learner, meta, tasks, gradient=Unrolled())
    path = Evolution(sigma=0.1, antithetic=antithetic)
    ask.is_unbiased(learner, meta, tasks, expected, gradient=path)


@pytest.mark.parametrize("antithetic", [True, False])
def test_stated_error_is_that_of_the_estimate_and_falls_with_pairs(antithetic: bool) -> None:
    learner, meta, tasks = quadratic(1000)
    truth = estimate(learner, meta, tasks, gradient=Unrolled())[0]["theta"]
    stated = {}
    for pairs in (4, 16):
        path = Evolution(sigma=0.1, pairs=pairs, antithetic=antithetic)
        grads, record = estimate(learner, meta, tasks, gradient=path)
        squared = record.measures["standard_error"].square().mean()
        stated[pairs] = float(squared.sqrt())
        off = float((grads["theta"] - truth).norm()) / float((squared / 1000).sqrt())
        assert 0.2 < off < 2.5  # the length of DIM normal numbers whose squares sum to about one
    assert stated[4] / stated[16] == pytest.approx(2.0, rel=0.05)


def test_parts_and_threads_draw_the_same_noise() -> None:
    learner, meta, tasks = quadratic(4)
    expected, record = estimate(learner, meta, tasks, gradient=Evolution(pairs=2))
    for axis in ask.AXES[1:]:
        grads, other = estimate(learner, meta, tasks, gradient=Evolution(pairs=2), axis=axis)
        close(grads, expected, 1e-9)
        close(other.measures, record.measures, 1e-8)


@pytest.mark.parametrize("antithetic", [True, False])
def test_persistent_particles_are_unbiased_over_an_unroll(antithetic: bool) -> None:
    learner = Pulled()
    path = Evolution(sigma=0.3, horizon=6, antithetic=antithetic)
    expected = truth_of_the_whole_unroll()
    ask.is_unbiased(learner, start(learner), pulls(8000), expected, gradient=path, steps=3)


def test_particles_persist_until_the_horizon() -> None:
    learner, tasks = Pulled(), pulls(2)
    meta, carry = start(learner), None
    totals, states = [], []
    for outer in range(4):
        _, carry, _ = PES.estimate(learner, meta, tasks, carry, key=outer, axis="vmap")
        assert carry is not None
        totals.append(carry["state"]["0"]["total"]["theta"])
        states.append(carry["state"]["0"]["one"]["x"])
        assert carry["steps"].tolist() == [(2, 4, 6, 2)[outer]] * 2
    noise = [totals[0], totals[1] - totals[0], totals[2] - totals[1]]
    assert all(float((a - b).abs().min()) > 1e-3 for a, b in ((noise[0], noise[1]), (noise[1], noise[2])))
    x = tasks.support.x.mean(1)
    for k in range(6):  # each outer step has its own perturbation, and the state goes on
        moved = meta["theta"] + 0.3 * noise[k // 2]
        x = 0.9 * x + moved + 0.1 * (k + 1) * tasks.support.x[:, 0]
        if k % 2:
            close(states[k // 2], x, 1e-12)
    fresh, _, _ = PES.estimate(learner, meta, tasks, key=3, axis="vmap")
    again, _, _ = PES.estimate(learner, meta, tasks, carry, key=3, axis="vmap")
    assert not torch.equal(fresh["theta"], again["theta"])  # the carry was used
    done = carry | {"steps": torch.full_like(carry["steps"], 6)}
    close(
        PES.estimate(learner, meta, tasks, done, key=3, axis="vmap")[0], fresh, 0.0
    )  # and dropped at the end
