"""The gradient at a fixed point of the inner step, without the path that led there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError, check_count, check_range
from innerloop.core.learner import MetaLearner, outer_weights
from innerloop.core.types import Meta
from innerloop.core.vectorise import Lift
from innerloop.gradients.base import Estimate, MetaGradient, Tasks, learned, shaped_like
from innerloop.gradients.chain import Chain, held, inputs_of, moving, pulled

Vectors = list[Tensor]  # leaves [T, ...]: one vector for each task
Operator = Callable[[Vectors], Vectors]


@dataclass(frozen=True)
class Implicit(MetaGradient):
    """The implicit-function gradient of an inner loop that has converged: fast* = step(meta, fast*).

        g = v^T (I - J)^{-1} dstep/dmeta,   v = dL_Q/dfast*,   J = dstep/dfast at fast*

    The linear system is solved without a matrix, one vector-Jacobian product of the last step an
    iteration, for all tasks at once. For gradient descent on a proximal loss, L_S + lam/2 |fast - theta|^2,
    I - J is the rate times the damped Hessian, and g is iMAML's (Rajeswaran et al. 2019, arXiv 1909.04630).
    The inner loop has to depend on `meta` in every step: a plain initialisation has no implicit gradient.

    Exact where the inner loop has converged and the solver too; `record.measures["residual"]`
    is each task's relative residual. Memory: one step's graph and a few vectors, whatever `inner_steps`.
    It is not compiled: how many products a solver needs depends on the numbers.

    Args:
        solver: `cg`, for a symmetric J (gradient descent without momentum), or `neumann`, the
            series v + J^T v + ..., for any step that contracts (Lorraine et al. 2020, arXiv 1911.02590).
        iterations: products with J at most, >= 1.
        damping: added to the diagonal of I - J, >= 0; biases the gradient towards v.
        tolerance: relative residual at which a task's solution is left as it is, >= 0.
    """

    solver: Literal["cg", "neumann"] = "cg"
    iterations: int = 20
    damping: float = 0.0
    tolerance: float = 1e-6
    exact = False
    compiles = False

    def __post_init__(self) -> None:
        if self.solver not in _SOLVERS:
            raise ConfigError(
                f"solver = {self.solver!r}", expected=f"one of {', '.join(_SOLVERS)}", do="choose one"
            )
        check_count("iterations", self.iterations, low=1)
        check_range("damping", self.damping, low=0.0)
        check_range("tolerance", self.tolerance, low=0.0)

    def of_part(self, learner: MetaLearner, meta: Meta, tasks: Tasks, lift: Lift) -> Estimate:
        whole, leaves = inputs_of(meta)
        episodes, keys = tasks.episodes, tasks.keys
        steps = learner.inner_steps
        if steps == 0 or any(outer_weights(learner)[:-1]):
            raise ContractError(
                "no inner loop" if steps == 0 else "an outer objective that looks at states on the way",
                expected="inner steps whose last state alone is judged",
                do="use Unrolled or Recompute",
            )
        with torch.no_grad():
            loop = Chain(learner, whole, range(steps), whole=False)
            reached = lift(lambda episode, key: loop.advance(None, episode, key))(episodes, keys)
        end = held(reached, requires_grad=True)
        point = moving(end)
        with torch.enable_grad():
            chain = Chain(learner, whole, [steps - 1], stream=steps - 1, whole=False)
            judged = lift(chain.judged)(end, episodes, keys)
            again = moving(lift(chain.step)(end, episodes, keys))
        losses = judged["loss"]
        weights = torch.ones_like(losses) if tasks.weights is None else tasks.weights.to(losses.dtype)
        direct = pulled([losses], [weights], [*leaves, *point])
        v = _filled(direct[len(leaves) :], point)

        def system(w: Vectors) -> Vectors:
            moved = _filled(pulled(again, w, point, keep=True), point)
            return [(1 + self.damping) * a - b for a, b in zip(w, moved, strict=True)]

        solution, residual = _SOLVERS[self.solver](system, v, self.iterations, self.tolerance)
        through = pulled(again, solution, leaves)
        if all(g is None for g in through):
            raise ContractError(
                f"an inner step of {type(learner).__name__} that does not depend on meta",
                expected="a fixed point that moves with meta, as with a proximal term",
                do="use Unrolled or Recompute, or a learner with a proximal inner loss",
            )
        total = [a + b for a, b in zip(_filled(direct, leaves), _filled(through, leaves), strict=True)]
        grads = shaped_like(meta, tree.rebuild(learned(meta), total))
        return Estimate(grads, losses.detach(), judged["statistics"], {"residual": residual})

    def passes(self, steps: int) -> float:
        return 3.0 * steps + 6.0 * (self.iterations + 1)

    def memory(self, steps: int, params: int, activations: int) -> float:
        return float(8 * params + 4 * activations)


def _filled(found: Sequence[Tensor | None], like: Vectors) -> Vectors:
    """Zero where there is no derivative."""
    return [torch.zeros_like(x) if g is None else g for x, g in zip(like, found, strict=False)]


def conjugate_gradients(
    system: Operator, v: Vectors, iterations: int, tolerance: float
) -> tuple[Vectors, Tensor]:
    """Solve a symmetric positive definite system for each task; a solved task rests while others go on."""
    x = [torch.zeros_like(leaf) for leaf in v]
    residual = direction = v
    squared = start = _dots(v, v)
    for _ in range(iterations):
        active = squared > tolerance**2 * start
        if not bool(active.any()):
            break
        image = system(direction)
        curvature = _dots(direction, image)
        length = torch.where(active, squared / _nonzero(curvature), 0.0)
        x = _add(x, length, direction)
        residual = _add(residual, -length, image)
        fresh = _dots(residual, residual)
        ratio = torch.where(active, fresh / _nonzero(squared), 0.0)
        direction = _add(residual, ratio, direction)
        squared = torch.where(active, fresh, squared)
    return x, (squared / _nonzero(start)).sqrt()


def neumann(system: Operator, v: Vectors, iterations: int, tolerance: float) -> tuple[Vectors, Tensor]:
    """The series of Richardson's iteration, x <- x + (v - A x), for each task."""
    x, start = v, _dots(v, v)
    squared = start
    for _ in range(iterations):
        gap = [a - b for a, b in zip(v, system(x), strict=True)]
        squared = _dots(gap, gap)
        active = squared > tolerance**2 * start
        if not bool(active.any()):
            break
        x = _add(x, active.to(squared.dtype), gap)
    return x, (squared / _nonzero(start)).sqrt()


_SOLVERS = {"cg": conjugate_gradients, "neumann": neumann}


def _dots(a: Vectors, b: Vectors) -> Tensor:
    """The inner product of each task's two vectors [T]."""
    return torch.stack([(x * y).flatten(1).sum(1) for x, y in zip(a, b, strict=True)]).sum(0)


def _add(x: Vectors, scale: Tensor, y: Vectors) -> Vectors:
    return [a + scale.view(-1, *(1,) * (a.ndim - 1)) * b for a, b in zip(x, y, strict=True)]


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x == 0, torch.ones_like(x), x)
