"""A learner judged on fixed episodes, beside its baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from innerloop.algorithms.base import ModuleLearner
from innerloop.core import tree
from innerloop.core.errors import check_range
from innerloop.core.learner import states
from innerloop.core.losses import score
from innerloop.core.mode import count_ways, running_in
from innerloop.core.types import Episode, Meta, Metric
from innerloop.core.vectorise import TasksAxis, over_tasks
from innerloop.evaluate.baselines import Baseline, baselines_for
from innerloop.evaluate.protocol import FixedEpisodes
from innerloop.evaluate.statistics import Summary, median, paired_difference, summarise
from innerloop.tasks.base import TaskSource


@dataclass(frozen=True)
class Evaluation:
    """Per-task records of one evaluation; every summary is derived from them.

    Attributes:
        metric: `accuracy` (share of right queries) or `mse`.
        curve: score of each task after some numbers of inner steps, the last one being all, [n][...].
        at: those numbers: `curve[i][j]` is task i after `at[j]` steps.
        baselines: score of each task by name of the baseline, [n] each.
        protocol: what names the episodes and the way of judging: split, seed, ways, shots, ...
    """

    metric: Metric
    curve: list[list[float]]
    at: list[int]
    baselines: dict[str, list[float]]
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """Each task's score after the last inner step; the worst there is for a task that diverged."""
        return [self._or_worst(task[-1]) for task in self.curve]

    @property
    def summary(self) -> Summary:
        """Mean score after the last inner step, with its interval over tasks."""
        return summarise(self.scores)

    @property
    def diverged(self) -> int:
        """Number of tasks whose outputs are not finite after the last inner step."""
        return sum(not math.isfinite(task[-1]) for task in self.curve)

    def harmed(self, column: int = -1) -> int | None:
        """Number of tasks that are worse after `at[column]` steps than before the first one.

        None where the state before the first step was not judged, or is the only one.
        """
        if self.at[0] != 0 or len(self.at) == 1:
            return None
        return sum(self.better(task[0], self._or_worst(task[column])) for task in self.curve)

    def _or_worst(self, score: float) -> float:
        if math.isfinite(score):
            return score
        return 0.0 if self.higher_is_better else math.inf

    @property
    def higher_is_better(self) -> bool:
        """Whether the metric is a share of right answers and not an error."""
        return self.metric == "accuracy"

    def better(self, ours: float, theirs: float) -> bool:
        """Whether a score of `ours` beats one of `theirs`."""
        return ours > theirs if self.higher_is_better else ours < theirs

    def to_dict(self, *, records: bool = False) -> dict[str, Any]:
        """One JSON object: the summary, the baselines with paired differences, and the adaptation curve.

        Not-finite numbers become None, since JSON has none; `diverged` tells how many tasks they are.
        With `records`, the score of every task stands there too.
        """
        ours, scores = self.summary, self.scores
        beside = {}
        for name, theirs in self.baselines.items():
            alone, paired = summarise(theirs), paired_difference(scores, theirs)
            beside[name] = _rounded(
                mean=alone.mean, ci95=alone.ci95, difference=paired.mean, difference_ci95=paired.ci95
            )
        result: dict[str, Any] = (
            {"metric": self.metric} | _rounded(mean=ours.mean, ci95=ours.ci95) | {"n": ours.n}
        )
        result |= _rounded(median=median(scores)) | {"diverged": self.diverged, "harmed": self.harmed()}
        result |= self.protocol
        result |= {"baselines": beside}
        result["adaptation"] = [self._after(column) for column in range(len(self.at))]
        if records:
            result["records"] = [
                {"task": i, "scores": [_finite(s) for s in task]}
                | {"baselines": {name: _finite(theirs[i]) for name, theirs in self.baselines.items()}}
                for i, task in enumerate(self.curve)
            ]
        return result

    def _after(self, column: int) -> dict[str, Any]:
        scores = [self._or_worst(task[column]) for task in self.curve]
        found = summarise(scores)
        row = _rounded(mean=found.mean, ci95=found.ci95, median=median(scores))
        return {"inner_steps": self.at[column]} | row | {"harmed": self.harmed(column)}

    def __str__(self) -> str:
        ours = self.summary
        unit, scale = (" %", 100.0) if self.metric == "accuracy" else ("", 1.0)
        digits = 1 if self.metric == "accuracy" else 3
        mean, ci95 = ours.mean * scale, ours.ci95 * scale
        text = f"{self.metric} {mean:.{digits}f} +- {ci95:.{digits}f}{unit} (n={ours.n}"
        if self.protocol.get("batch_norm"):
            text += f", BN={self.protocol['batch_norm']}"
        return text + (f", {self.diverged} diverged)" if self.diverged else ")")


