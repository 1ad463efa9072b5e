"""The cart moves as physics says, and its tasks are stretches of such a life."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from innerloop.core.errors import ConfigError
from innerloop.tasks import Cart
from innerloop.tasks.cart import FORCE, STEP, CartSimulator, advanced


@pytest.mark.parametrize(("mass", "friction", "spring"), [(0.5, 1.0, 0.0), (0.5, 0.0, 0.0), (2.0, 0.3, 4.0)])
def test_a_step_solves_the_equation_of_motion(mass: float, friction: float, spring: float) -> None:
    # With the force as a third, constant number the system is linear: its flow is a matrix exponential.
    system = torch.tensor(
        [[0.0, 1.0, 0.0], [-spring / mass, -friction / mass, 1 / mass], [0.0, 0.0, 0.0]], dtype=torch.float64
    )
    flow = torch.linalg.matrix_exp(STEP * system)
    expected = flow @ torch.tensor([0.7, -1.3, 4.0], dtype=torch.float64)
    found = advanced(0.7, -1.3, 4.0, mass, friction, spring)
    assert found == pytest.approx(expected[:2].tolist(), abs=1e-7)
    # Planted: Euler's rule is off by a thousandth.
    euler = 0.7 + STEP * -1.3
    assert abs(euler - float(expected[0])) > 1e-3


def test_without_friction_energy_is_kept_for_a_minute() -> None:
    cart = CartSimulator(2.0, 0.0, spring=4.0)
    cart.reset(1.0, 0.0)
    for _ in range(600):
        position, velocity = cart.step(0.0).double().tolist()
    assert 2.0 * velocity**2 + 4.0 * position**2 == pytest.approx(4.0, rel=1e-5)
    assert position == pytest.approx(math.cos(math.sqrt(2.0) * 60.0), abs=1e-4)


def test_targets_are_the_changes_of_the_next_transition() -> None:
    episode = Cart(shots=6, queries=5, spring=2.0).sample("train", 20, 0)
    x = torch.cat([episode.support.x, episode.query.x], 1)
    y = torch.cat([episode.support.y, episode.query.y], 1)
    states = x[..., :2] * 2.0
    assert torch.allclose(Cart.moved(states, y)[:, :-1], states[:, 1:], atol=1e-5)  # the query goes on
    assert torch.allclose(Cart.target(states[:, :-1], states[:, 1:]), y[:, :-1], atol=1e-4)
    assert torch.allclose(Cart.encoded(states, x[..., 2:] * FORCE), x, atol=1e-6)


def estimated(episode: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """1 / mass and friction / mass of each task, by least squares on the mean velocities of its steps."""
    speed = y[..., 1] * 2.0
    found = torch.linalg.lstsq(
        torch.stack([episode[..., 2] * FORCE, -speed], -1).double(), (y[..., 0] * FORCE).double()[..., None]
    )
    return found.solution.squeeze(-1)


def test_masses_and_frictions_are_those_of_the_task() -> None:
    support = Cart(shots=40, mass=(0.5, 4.0), friction=(0.2, 0.6)).sample("train", 400, 0).support
    inverse, ratio = estimated(support.x, support.y).unbind(-1)
    mass, friction = 1 / inverse, ratio / inverse
    assert 0.49 < mass.min() < 0.53
    assert 3.8 < mass.max() < 4.05
    assert abs(mass.log().mean() - math.log(2.0) / 2) < 0.08  # log-uniform: the middle is sqrt(0.5 * 4)
    assert 0.19 < friction.min() < 0.22
    assert 0.58 < friction.max() < 0.61
    assert abs(np.corrcoef(mass, friction)[0, 1]) < 0.12


def test_a_change_comes_at_any_transition_of_that_share_of_tasks() -> None:
    plain, changing = (Cart(shots=10, queries=10, change=c).sample("train", 600, 0) for c in (0.0, 0.5))
    targets = [torch.cat([batch.y for batch in episode], 1) for episode in (plain, changing)]
    differs = (targets[0] != targets[1]).any(-1)
    changed = differs.any(1)
    assert abs(changed.float().mean() - 0.5) < 0.07
    first = differs[changed].float().argmax(1)
    assert set(first.tolist()) == set(range(1, 20))
    assert not differs[:, 0].any()


def test_the_simulator_and_the_tasks_obey_the_same_physics() -> None:
    support = Cart(mass=(2.0, 2.0), friction=(0.4, 0.4), spring=1.0).sample("val", 3, 5).support
    for x, y in zip(support.x, support.y, strict=True):
        cart = CartSimulator(2.0, 0.4, spring=1.0)
        state = cart.reset(*(x[0, :2] * 2.0).tolist())
        for force, target in zip(x[:, 2] * FORCE, y, strict=True):
            after = cart.step(float(force))
            assert torch.allclose(Cart.target(state, after), target, atol=2e-5)
            state = after


def test_the_mass_changes_when_it_is_told_to_and_reset_brings_it_back() -> None:
    cart = Cart().simulator(1.0, 0.0, changes={3: 4.0, 5: 0.5})
    for _ in range(2):
        cart.reset()
        masses, speeds = [], [0.0]
        for _ in range(6):
            speeds.append(float(cart.step(2.0)[1]))
            masses.append(cart.mass)
        assert masses == [1.0, 1.0, 1.0, 4.0, 4.0, 0.5]
        gained = np.diff(speeds)
        assert gained == pytest.approx([2.0 * STEP / m for m in masses], abs=1e-6)


def test_a_push_is_no_stronger_than_the_limit() -> None:
    carts = [CartSimulator(1.0, 0.1) for _ in range(2)]
    assert torch.equal(carts[0].step(FORCE), carts[1].step(100 * FORCE))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"mass": (0.0, 1.0)}, "mass = 0.0"),
        ({"mass": (2.0, 1.0)}, "mass = 1.0"),
        ({"mass": 1.0}, "two numbers"),
        ({"friction": (-1.0, 1.0)}, "friction = -1.0"),
        ({"spring": -1.0}, "spring = -1.0"),
        ({"change": 1.1}, "change = 1.1"),
        ({"shots": 0}, "shots = 0"),
    ],
)
def test_what_no_cart_can_be_is_refused(how: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Cart(**how)


def test_what_no_simulator_can_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="mass = 0"):
        CartSimulator(0.0, 0.1)
    with pytest.raises(ConfigError, match=r"changes\[3\] = -1"):
        CartSimulator(1.0, 0.1, changes={3: -1.0})
    with pytest.raises(ConfigError, match="number of a step"):
        CartSimulator(1.0, 0.1, changes={-1: 1.0})


def test_forces_follow_from_states_and_shake() -> None:
    x = Cart(shots=30).sample("train", 400, 0).support.x.double()
    position, velocity, force = x.unbind(-1)
    assert force.abs().max() <= 1.0
    assert 0.1 < (force.abs() == 1.0).double().mean() < 0.5  # a push is often as strong as it may be
    pull = torch.linalg.lstsq(torch.stack([position, velocity], -1).flatten(0, 1), force.flatten()).solution
    assert pull[0] < -0.3  # back, from wherever it is
    assert position.abs().max() < 3.0  # so that nobody gets lost
    jumps = (force[:, 1:] - force[:, :-1]).abs().mean(1)
    assert jumps.quantile(0.1) < jumps.quantile(0.9) / 4  # some hands shake, some hardly do
