"""How steep the inner problem is, in units of the inner step."""

from __future__ import annotations

from innerloop.core import tree
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.jacobian import Jacobian
from innerloop.measure.krylov import largest_eigenvalue
from innerloop.measure.unroll import as_trained, need_steps, state_after, to_differentiate, unrolled


def inner_curvature(
    learner: MetaLearner,
    meta: Meta,
    episode: Episode,
    *,
    at: int = 0,
    steps: int = 30,
    tolerance: float = 1e-3,
) -> float:
    """The largest eigenvalue of I - d step(fast) / d fast, for one task.

    For gradient descent it is the inner rate times the largest curvature of the support loss, where rates are
    learned that of rates and Hessian together: below 2, steps come closer to a minimum; above, they overshoot
    by more each time. Only products with the transposed derivative are taken, whose eigenvalues are the same.

    Args:
        episode: one task, without a task axis.
        at: inner steps taken before the one that is looked at.
        steps: products at most.
        tolerance: relative change at which the value is taken to have converged.

    Raises:
        NotEvaluated: there are no inner steps, they pass no derivative on, or the update rule keeps a state
            (momentum, moments), so that the eigenvalues of one step decide nothing.
    """
    need_steps(learner.inner_steps)
    first = to_differentiate(state_after(learner, meta, episode, at))
    if tree.leaves(first.get("rule", {})):
        raise NotEvaluated("the update rule keeps a state")
    with as_trained(episode):
        last = unrolled(learner, meta, episode, range(at, at + 1), first)[-1]
    turned = Jacobian(first, last)
    return largest_eigenvalue(
        lambda w: w - turned.transposed(w), turned.start(), steps=steps, tolerance=tolerance
    )
