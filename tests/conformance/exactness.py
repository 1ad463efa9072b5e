"""What exact meta-gradients have to satisfy, as functions that raise `AssertionError`.

As `questions`, but of the paths to a gradient: the same function is asked of ours and of planted bugs.
"""

from __future__ import annotations

from typing import Any

import torch

from conformance.questions import close, estimate
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import Lifting, TasksAxis, num_tasks
from innerloop.gradients import MetaGradient, Recompute, Unrolled
from innerloop.gradients.base import learned

AXES: tuple[TasksAxis, ...] = (
    "vmap",
    3,
    "loop",
    Lifting(size=2, vmap=True, threads=2),
    Lifting(size=1, vmap=False, threads=2),
)


def recomputing_changes_nothing(
    learner: Any, meta: Meta, episodes: Episode, gradients: tuple[MetaGradient, ...] = ()
) -> None:
    """`Recompute` is `Unrolled`, whatever the length of its segments."""
    whole, record = estimate(learner, meta, episodes, gradient=Unrolled())
    for gradient in gradients or (Recompute(), Recompute(2), Recompute(None)):
        grads, other = estimate(learner, meta, episodes, gradient=gradient)
        close(grads, whole, 1e-10)
        close(other.losses, record.losses, 1e-10)
        close(other.statistics, record.statistics, 1e-10)


def lifting_changes_nothing(learner: Any, meta: Meta, episodes: Episode) -> None:
    """The loop, `vmap`, chunks and threads give one gradient."""
    whole, record = estimate(learner, meta, episodes, gradient=Unrolled())
    for axis in AXES[1:]:
        for gradient in (Unrolled(), Recompute()):
            grads, other = estimate(learner, meta, episodes, gradient=gradient, axis=axis)
            close(grads, whole, 1e-10)
            close(other.losses, record.losses, 1e-10)


def equals_by_hand(learner: Any, meta: Meta, episodes: Episode, expected: Meta) -> None:
    """Both exact paths are the loop in plain torch."""
    for gradient in (Unrolled(), Recompute()):
        grads, _ = estimate(learner, meta, episodes, gradient=gradient)
        close(learned(grads), expected, 1e-8)


def others_are_unmoved_by_one_that_diverges(learner: Any, meta: Meta, episodes: Episode) -> None:
    """A task that diverges is reported, and the mean over the others is theirs."""
    x = episodes.support.x.clone()
    x[1] = torch.nan
    spoiled = episodes._replace(support=Batch(x, episodes.support.y))
    kept = [i for i in range(num_tasks(episodes)) if i != 1]
    others = Episode(*(Batch(b.x[kept], b.y[kept]) for b in episodes))
    expected, record = estimate(learner, meta, others, gradient=Unrolled())
    for axis, gradient in [("vmap", Recompute()), *((axis, Unrolled()) for axis in AXES[1:])]:
        grads, other = estimate(learner, meta, spoiled, gradient=gradient, axis=axis)
        assert other.kept == kept, "outcomes"
        close(grads, expected, 1e-10)
        close(other.losses[kept], record.losses, 1e-10)
