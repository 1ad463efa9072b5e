"""What can be said of a learner and its tasks before anything is trained."""

from __future__ import annotations

import math

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.rng import generator, key
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.history import History
from innerloop.measure.probe import Row
from innerloop.measure.quotients import quotient_sweep
from innerloop.tasks.base import TaskSource
from innerloop.training.check import check_fit
from innerloop.training.config import TrainConfig
from innerloop.training.paths import as_gradient
from innerloop.training.state import new_state
from innerloop.training.watch import Watch

_TASKS = 2  # of the meta-gradient that is checked in float64


def preflight(learner: ModuleLearner, tasks: TaskSource, config: TrainConfig) -> History:
    """The records of a first look, and of the meta-gradient beside difference quotients; trains nothing."""
    check_fit(learner, tasks, config)
    learner.to(config.device)
    state = new_state(learner.init(generator(config.seed, "init")), config)
    path = as_gradient(config.gradient) or learner.gradient
    watch = Watch(learner, tasks, config, folder=None)
    watch.begin(state, path)
    watch.history.setup["exact"] = path.exact
    episodes = tasks.sample("train", _TASKS, key(config.seed, "preflight"))
    rows: list[Row] = []
    try:
        found = quotient_sweep(
            learner, state.meta, episodes, path, key=key(config.seed, "preflight", 1), seed=config.seed
        )
        # In full: what tells chaos from a mistake stands in the last digits of an error near one.
        rows = [
            {"step": 0, "name": "quotient", "inner_step": round(-math.log10(distance)), "values": errors}
            for distance, errors in found.items()
        ]
    except NotEvaluated as error:
        watch.history.setup["skipped"] = watch.history.setup["skipped"] | {"quotient": str(error)}
    watch.history.append(rows)
    return watch.history
