"""What the first-order meta-gradient leaves out."""

from __future__ import annotations

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Episode, Meta
from innerloop.diagnose.finding import NotEvaluated
from innerloop.gradients import FirstOrder, Unrolled
from innerloop.gradients.base import MetaGradient, learned
from innerloop.measure.unroll import need_steps


def first_order_gap(learner: MetaLearner, meta: Meta, episodes: Episode, *, key: int) -> tuple[float, float]:
    """Cosine of the first-order meta-gradient with the exact one, and |g_SO - g_FO| / |g_SO|.

    Args:
        episodes: stacked tasks, over which both are averaged.
        key: source of the randomness inside inner steps, the same for both.

    Raises:
        NotEvaluated: there are no inner steps, a task did not stay finite, or a gradient is zero.
    """
    need_steps(learner.inner_steps)
    exact, approximate = (_flat(path, learner, meta, episodes, key) for path in (Unrolled(), FirstOrder()))
    size, other = float(exact.norm()), float(approximate.norm())
    if not (size and other):
        raise NotEvaluated(f"the {'first-order' if size else 'exact'} meta-gradient is zero")
    cosine = float(exact @ approximate) / (size * other)
    return max(-1.0, min(1.0, cosine)), float((exact - approximate).norm()) / size


def _flat(path: MetaGradient, learner: MetaLearner, meta: Meta, episodes: Episode, key: int) -> Tensor:
    grads, _, record = path.estimate(learner, meta, episodes, key=key)
    failed = sum(not outcome.ok for outcome in record.outcomes)
    if failed:
        raise NotEvaluated(f"{failed} of {len(record.outcomes)} tasks did not stay finite")
    return torch.cat([leaf.flatten().double() for leaf in tree.leaves(learned(grads))])
