"""Adaptation on task after task, without going back: what the later ones do to the earlier ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core.learner import adapt
from innerloop.core.losses import score
from innerloop.core.mode import count_ways, running_in
from innerloop.core.rng import key, tensor_keys
from innerloop.core.types import Episode, Meta, Metric
from innerloop.core.vectorise import TasksAxis, num_tasks, over_tasks
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.probe import Row, row


def sequential(
    learner: ModuleLearner,
    meta: Meta,
    tasks: Mapping[str, Episode],
    metric: Metric,
    *,
    axis: TasksAxis = "auto",
) -> Tensor:
    """Scores [n, T + 1, T]: of each of n sequences, row i after adapting to i tasks, on each of its T tasks.

    Row 0 is before any adaptation, and NaN for a learner that predicts nothing before it has seen a support
    set. Each task begins with the parameters that the one before it ended with.

    Args:
        tasks: the T tasks of the sequences by name, in their order, each stacked [n, ...].

    Raises:
        NotEvaluated: the learner adapts nothing that a next task could begin with.
    """
    episodes = tuple(tasks.values())
    steps = learner.test_inner_steps
    if not steps:
        raise NotEvaluated("it takes no inner steps, so that nothing of a task is left behind")

    def one_sequence(sequence: tuple[Episode, ...], key: Tensor) -> Tensor:
        rows = []
        with running_in(training=False, first_order=True, key=key):
            now = meta
            fast = learner.begin(now, sequence[0].support)
            for episode in (None, *sequence):
                before = now
                if episode is not None:
                    fast = adapt(learner, now, episode.support, steps)
                    now = learner.displaced(now, fast)
                scores = [
                    score(metric, learner.predict(before, fast, query.x), query.y) for _, query in sequence
                ]
                rows.append(torch.stack(scores))
        return torch.stack(rows)

    keys = tensor_keys(key(0, "sequential"), num_tasks(episodes[0]), episodes[0].support.x.device)
    try:
        with torch.no_grad(), running_in(ways=count_ways(episodes[0].support.y)):
            scores = over_tasks(one_sequence, episodes, keys, axis=axis, owner=None)
    except NotImplementedError as error:
        raise NotEvaluated("what it adapts is no state that a next task could begin with") from error
    if learner.amortised:
        scores[:, 0] = torch.nan
    return scores


def sequential_rows(scores: Tensor, names: list[str], step: int) -> list[Row]:
    """Their records: `inner_step` is the number of tasks adapted to, `family` the task that is judged."""
    return [
        row(step, "sequential", scores[:, i, j].tolist(), split="val", inner_step=i, family=name)
        for i in range(scores.shape[1])
        for j, name in enumerate(names)
    ]
