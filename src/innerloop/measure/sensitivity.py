"""How much the adapted state depends on where the inner loop began."""

from __future__ import annotations

from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta
from innerloop.measure.jacobian import Jacobian
from innerloop.measure.krylov import largest_eigenvalue
from innerloop.measure.unroll import as_trained, need_steps, state_after, to_differentiate, unrolled


def sensitivity(
    learner: MetaLearner,
    meta: Meta,
    episode: Episode,
    inner_steps: int,
    *,
    steps: int = 15,
    tolerance: float = 1e-2,
) -> float:
    """The largest singular value of d fast_N / d fast_0, for one task.

    A change of the initialisation grows by at most this factor on its way through the inner loop, and so does
    the meta-gradient on its way back. Far above 1 the loop is chaotic; near 0 it forgets where it began.

    Args:
        episode: one task, without a task axis.
        inner_steps: N, the steps of the loop.
        steps: products with J^T J at most, each one pass forward and one back through one graph.
        tolerance: relative change of the square at which it is taken to have converged.

    Raises:
        NotEvaluated: there are no inner steps, or no derivative passes through them.
    """
    need_steps(inner_steps)
    first = to_differentiate(state_after(learner, meta, episode, 0))
    with as_trained(episode):
        last = unrolled(learner, meta, episode, range(inner_steps), first)[-1]
    turned = Jacobian(first, last)
    squared = largest_eigenvalue(
        lambda v: turned.transposed(turned.times(v)), turned.start(), steps=steps, tolerance=tolerance
    )
    return max(0.0, squared) ** 0.5 if squared == squared else squared
