"""Planted bugs of gradient paths: each is a line that could be forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from innerloop.core import functional, tree
from innerloop.core.types import Batch, Fast, Meta
from innerloop.gradients import Evolution, Implicit, Recompute, Truncated
from innerloop.gradients.base import Carry, Estimate, Tasks
from innerloop.gradients.chain import pulled
from unit.gradients.problems import LearnedRates

# --- learners --------------------------------------------------------------------------------------------


class DetachesAStep:
    """Cuts the graph after the second step: a `.data` or `.item()` in the middle."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        after = super().step(meta, fast, support, k)  # pyright: ignore
        return tree.map(torch.Tensor.detach, after) if k == 1 else after


class DropsTheHessian:
    """Detaches the inner gradient, which leaves the step's own derivative: a first-order step."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        held = tree.map(torch.Tensor.detach, fast["params"])
        after = super().step(meta, fast | {"params": held}, support, k)  # pyright: ignore
        moved = tree.map(lambda new, old: new - old, after["params"], held)
        return after | {"params": tree.map(lambda p, move: p + move.detach(), fast["params"], moved)}


class ForgetsTheRate(LearnedRates):
    """Steps with rates that no gradient reaches."""

    def rates(self, meta: Meta, k: int) -> Any:
        return tree.map(torch.Tensor.detach, meta["lr"])


# --- paths -----------------------------------------------------------------------------------------------


@contextmanager
def a_segment_is_not_added(leaves: int) -> Iterator[None]:
    """The gradient of every other segment is passed further back, and not added up.

    Args:
        leaves: number of leaves of `meta`, which stand first among what is differentiated.
    """
    calls = []

    def skipping(outputs: Any, cotangents: Any, inputs: Any, **how: Any) -> list[Tensor | None]:
        grads = pulled(outputs, cotangents, inputs, **how)
        calls.append(len(inputs))
        return [None] * leaves + grads[leaves:] if len(calls) % 2 == 0 else grads

    with mock.patch("innerloop.gradients.sweep.pulled", skipping):
        yield


@contextmanager
def in_place_of_unrolled(mutant: type[Any]) -> Iterator[None]:
    with mock.patch("conformance.exactness.Unrolled", mutant):
        yield


class SwapsSegments(Recompute):
    """Takes the first two segments in the wrong order."""

    def segments(self, steps: int) -> list[range]:
        first, second, *rest = super().segments(steps)
        return [second, first, *rest]


@contextmanager
def masks_drawn_anew() -> Iterator[None]:
    """Dropout that draws another mask whenever a step is run again."""
    true, calls = functional.keyed_uniform, []

    def draw(key: Tensor, shape: tuple[int, ...]) -> Tensor:
        calls.append(1)
        return true(key + len(calls), shape)

    with mock.patch.object(functional, "keyed_uniform", draw):
        yield


class StopsOneEarly(Implicit):
    """One iteration of the solver less than was asked for."""

    def of_part(self, learner: Any, meta: Meta, tasks: Tasks, lift: Any) -> Estimate:
        fewer = Implicit(self.solver, self.iterations - 1, self.damping, self.tolerance)
        return fewer.of_part(learner, meta, tasks, lift)


class ForgetsSigma(Evolution):
    """Differences that are not divided by sigma."""

    def summed(self, learner: Any, meta: Meta, tasks: Tasks) -> Estimate:
        found = super().summed(learner, meta, tasks)
        return dataclasses.replace(found, grads=tree.map(lambda g: g * self.sigma, found.grads))


class ForgetsPerturbations(Evolution):
    """Goes on with the states, and forgets how they were perturbed: ordinary truncated strategies."""

    def estimate(self, learner: Any, meta: Meta, episodes: Any, carry: Carry = None, **how: Any) -> Any:
        if carry is not None:
            pairs = {
                i: pair | {"total": tree.zeros_like(pair["total"])} for i, pair in carry["state"].items()
            }
            carry = carry | {"state": pairs}
        return super().estimate(learner, meta, episodes, carry, **how)


class StartsAfresh(Truncated):
    """Takes the carry, and begins again all the same."""

    def begin(self, tasks: Tasks) -> Tasks:
        return dataclasses.replace(tasks, carry=None)


class CountsAndStartsAfresh(Truncated):
    """Keeps the count of steps and loses the state."""

    def of_part(self, learner: Any, meta: Meta, tasks: Tasks, lift: Any) -> Estimate:
        before = tasks.carry
        found = super().of_part(learner, meta, dataclasses.replace(tasks, carry=None), lift)
        done = found.carry["steps"] + (0 if before is None else before["steps"])
        return dataclasses.replace(found, carry=found.carry | {"steps": done})
