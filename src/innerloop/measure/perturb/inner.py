"""The inner loop itself: steps that go further, or less far, and many more of them than were trained."""

from __future__ import annotations

import math

from torch import Tensor

from innerloop.core.learner import states
from innerloop.core.types import Episode
from innerloop.core.vectorise import num_tasks, take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.curvature import inner_curvature
from innerloop.measure.perturb.subject import Judged, Perturbation, Sizes, Subject
from innerloop.measure.unroll import need_steps

SCALES = (0.25, 0.5, 1.3, 1.5, 2.0, 3.0)
FACTORS = (2, 5, 10)
_FEW = 5  # tasks whose curvature is measured


def safety_factor(subject: Subject) -> float:
    """2 / (alpha lambda_max) at the sharpest of a few tasks: how much longer steps may be on a quadratic.

    Raises:
        NotEvaluated: see `inner_curvature`; or no finite curvature was found.
    """
    steps = subject.learner.inner_steps
    need_steps(steps)
    few = [take(subject.example, i) for i in range(min(_FEW, num_tasks(subject.example)))]
    sharpest = max(
        inner_curvature(subject.learner, subject.meta, one, at=k)
        for one in few
        for k in sorted({0, steps - 1})
    )
    if not 0 < sharpest < math.inf:
        raise NotEvaluated(f"a largest curvature of {sharpest:g}")
    return 2.0 / sharpest


def _scales(subject: Subject) -> Sizes:
    need_steps(subject.steps)
    return {f"x {scale:g}": scale for scale in SCALES}


def _stretched(subject: Subject, episode: Episode, key: Tensor, sizes: Sizes) -> dict[str, Judged]:
    return {label: subject.judged(episode, scale=scale) for label, scale in sizes.items()}


def _factors(subject: Subject) -> Sizes:
    need_steps(subject.steps)
    return {f"{factor} x {subject.steps} = {factor * subject.steps}": factor for factor in FACTORS}


def _further(subject: Subject, episode: Episode, key: Tensor, sizes: Sizes) -> dict[str, Judged]:
    at = {factor * subject.steps: label for label, factor in sizes.items()}
    reached = enumerate(states(subject.learner, subject.meta, episode.support, max(at)))
    kept = [fast for k, fast in reached if k in at]
    outputs = subject.learner.predict_each(subject.meta, kept, episode.query.x)
    return {label: subject.judge(o, episode.query.y) for label, o in zip(at.values(), outputs, strict=True)}


PERTURBATIONS = (
    Perturbation("inner rate", "every inner step goes so many times as far", _scales, _stretched),
    Perturbation("inner steps", "adaptation goes on for so many times as many steps", _factors, _further),
)
