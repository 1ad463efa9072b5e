"""What becomes of the query loss's derivative on its way back through the inner loop."""

from __future__ import annotations

import torch

from innerloop.core import tree
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta
from innerloop.measure.unroll import adapted, as_trained, need_steps, state_after, to_differentiate, unrolled


def backward_norms(
    learner: MetaLearner, meta: Meta, episode: Episode, inner_steps: int
) -> dict[str, list[float]]:
    """Norms of d query loss / d fast_k for k = 0 .. N, by path of the leaf, for one task.

    Leaves are those that inner steps change. One on which the loss does not depend at step k, because it is
    computed anew later on, has the norm 0 there.

    Args:
        episode: one task, without a task axis.
        inner_steps: N, the steps of the loop.

    Raises:
        NotEvaluated: there are no inner steps, or no derivative passes through them.
    """
    need_steps(inner_steps)
    first = to_differentiate(state_after(learner, meta, episode, 0))
    with as_trained(episode), torch.enable_grad():
        states = unrolled(learner, meta, episode, range(inner_steps), first)
        loss, _ = learner.query_loss(meta, states[-1], episode.query)
    paths = adapted(first, states[-1])
    flat = [tree.flatten(fast) for fast in states]
    reached = [(path, k) for path in paths for k in range(len(flat)) if flat[k][path].requires_grad]
    found = torch.autograd.grad(loss, [flat[k][path] for path, k in reached], allow_unused=True)
    norms = {path: [0.0] * len(flat) for path in paths}
    for (path, k), grad in zip(reached, found, strict=True):
        norms[path][k] = 0.0 if grad is None else float(grad.norm())
    return norms
