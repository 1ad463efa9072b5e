"""Planted bugs of update rules: wrappers around a right rule, and changes of what the rules share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from innerloop.core import tree
from unit.rules.questions import Case

MODULES = ("sgd", "adagrad", "adam", "adamw", "rmsprop")


def with_rule(case: Case, mutant: Callable[[Any], Any]) -> Case:
    """The case with a mutant around its rule."""
    return replace(case, rule=lambda **settings: mutant(case.rule(**settings)))


def with_settings(case: Case, **wrong: Any) -> Case:
    """The case whose rule ignores some settings, while torch's does not."""
    return replace(case, rule=lambda **settings: case.rule(**settings | wrong))


def with_constant(case: Case, what: str) -> Case:
    """The case whose rule takes one learned number without its derivative."""

    def rule(**settings: Any) -> Any:
        return case.rule(**settings | {what: tree.map(Tensor.detach, settings[what])})

    return replace(case, rule=rule)


# --- wrappers ----------------------------------------------------------------------------------------------


class Wrapped:
    """A rule as it is."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def init(self, params: Any) -> Any:
        return self.rule.init(params)

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        return self.rule.step(grads, state, params)


class DetachesItsState(Wrapped):
    """Keeps no graph between steps, as an optimizer does."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        params, state = super().step(grads, state, params)
        return params, tree.map(Tensor.detach, state)


class DetachesUnderPlainAutograd(Wrapped):
    """Is right only inside the transforms of `torch.func`."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        inside = torch._C._are_functorch_transforms_active()
        return super().step(grads if inside else tree.map(Tensor.detach, grads), state, params)


class Diverges(Wrapped):
    """Leaves the finite numbers, where a comparison with them is neither true nor false."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        params, state = super().step(grads, state, params)
        return tree.map(lambda p: p * math.nan, params), state


class DampsMomentum(Wrapped):
    """b = momentum * b + (1 - momentum) * g: the average, not the sum."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        damped = {n: (1 - self.rule.momentum) * g for n, g in grads.items()}
        return super().step(damped, state, params)


class CountsFromOne(Wrapped):
    """Begins as if a step had been taken."""

    def init(self, params: Any) -> Any:
        state = super().init(params)
        return state | {"count": state["count"] + 1}


class ForgetsItsState(Wrapped):
    """Returns the state that it was given."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        return super().step(grads, state, params)[0], state


class CountsOnItself:
    """Decays its rate by a count of its own, which tasks of a loop share and tasks of a vmap do not."""

    count = 0

    def __init__(self, rule: Any) -> None:
        self.rule, self.init = rule, rule.init

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        CountsOnItself.count += 1
        slower = 1 / (1 + 1e-6 * CountsOnItself.count)
        return self.rule.step({n: g * slower for n, g in grads.items()}, state, params)


class CountsInPython(Wrapped):
    """Has a number in its state."""

    def init(self, params: Any) -> Any:
        return super().init(params) | {"count": 0}

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        params, after = super().step(grads, state, params)
        return params, after | {"count": state["count"] + 1}


class CountsInIntegers(Wrapped):
    """Has an integer tensor in its state, which autograd refuses."""

    def init(self, params: Any) -> Any:
        return tree.map(lambda leaf: leaf.long() if leaf.ndim == 0 else leaf, super().init(params))


class GrowsItsState(Wrapped):
    """Has in its state after a step what was not there before."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        params, after = super().step(grads, state, params)
        return params, after | {"last": grads}


class StepsInPlace(Wrapped):
    """Writes its state where it stands."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        params, after = super().step(grads, state, params)
        tree.map(lambda old, new: old.copy_(new), state, after)
        return params, state


class DecaysGradientsInPlace(Wrapped):
    """Adds the weight decay to the gradient that it was given."""

    def step(self, grads: Any, state: Any, params: Any) -> Any:
        for name, grad in grads.items():
            grad.add_(params[name], alpha=1e-3)
        return super().step(grads, state, params)


# --- changes of what the rules share -----------------------------------------------------------------------


@contextmanager
def shared(name: str, wrong: Callable[..., Any]) -> Iterator[None]:
    """Another function in place of a shared one, in every rule that uses it."""
    with ExitStack() as stack:
        for module in MODULES:
            path = f"innerloop.rules.{module}"
            if hasattr(__import__(path, fromlist=["_"]), name):
                stack.enter_context(mock.patch(f"{path}.{name}", wrong))
        yield


def plain_root(v: Tensor) -> Tensor:
    """The square root, whose derivative at zero is infinite."""
    return v.sqrt()


def half_safe_root(v: Tensor) -> Tensor:
    """Guarded once: zero times infinity is still in the backward pass."""
    return torch.where(v > 0, v.sqrt(), torch.zeros_like(v))


def root_of_a_constant(v: Tensor) -> Tensor:
    """Finite, and wrong wherever there is a gradient."""
    return v.sqrt().detach()


def eps_under_the_root(v: Tensor) -> Tensor:
    return (v + 1e-8).sqrt()


def no_bias_correction(decay: Any, weight: Any) -> Any:
    return tree.map(torch.ones_like, weight)


def subtracted_power(decay: Any, weight: Any) -> Any:
    """1 - decay^t as it is written, which in float32 loses its digits."""
    return tree.map(lambda w, d: 1 - (1 - w) * d, weight, decay)


def power_by_logarithms(decay: Any, weight: Any) -> Any:
    """1 - exp(t log decay), which has no derivative at decay = 0."""

    def power(w: Tensor, d: Any) -> Tensor:
        log = d.log() if isinstance(d, Tensor) else torch.tensor(math.log(d) if d else -math.inf)
        return 1 - (1 - w) * log.exp()

    return tree.map(power, weight, decay)


def bias_of_a_constant(decay: Any, weight: Any) -> Any:
    """Right in value, without the derivative by a learned decay."""
    return tree.map(lambda w, d: (d * w + (1 - d)).detach(), weight, decay)


def read_for_the_first(value: Any, name: str) -> Any:
    """One number for all parameters that are given one each."""
    return next(iter(value.values())) if isinstance(value, dict) else value


def read_as_the_mean(value: Any, name: str) -> Any:
    """One number for all elements of a parameter."""
    return value[name].mean() if isinstance(value, dict) else value


def read_without_eps(value: Any, name: str) -> Any:
    return 0.0 if value == 1e-8 else value


def never_off(value: Any) -> bool:
    """A momentum and a decay of zero, computed all the same."""
    return False


def unchecked(name: str, value: Any, **bounds: Any) -> None:
    """Takes every number."""


def decay_not_scaled(grads: Any, params: Any, weight_decay: Any) -> Any:
    """The derivative of weight_decay times the squared norm, without its half."""
    return {n: g + 2 * weight_decay * params[n] for n, g in grads.items()}
