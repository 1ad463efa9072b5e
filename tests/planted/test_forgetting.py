"""Forgetting, planted: families that contradict each other, one after another; and what helps against it.

Sinusoids, then the same upside down, 200 outer steps each: what the first stage taught to expect is wrong in
the second. Scores are 1 - loss / loss of the trivial predictor, after adapting afresh.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from innerloop.algorithms import MAML
from innerloop.core.learner import adapt
from innerloop.core.losses import trivial_loss
from innerloop.core.mode import running_in
from innerloop.core.types import Episode
from innerloop.core.vectorise import num_tasks, over_tasks, take
from innerloop.diagnose.estimate import Undefined
from innerloop.diagnose.forgetting import Matrix, forgetting_max_last
from innerloop.models import MLP
from innerloop.tasks import SinusoidFamilies
from innerloop.tasks.streaming import Schedule
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.loop import Training
from innerloop.training.retain.config import RetainConfig
from innerloop.training.retain.memory import TaskMemory
from innerloop.training.step import Engine, outer_step, stage_ends

STEPS, TASKS, JUDGED = 400, 8, 100
SEEDS = (0, 1, 2)
T_95 = 4.303  # Student's t, two-sided, for three seeds

#: Settings of each remedy, and the share of forgetting that it takes away at the least.
REMEDIES: dict[str, tuple[dict[str, Any], float]] = {
    "replay": ({"replay": 0.5}, 0.8),
    "balanced-replay": ({"replay": 0.5, "balance": "family"}, 0.6),
    "l2": ({"l2": 1.0}, 0.2),
    "ewc": ({"ewc": 10.0}, 0.15),
    "online-ewc": ({"ewc": 10.0, "ewc_decay": 0.9}, 0.15),
    "si": ({"si": 1.0}, 0.3),
    "distill": ({"distill": 1.0}, 0.3),
    "project": ({"project": True}, 0.05),
    "recall": ({"recall": 4}, 0.6),
}


def judged(learner: MAML, meta: Any, episodes: Episode) -> torch.Tensor:
    """The query loss of each task after adapting, as in evaluation."""

    def one_task(episode: Episode) -> torch.Tensor:
        with running_in(training=False, first_order=True):
            fast = adapt(learner, meta, episode.support, learner.test_inner_steps)
            return learner.query_loss(meta, fast, episode.query)[0]

    with torch.no_grad():
        return over_tasks(one_task, episodes, axis="vmap")


def scores(learner: MAML, meta: Any, stream: SinusoidFamilies) -> np.ndarray:
    """Of each family on its own test tasks [families, tasks]."""
    found = []
    for family in range(len(stream.names)):
        tasks = stream.family(family).sample("test", JUDGED, 12345)
        losses = judged(learner, meta, tasks)
        trivial = [trivial_loss("mse", take(tasks, i)) for i in range(num_tasks(tasks))]
        found.append((1 - losses / torch.stack(trivial).mean()).double().numpy())
    return np.stack(found)


@functools.cache
def trained(
    kinds: tuple[str, ...], seed: int, retain: RetainConfig | None = None, schedule: Schedule = "sequence"
) -> Matrix:
    """Scores before training and after each stage."""
    stream = SinusoidFamilies(list(kinds), schedule=schedule)
    learner = MAML(MLP(1, 1, hidden=(40, 40)), inner_lr=0.02, inner_steps=3, loss="mse")
    config = TrainConfig(
        steps=STEPS,
        tasks_per_step=TASKS,
        seed=seed,
        optimizer=OptimizerConfig(lr=1e-3),
        retain=retain or RetainConfig(),
    )
    training = Training(learner, stream, config)
    state, learner = training.state, training.learner
    assert isinstance(learner, MAML)
    ends, rows = stage_ends(stream, config), [scores(learner, state.meta, stream)]
    for _ in range(STEPS):
        outer_step(state, learner, stream, Engine(learner.gradient, "vmap"), config)
        if state.step in ends:
            rows.append(scores(learner, state.meta, stream))
    return Matrix(np.stack(rows), range(1, len(kinds) + 1), stream.names)


def forgotten(matrix: Matrix) -> float:
    found = forgetting_max_last(matrix)
    assert not isinstance(found, Undefined)
    return found.value


def gained(matrix: Matrix) -> float:
    """What the last stage taught of its own family."""
    return float((matrix.scores[-1, -1] - matrix.scores[-2, -1]).mean())


CONFLICT, PEACE = ("sine", "opposite"), ("sine", "sine")


def surely_above_zero(differences: list[float]) -> bool:
    """Whether the 95 % interval over seeds is."""
    numbers = np.array(differences)
    half = T_95 * numbers.std(ddof=1) / len(numbers) ** 0.5
    return bool(numbers.mean() - half > 0)


@pytest.mark.slow
def test_families_that_contradict_each_other_are_forgotten() -> None:
    naive = [forgotten(trained(CONFLICT, seed)) for seed in SEEDS]
    assert surely_above_zero(naive)
    assert min(naive) > 0.2


@pytest.mark.slow
def test_the_same_family_again_is_not() -> None:
    assert max(forgotten(trained(PEACE, seed)) for seed in SEEDS) < 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEDIES)
def test_each_remedy_reduces_forgetting(name: str) -> None:
    """By the paired difference of each seed, whose interval is above zero."""
    settings, share = REMEDIES[name]
    naive = [forgotten(trained(CONFLICT, seed)) for seed in SEEDS]
    held = [forgotten(trained(CONFLICT, seed, RetainConfig(**settings))) for seed in SEEDS]
    saved = [a - b for a, b in zip(naive, held, strict=True)]
    assert min(saved) > 0
    assert surely_above_zero(saved)
    assert sum(saved) > share * sum(naive)


@pytest.mark.slow
def test_families_that_stay_when_new_ones_join_are_not_forgotten() -> None:
    naive = [forgotten(trained(CONFLICT, seed)) for seed in SEEDS]
    held = [forgotten(trained(CONFLICT, seed, schedule="progressive")) for seed in SEEDS]
    assert surely_above_zero([a - b for a, b in zip(naive, held, strict=True)])
    assert sum(held) < 0.3 * sum(naive)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["replay", "balanced-replay", "recall"])
def test_replay_and_recall_halve_forgetting_and_keep_most_of_the_gain(name: str) -> None:
    retain = RetainConfig(**REMEDIES[name][0])
    naive = [trained(CONFLICT, seed) for seed in SEEDS]
    held = [trained(CONFLICT, seed, retain) for seed in SEEDS]
    assert sum(map(forgotten, held)) < 0.5 * sum(map(forgotten, naive))
    assert sum(map(gained, held)) > 0.9 * sum(map(gained, naive))


@pytest.mark.slow
def test_a_memory_of_the_latest_tasks_does_not_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: first in, first out. Five steps after a switch nothing old is left to replay."""

    def latest(self: TaskMemory, family: int) -> int:
        before = self._seen.get(0, 0)
        self._seen[0] = before + 1
        return before if before < self.size else before % self.size

    retain, seed = RetainConfig(replay=0.5, memory=20), SEEDS[0]
    naive, held = (forgotten(trained(CONFLICT, seed, r)) for r in (None, retain))
    monkeypatch.setattr(TaskMemory, "_place", latest)
    lost = forgotten(trained.__wrapped__(CONFLICT, seed, retain))
    assert held < 0.5 * naive
    assert lost > 0.5 * naive
