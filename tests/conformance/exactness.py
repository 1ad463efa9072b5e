"""What exact meta-gradients have to satisfy, as functions that raise `AssertionError`.

As `questions`, but of the paths to a gradient: the same function is asked of ours and of planted bugs.
"""

from __future__ import annotations

from typing import Any

import torch

from innerloop.core import tree
from innerloop.core.learner import adapt
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import Lifting, TasksAxis, num_tasks, take
from innerloop.gradients import MetaGradient, Recompute, Unrolled
from innerloop.gradients.base import learned
from innerloop.testing.probing import KEY, close, estimate, inner_keys

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


def steps_repeat_when_recomputed(learner: Any, meta: Meta, episodes: Episode) -> None:
    """What a step draws is the same when it is run again, in every part, and other in the next step."""
    recomputing_changes_nothing(learner, meta, episodes)
    lifting_changes_nothing(learner, meta, episodes)


# --- approximations, where the truth is known ------------------------------------------------------------


def is_the_implicit_gradient(
    learner: Any, meta: Meta, episodes: Episode, expected: Meta, *, gradient: MetaGradient
) -> None:
    """The implicit-function gradient of a converged inner loop, in closed form."""
    for axis in ("vmap", "loop"):
        close(estimate(learner, meta, episodes, gradient=gradient, axis=axis)[0], expected, 1e-10)


def is_unbiased(
    learner: Any, meta: Meta, episodes: Episode, expected: Meta, *, gradient: MetaGradient, steps: int = 1
) -> None:
    """The mean over many equal tasks, each with draws of its own, is the truth within its error.

    With `steps`, the sum over the outer steps of one unroll. The error is that of the mean over ten parts.
    """
    parts = []
    for part in range(10):
        carry, total = None, [torch.zeros_like(leaf) for leaf in tree.leaves(meta)]
        for step in range(steps):
            found = gradient.estimate(learner, meta, episodes, carry, key=97 * part + step, axis="vmap")
            carry = found[1]
            total = [a + b for a, b in zip(total, tree.leaves(found[0]), strict=True)]
        parts.append(torch.cat([leaf.flatten() for leaf in total]))
    mean, error = torch.stack(parts).mean(0), torch.stack(parts).std(0) / 10**0.5
    truth = torch.cat([leaf.flatten() for leaf in tree.leaves(expected)])
    off = ((mean - truth).abs() / error).max()
    assert off <= 4, f"off by {off:.1f} standard errors"
    assert (error / truth.norm()).max() <= 0.05, "too few draws to tell"


def an_unroll_goes_on(learner: Any, meta: Meta, episodes: Episode, *, gradient: MetaGradient) -> None:
    """Outer steps of an unroll reach the states of one that is not interrupted; then it begins afresh."""
    assert getattr(gradient, "horizon", None) == 3 * learner.inner_steps
    carry = None
    for outer in range(1, 5):
        _, carry, record = gradient.estimate(learner, meta, episodes, carry, key=KEY, axis="vmap")
        done = learner.inner_steps * (outer if outer <= 3 else 1)
        assert torch.equal(carry["steps"], torch.full_like(carry["steps"], done)), "steps done"
        assert all(isinstance(leaf, torch.Tensor) for leaf in tree.leaves(carry)), "carry is not of tensors"
        for i, key in enumerate(inner_keys(num_tasks(episodes))):
            with torch.no_grad(), running_in(training=True, key=key):
                fast = adapt(learner, meta, take(episodes, i).support, done)
                loss, _ = learner.query_loss(meta, fast, take(episodes, i).query)
            close(take(carry["state"], i), fast, 1e-12)
            close(record.losses[i], loss, 1e-12)
