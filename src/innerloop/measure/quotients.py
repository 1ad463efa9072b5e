"""A meta-gradient beside difference quotients of the outer objective, over many distances, in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from innerloop.core import rng
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Batch, Episode, Meta
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.quotients import RIGHT
from innerloop.gradients.base import MetaGradient
from innerloop.gradients.check import beside, float64_by_default, to_float64
from innerloop.gradients.questioning import Subject

#: Distances h of the difference quotients, largest first.
DISTANCES = (1e-4, 1e-5, 1e-6, 1e-8, 1e-10)
_RANDOM = 2  # directions beside the gradient's own


def quotient_sweep(
    learner: MetaLearner,
    meta: Meta,
    episodes: Episode,
    path: MetaGradient,
    *,
    key: int,
    seed: int,
) -> dict[float, list[float]]:
    """Errors of a meta-gradient g against difference quotients of the outer objective F, in float64.

        e(h) = |[F(theta + h v) - F(theta - h v)] / 2h - <g, v>| / max(|quotient|, |<g, v>|)

    for v along g and along random directions, at a point one hundredth of each leaf's size from `meta`, since
    zero biases stand on the kinks of a ReLU. The learner is copied.

    Args:
        episodes: stacked tasks; a few will do.
        path: how g is obtained.
        key: source of the randomness inside inner steps.
        seed: of the point and the directions.

    Returns:
        For each distance h the errors by direction, in one order. `kind_of_error` judges them.

    Raises:
        NotEvaluated: a task does not stay finite.
    """
    learner = copy.deepcopy(learner)
    double = Episode(*(Batch(_double(batch.x), _double(batch.y)) for batch in episodes))
    with float64_by_default():
        to_float64(learner)
        subject = Subject(learner, beside(meta, seed), double, path, key, tolerance=RIGHT)
        grads, record = subject.estimate(path, "loop")
        if not all(outcome.ok for outcome in record.outcomes):
            raise NotEvaluated("the inner loop of a task did not stay finite")
        slopes = list(grads.values())
        directions = _directions(slopes, seed)
        found: dict[float, list[float]] = {}
        for h in DISTANCES:
            quotients = [(subject.moved(v, h) - subject.moved(v, -h)) / (2 * h) for v in directions]
            found[h] = [_error(q, _dot(slopes, v)) for q, v in zip(quotients, directions, strict=True)]
    return found


def _directions(slopes: list[Tensor], seed: int) -> list[list[Tensor]]:
    """Unit directions: along the gradient, if there is one, then random ones."""
    largest = max((float(leaf.abs().max()) for leaf in slopes if leaf.numel()), default=0.0)
    # Where gradients explode, their squares are too large for any number.
    found = [_unit([leaf / largest for leaf in slopes])] if largest else []
    draws = rng.generator(seed, "quotients")
    while len(found) < 1 + _RANDOM:
        found.append(
            _unit([torch.randn(leaf.shape, generator=draws, dtype=leaf.dtype).to(leaf) for leaf in slopes])
        )
    return found


def _unit(leaves: list[Tensor]) -> list[Tensor]:
    size = _dot(leaves, leaves) ** 0.5
    return [leaf / size for leaf in leaves]


def _error(quotient: float, slope: float) -> float:
    gap, scale = abs(quotient - slope), max(abs(quotient), abs(slope))
    return gap / scale if gap else 0.0


def _dot(one: list[Tensor], other: list[Tensor]) -> float:
    return float(sum((a * b).sum() for a, b in zip(one, other, strict=True)))


def _double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf
