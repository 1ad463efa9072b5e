"""A cart on a line whose mass nobody tells: the smallest system that has to be identified while it moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from innerloop.core.errors import ConfigError, check_count, check_range
from innerloop.core.rng import Keys, fold, uniform
from innerloop.tasks.regression import TargetTasks, Values

STEP = 0.1  # seconds that a force is held
FORCE = 5.0  # newtons, the largest force either way
REACH, SPEED = 2.0, 2.0  # metres and metres per second: where tasks begin, and the units of a model

_SUBSTEPS = 4  # of Runge and Kutta's fourth order in one STEP, which is then exact to about 1e-7
Number: TypeAlias = Values | float


def advanced(
    position: Number, velocity: Number, force: Number, mass: Number, friction: Number, spring: float
) -> tuple[Number, Number]:
    """Position and velocity after one STEP of mass * dv/dt = force - friction * v - spring * position."""
    h = STEP / _SUBSTEPS

    def pull(p: Number, v: Number) -> Number:
        return (force - friction * v - spring * p) / mass

    for _ in range(_SUBSTEPS):
        v1, a1 = velocity, pull(position, velocity)
        v2 = velocity + h / 2 * a1
        a2 = pull(position + h / 2 * v1, v2)
        v3 = velocity + h / 2 * a2
        a3 = pull(position + h / 2 * v2, v3)
        v4 = velocity + h * a3
        a4 = pull(position + h * v3, v4)
        position = position + h / 6 * (v1 + 2 * v2 + 2 * v3 + v4)
        velocity = velocity + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
    return position, velocity


@final
class CartSimulator:
    """One cart, moved a STEP at a time; its mass may change while it moves, and it does not say so.

    Args:
        mass: kilograms, > 0.
        friction: newtons per metre per second, >= 0.
        spring: newtons per metre that pull it back to 0, >= 0.
        changes: number of a step -> mass from that step on.

    Attributes:
        mass: as it is now.
        state: position and velocity, float32 [2].
        steps: how many were made since `reset`.

    >>> cart = CartSimulator(1.0, 0.0, changes={1: 5.0})
    >>> _ = cart.reset()
    >>> [round(float(cart.step(5.0)[1]), 3) for _ in range(2)]
    [0.5, 0.6]
    """

    def __init__(
        self,
        mass: float,
        friction: float,
        *,
        spring: float = 0.0,
        changes: Mapping[int, float] | None = None,
    ) -> None:
        for name, value in {"mass": mass, **{f"changes[{k}]": m for k, m in (changes or {}).items()}}.items():
            check_range(name, value, low=0.0, open_low=True)
        for name, value in {"friction": friction, "spring": spring}.items():
            check_range(name, value, low=0.0)
        for number in changes or {}:
            check_count("number of a step in changes", number, low=0)
        self.friction, self.spring = friction, spring
        self._masses = {0: mass} | dict(changes or {})
        self.reset()

    def reset(self, position: float = 0.0, velocity: float = 0.0) -> Tensor:
        """Put the cart at a `position` and `velocity`, and count steps from 0; returns the state."""
        self._position, self._velocity, self.steps = float(position), float(velocity), 0
        self.mass = self._masses[0]
        return self.state

    def step(self, force: float) -> Tensor:
        """Push for one STEP by a `force`, of FORCE at most; returns the state after it."""
        self.mass = self._masses.get(self.steps, self.mass)
        force = min(max(float(force), -FORCE), FORCE)
        found = advanced(self._position, self._velocity, force, self.mass, self.friction, self.spring)
        self._position, self._velocity = float(found[0]), float(found[1])
        self.steps += 1
        return self.state

    @property
    def state(self) -> Tensor:
        return torch.tensor([self._position, self._velocity])


@final
class Cart(TargetTasks):
    """Stretches of the life of a cart: from the last transitions, predict the next.

    mass * dv/dt = force - friction * v - spring * position, with a force that is held for 0.1 s at a time:
    feedback towards places that change, more or less firm, and shaking. x = (position, velocity, force),
    y = (change of velocity, change of position) over 0.1 s, all in units that make them about one
    (`encoded`, `target`). The support is `shots` transitions in a row, the query the `queries` after them.
    Mass (log-uniform) and friction (uniform) differ from task to task. The numbers are ours. Train, val and
    test draw from the same distribution, as independent streams.

    Args:
        shots: transitions of the support (M), >= 1.
        queries: transitions of the query (K), >= 1.
        mass: the least and the largest mass in kilograms, > 0.
        friction: the least and the largest friction in newtons per metre per second, >= 0.
        spring: newtons per metre that pull the cart back to 0, >= 0.
        change: probability, in [0, 1], that mass and friction are drawn anew at some transition of a task.
        train_shots, train_queries: sizes of training tasks; None means the same as at test.

    Raises:
        ConfigError: a size, a range or a probability is none.

    Example:
        A light cart and a heavy one, pushed alike:

        >>> cart = Cart()
        >>> [round(float(cart.simulator(m, 0.0).step(5.0)[1]), 3) for m in (0.5, 5.0)]
        [1.0, 0.1]

        Tasks for a learner that is to find out which it is:

        >>> support, query = Cart(shots=16, queries=8).sample("test", 3, 0)
        >>> support.x.shape, query.y.shape
        (torch.Size([3, 16, 3]), torch.Size([3, 8, 2]))
    """

    inputs, outputs = 3, 2

    def __init__(
        self,
        shots: int = 16,
        queries: int = 16,
        *,
        mass: tuple[float, float] = (0.5, 5.0),
        friction: tuple[float, float] = (0.5, 1.5),
        spring: float = 0.0,
        change: float = 0.0,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        self._set_sizes(shots=shots, queries=queries, train_shots=train_shots, train_queries=train_queries)
        self.mass = _interval("mass", mass, open_low=True)
        self.friction = _interval("friction", friction)
        check_range("spring", spring, low=0.0)
        check_range("change", change, low=0.0, high=1.0)
        self.spring, self.change = spring, change

    def simulator(
        self, mass: float, friction: float, *, changes: Mapping[int, float] | None = None
    ) -> CartSimulator:
        """One cart of these tasks, to be moved step by step.

        Args:
            mass: kilograms, > 0.
            friction: as `CartSimulator` has it, >= 0.
            changes: masses from some steps on.
        """
        return CartSimulator(mass, friction, spring=self.spring, changes=changes)

    @staticmethod
    def encoded(states: Tensor, forces: Tensor) -> Tensor:
        """What a model is given, [..., 3]: states (position, velocity) [..., 2] and forces [..., 1]."""
        return torch.cat([states / states.new_tensor([REACH, SPEED]), forces / FORCE], dim=-1)

    @staticmethod
    def target(states: Tensor, after: Tensor) -> Tensor:
        """What a model predicts, [..., 2], from the states before and after a step."""
        return (after - states).flip(-1) / states.new_tensor([STEP * FORCE, STEP * SPEED])

    @staticmethod
    def moved(states: Tensor, outputs: Tensor) -> Tensor:
        """The states [..., 2] that a model's outputs [..., 2] lead to: the inverse of `target`."""
        return states + (outputs * outputs.new_tensor([STEP * FORCE, STEP * SPEED])).flip(-1)

    def _examples(self, keys: Keys, shots: int, queries: int) -> tuple[Values, Values]:
        num = shots + queries
        drawn = uniform(keys, 11).T
        position, velocity = REACH * (2.0 * drawn[0] - 1.0), SPEED * (2.0 * drawn[1] - 1.0)
        until = np.where(drawn[2] < self.change, np.floor(1 + drawn[3] * (num - 1)), num)
        pilot = _Pilot(keys, num, *drawn[8:])
        states, forces = [np.stack([position, velocity], axis=-1)], []
        for k in range(num):
            mass, friction = self._physics(np.where(k < until, drawn[4:6], drawn[6:8]))
            forces.append(pilot.force(k, position, velocity))
            position, velocity = advanced(position, velocity, forces[-1], mass, friction, self.spring)
            states.append(np.stack([position, velocity], axis=-1))
        path = torch.from_numpy(np.stack(states, axis=1))
        before, after = path[:, :-1], path[:, 1:]
        pushed = torch.from_numpy(np.stack(forces, axis=1))[..., None]
        return self.encoded(before, pushed).numpy(), self.target(before, after).numpy()

    def _physics(self, shares: Values) -> tuple[Values, Values]:
        """Mass and friction [T] at some shares [2, T] of their ranges."""
        (light, heavy), (low, high) = self.mass, self.friction
        return light * (heavy / light) ** shares[0], low + (high - low) * shares[1]

    @classmethod
    def tiny(cls) -> Self:
        """Few transitions a task; the distribution itself needs no data."""
        return cls(shots=4, queries=6)


