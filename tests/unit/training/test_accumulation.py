"""Many tasks in one outer step: chunks of them are gradient accumulation, at the memory of one chunk."""

from __future__ import annotations

import pytest
import torch

from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.memory import peak
from innerloop.core.types import Batch, Episode
from innerloop.core.vectorise import take
from innerloop.gradients import Recompute, Unrolled
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close
from innerloop.training.config import OptimizerConfig, TrainConfig
from innerloop.training.state import new_state
from innerloop.training.step import Engine, meta_step
from unit.training.works import Noise, medium

TASKS, CHUNK = 24, 6


def tasks() -> Episode:
    drawn = Sinusoid().sample("train", TASKS, 0)
    return Episode(*(Batch(b.x.double(), b.y.double()) for b in drawn))


def learner() -> MAML:
    return MAML(MLP(1, 1, hidden=(8, 8)), inner_lr=0.02, inner_steps=3, loss="mse")


@pytest.mark.parametrize("path", [Unrolled(), Recompute()])
@pytest.mark.parametrize("size", [1, CHUNK, 7])
def test_a_step_in_chunks_is_the_step_of_all_tasks(path: Unrolled | Recompute, size: int) -> None:
    states = []
    for axis in ("vmap", size):
        config = TrainConfig(optimizer=OptimizerConfig("SGD", lr=0.1))
        meta = tree.map(torch.Tensor.double, learner().init(torch.Generator().manual_seed(0)))
        states.append(new_state(meta, config))
        meta_step(states[-1], learner(), tasks(), Engine(path, axis), config)
    close(states[1].meta, states[0].meta, 1e-10)


def test_it_equals_gradients_accumulated_by_hand() -> None:
    meta = tree.map(torch.Tensor.double, learner().init(torch.Generator().manual_seed(0)))
    whole, _, _ = Unrolled().estimate(learner(), meta, tasks(), axis=CHUNK)
    parts = [
        Unrolled().estimate(learner(), meta, take(tasks(), slice(i, i + CHUNK)), axis="vmap")[0]
        for i in range(0, TASKS, CHUNK)
    ]
    close(whole, tree.map(lambda *leaves: torch.stack(leaves).mean(0), *parts), 1e-10)


def test_it_needs_the_memory_of_a_chunk_however_many_tasks_there_are() -> None:
    made, source = medium(5), Noise()
    meta = made.init(torch.Generator().manual_seed(0))

    def bytes_of(count: int, axis: int) -> int:
        episodes = source.sample("train", count, 0)
        return peak(lambda: Unrolled().estimate(made, meta, episodes, axis=axis), "cpu")

    chunk, many, whole = bytes_of(2, 2), bytes_of(8, 2), bytes_of(8, 8)
    assert many < 1.5 * chunk
    assert whole > 2.5 * chunk
