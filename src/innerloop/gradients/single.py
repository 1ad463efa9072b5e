"""One meta-gradient, for those who write their own outer loop."""

from __future__ import annotations

from innerloop.core.learner import MetaLearner
from innerloop.core.rng import Rng, as_key
from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import TasksAxis
from innerloop.gradients.base import MetaGradient, Record
from innerloop.gradients.unrolled import Unrolled


def meta_gradient(
    learner: MetaLearner,
    meta: Meta,
    episodes: Episode,
    gradient: MetaGradient | None = None,
    tasks_axis: TasksAxis = "auto",
    *,
    rng: Rng = 0,
    compile: bool = False,
) -> tuple[Meta, Record]:
    """The gradient of the mean query loss with respect to `meta`, and a record of every task.

    Args:
        learner: an algorithm around a module.
        meta: its meta-parameters, from `learner.init` or from an earlier outer step.
        episodes: stacked tasks: support.x [T, S, ...], support.y [T, S] or [T, S, F], query likewise.
        gradient: how to obtain it; None is the learner's own way (`Unrolled` for MAML).
        tasks_axis: `auto`, `vmap`, `loop`, or the number of tasks to lift at once.
        rng: an int or a generator: the randomness inside inner steps (dropout, minibatches).
        compile: compile the step and its derivative, once for each shape: worth it for many calls.

    Returns:
        Gradients shaped like `meta`, and the record: losses [T] and outcomes of the tasks. Tasks
        that did not stay finite are left out of the mean.
    """
    how = gradient or getattr(learner, "gradient", None) or Unrolled()
    key = as_key(rng)
    grads, _, record = how.estimate(learner, meta, episodes, key=key, axis=tasks_axis, compile=compile)
    return grads, record