class _Pilot:
    """Pushes each cart towards a place, and now and then another; gains and shaking differ from task to task.

    A model that is planned with sees forces that follow from states. One that was trained on forces at random
    mistakes the effect of the one for that of the other, and steers worse for having adapted.
    """

    def __init__(self, keys: Keys, num: int, pull: Values, damping: Values, spread: Values) -> None:
        self.pull, self.damping, self.spread = 10.0 * pull, 5.0 * damping, FORCE * spread
        self.goals = uniform(fold(keys, 0), num, -REACH, REACH)
        self.turns = uniform(fold(keys, 1), num) < 0.1
        self.shaking = uniform(fold(keys, 2), num, -1.0, 1.0)
        self.goal = self.goals[:, 0]

    def force(self, k: int, position: Number, velocity: Number) -> Values:
        self.goal = np.where(self.turns[:, k], self.goals[:, k], self.goal)
        wanted = self.pull * (self.goal - position) - self.damping * velocity
        return (wanted + self.spread * self.shaking[:, k]).clip(-FORCE, FORCE)


def _interval(name: str, given: tuple[float, float], *, open_low: bool = False) -> tuple[float, float]:
    """A pair of a least and a largest number."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ConfigError(f"{name} = {given!r}", expected="two numbers", do=f"give {name} = (least, largest)")
    low, high = given
    check_range(name, low, low=0.0, open_low=open_low)
    check_range(name, high, low=low)
    return (low, high)