def evaluate(
    learner: ModuleLearner,
    meta: Meta,
    tasks: TaskSource,
    chosen: FixedEpisodes,
    *,
    inner_steps: int | None = None,
    tasks_axis: TasksAxis = "auto",
    untrained: Meta | None = None,
    curve: bool = True,
) -> Evaluation:
    """Judge a learner on fixed episodes.

    Args:
        chosen: which episodes.
        inner_steps: steps of adaptation; None is the learner's `test_inner_steps`.
        untrained: `meta` as it was before training: with it, the baselines are judged as well.
        curve: whether to judge on the way, after each of the first 10 steps and every fifth from there.

    Returns:
        Records of every task. The same seed gives the same episodes to every learner.
    """
    steps = learner.test_inner_steps if inner_steps is None else inner_steps
    check_range("inner_steps", steps, low=0)
    spec = tasks.spec
    device = next((leaf.device for leaf in tree.leaves(meta)), torch.device("cpu"))
    rivals: Mapping[str, Baseline] = {}
    if untrained is not None:
        own = untrained.get("params") or learner.net.params()  # a learned optimizer keeps no weights of it
        params = {name: leaf.to(device) for name, leaf in own.items()}
        rivals = baselines_for(spec, learner.module, params, learner.module_inputs)

    def one_task(episode: Episode, key: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with running_in(training=False, first_order=True, key=key):
            reached = enumerate(states(learner, meta, episode.support, steps))
            judged = (fast for k, fast in reached if k in at)
            outputs = learner.predict_each(meta, judged, episode.query.x)
        # The argmax of NaN is a label like any other: a model that overflowed must not score by it.
        scored = [_guarded(score(spec.metric, o, episode.query.y), o) for o in outputs]
        beside = {name: score(spec.metric, rival(episode), episode.query.y) for name, rival in rivals.items()}
        return torch.stack(scored), beside

    scores: list[list[float]] = []
    baselines: dict[str, list[float]] = {name: [] for name in rivals}
    at = judged_steps(steps) if curve else sorted({0, steps} if rivals else {steps})
    for block, keys in chosen.blocks(tasks):
        moved = _to(block, device)
        with torch.no_grad(), running_in(ways=count_ways(block.support.y)):
            found, beside = over_tasks(one_task, moved, keys.to(device), axis=tasks_axis, owner=learner)
        scores += found.tolist()
        for name, values in beside.items():
            baselines[name] += values.tolist()
    if rivals:
        baselines = {"no_adaptation": _no_adaptation(learner, scores, spec.outputs)} | baselines
    protocol = {
        "split": chosen.split,
        "seed": chosen.seed,
        "inner_steps": steps,
        "batch_norm": learner.batch_norm if learner.net.has_batch_norm else None,
        "transductive": learner.transductive,
        "ways": spec.outputs if spec.metric == "accuracy" else None,
        "shots": spec.shots,
        "queries": spec.queries,
    }
    return Evaluation(spec.metric, scores, at, baselines, protocol)


def judged_steps(steps: int) -> list[int]:
    """Of `steps` inner steps, those that are judged on the way: the first ten, every fifth, the last."""
    return [k for k in range(steps + 1) if k <= 10 or k % 5 == 0 or k == steps]


def _no_adaptation(learner: ModuleLearner, curve: list[list[float]], ways: int) -> list[float]:
    """The score before the first inner step; a closed-form learner without a support set can but guess."""
    return [1.0 / ways if learner.amortised and ways > 1 else task[0] for task in curve]


def _guarded(value: Tensor, outputs: Tensor) -> Tensor:
    return torch.where(torch.isfinite(outputs).all(), value, torch.full_like(value, torch.nan))


def _to(episode: Episode, device: torch.device) -> Episode:
    return Episode(*(type(b)(b.x.to(device), b.y.to(device)) for b in episode))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _rounded(**values: float) -> dict[str, float | None]:
    return {name: round(value, 6) if math.isfinite(value) else None for name, value in values.items()}
