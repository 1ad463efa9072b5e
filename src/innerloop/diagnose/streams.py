"""The records of a run on a stream as a matrix and a timeline of scores; of tasks in a row as a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from innerloop.diagnose.anytime import Timeline
from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.forgetting import Matrix
from innerloop.diagnose.history import History, Values

_NO_STREAM = "its tasks are of no families that come one after another (a stream)"


def matrix_of(history: History) -> Matrix:
    """Meta-forgetting: how well each family is adapted to afresh, before training and after each stage.

    A score is the accuracy, or 1 - loss / loss of the trivial predictor, whose loss is the family's mean.

    Args:
        history: the records of a run.

    Raises:
        NotEvaluated: the run was on no stream, or is not through its first stage.
    """
    stages, names = _stages(history)
    ends = [stage["end"] for stage in stages] or [history.setting("steps", 0)]
    rows = [0, *(end for end in ends if end <= history.step)]
    if len(rows) == 1:
        raise NotEvaluated(f"the first stage ends after {ends[0]} steps")
    first = {name: 1 + i for i, name in reversed([(i, stage["family"]) for i, stage in enumerate(stages)])}
    scores = np.stack([family_scores(history, name, rows) for name in names], axis=1)
    return Matrix(scores, [first.get(name, 1) for name in names], names)


def timeline_of(history: History) -> Timeline:
    """How well each family is adapted to afresh, at every look.

    Args:
        history: the records of a run.

    Raises:
        NotEvaluated: the run was on no stream, its families came all at once, or training has not begun.
    """
    stages, names = _stages(history)
    if not stages:
        raise NotEvaluated("its families come all at once")
    steps = history.series("score", split="val", family=names[0]).steps
    if len(steps) < 2:
        raise NotEvaluated("training has not begun")
    first = {stage["family"]: stage for stage in reversed(stages)}
    scores = np.stack([family_scores(history, name, steps) for name in names], axis=1)
    starts, ends = ([first[name][edge] for name in names] for edge in ("start", "end"))
    return Timeline(steps, scores, ends, starts, names)


def rows_of_tasks(history: History) -> Matrix:
    """Adaptation-forgetting: after adapting to one task more without going back, how well each is done.

    Args:
        history: the records of a run.

    Raises:
        NotEvaluated: it was not measured; the reason is the one that the probe wrote down.
    """
    names = history.places("sequential", "family")
    if not names:
        history.series("sequential")  # says why not
    rows = [
        [history.series("sequential", split="val", inner_step=i, family=name).last for name in names]
        for i in range(len(names) + 1)
    ]
    scores = np.array(rows)
    if history.setup.get("metric") != "accuracy":
        trivial = [
            history.series("trivial", split="val", family=name if "families" in history.setup else None)
            for name in names
        ]
        scores = 1.0 - scores / np.array([series.last.mean() for series in trivial])[:, None]
    return Matrix(scores, range(1, len(names) + 1), names, together=True)


def family_scores(history: History, name: str, steps: list[int]) -> Values:
    """Scores [len(steps), tasks] of a family at some steps, higher is better; NaN where there was no look."""
    accuracy = history.setup.get("metric") == "accuracy"
    series = history.series("score" if accuracy else "post", split="val", family=name)
    at = dict(zip(series.steps, series.values, strict=True))
    nothing = np.full(len(series.last), np.nan)
    found = np.stack([at.get(step, nothing) for step in steps])
    if accuracy:
        return found
    return 1.0 - found / history.series("trivial", split="val", family=name).last.mean()


def _stages(history: History) -> tuple[list[dict[str, Any]], list[str]]:
    names = history.setup.get("families")
    if not names:
        raise NotEvaluated(_NO_STREAM if history.setup else "no probe records")
    return history.setup.get("stages", []), names
