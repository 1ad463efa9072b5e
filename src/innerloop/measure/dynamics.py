"""Derivatives of the inner loop and the meta-gradient on a few tasks, as records of wide looks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.rng import key
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.gradients.base import MetaGradient
from innerloop.measure.backward import backward_norms
from innerloop.measure.curvature import inner_curvature
from innerloop.measure.first_order import first_order_gap
from innerloop.measure.gradient_noise import GradientNoise, gradient_noise
from innerloop.measure.probe import Row, row
from innerloop.measure.sensitivity import sensitivity

FEW = 3  # tasks whose inner loop is looked at; it is the worst of them that counts


@dataclass(frozen=True)
class Dynamics:
    """Measures the derivatives of a learner.

    Attributes:
        path: how its meta-gradient is obtained in training.
        tasks_per_step: the size of a meta-batch, whose noise is asked for.
        seed: of the run.
        weights: of the fresh tasks' gradients [n], as training has them; None is one for each.
        families: the family of each fresh task [n]; None is one for all.
    """

    learner: ModuleLearner
    path: MetaGradient
    tasks_per_step: int
    seed: int
    weights: Tensor | None = None
    families: Sequence[int] | None = None

    def rows(self, meta: Meta, step: int, fixed: Episode, fresh: Episode) -> tuple[list[Row], dict[str, str]]:
        """The records, and why those that are missing do not apply.

        Args:
            fixed: the few tasks that the inner loop is looked at on, the same at every look.
            fresh: tasks as training has them, others at every look, for the noise of the meta-gradient.
        """
        found: list[Row] = []
        skipped: dict[str, str] = {}
        place = key(self.seed, "probe", step)
        few = [take(fixed, i) for i in range(min(FEW, len(fixed.query.x)))]
        steps = self.learner.inner_steps

        def tried(names: tuple[str, ...], measure: Callable[[], list[Row]]) -> None:
            # A learner that cannot be measured so, or has no room for it, is trained all the same.
            try:
                found.extend(measure())
            except (NotEvaluated, RuntimeError, NotImplementedError) as error:
                skipped.update(dict.fromkeys(names, reason(error)))

        def noise() -> list[Row]:
            told = gradient_noise(
                self.path,
                self.learner,
                meta,
                fresh,
                key=place,
                num_tasks=self.tasks_per_step,
                weights=self.weights,
            )
            numbers = {"signal": told.signal, "noise": told.noise, "norm": told.norm}
            rows = [
                row(step, name, [value]) for name, value in (numbers | {"leverage": told.leverage}).items()
            ]
            return [*rows, row(step, "gradient", list(told.norms)), *conflicts(step, told, self.families)]

        def curvature() -> list[Row]:
            at = sorted({0, max(0, steps - 1)})
            worst = [max(inner_curvature(self.learner, meta, one, at=k) for k in at) for one in few]
            return [row(step, "curvature", worst)]

        def growth() -> list[Row]:
            return [row(step, "sensitivity", [sensitivity(self.learner, meta, one, steps) for one in few])]

        def backward() -> list[Row]:
            norms = [backward_norms(self.learner, meta, one, steps) for one in few]
            return [
                row(step, "backward", [of[layer][k] for of in norms], inner_step=k, layer=layer)
                for layer in norms[0]
                for k in range(len(norms[0][layer]))
            ]

        def first_order() -> list[Row]:
            cosine, error = first_order_gap(self.learner, meta, take(fixed, slice(0, FEW)), key=place)
            return [row(step, "first_order", [cosine]), row(step, "first_order_error", [error])]

        tried(("gradient", "signal", "noise", "norm", "leverage"), noise)
        tried(("curvature",), curvature)
        tried(("sensitivity",), growth)
        tried(("backward",), backward)
        tried(("first_order", "first_order_error"), first_order)
        return found, skipped


def conflicts(step: int, told: GradientNoise, families: Sequence[int] | None) -> list[Row]:
    """For each two families, mean inner products of gradients: across, and within each of the two."""
    if families is None:
        return []
    own, products = torch.tensor([families[i] for i in told.finite]), torch.tensor(told.products)
    rows = []
    for a, b in itertools.combinations(sorted(set(own.tolist())), 2):
        one, other = (own == a).nonzero()[:, 0], (own == b).nonzero()[:, 0]
        if len(one) > 1 and len(other) > 1:
            across = float(products[one][:, other].mean())
            values = [across, *(_within(products[which][:, which]) for which in (one, other))]
            rows.append(row(step, "conflict", values, layer=f"{a}-{b}"))
    return rows


def _within(products: Tensor) -> float:
    """The mean inner product of two different tasks."""
    count = len(products)
    return float(products.sum() - products.diagonal().sum()) / (count * (count - 1))


def reason(error: Exception) -> str:
    """Why a quantity was not measured, in a line."""
    if isinstance(error, NotEvaluated):
        return str(error)
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['without a message'])[0][:200]}"


def noted(setup: dict[str, Any], skipped: dict[str, str]) -> dict[str, Any]:
    """The facts of a probe, with why quantities do not apply."""
    return setup | {"skipped": setup.get("skipped", {}) | skipped}
