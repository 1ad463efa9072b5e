"""Work of a known size, to plan, to measure and to run out of memory with."""

from __future__ import annotations

from typing import Any

import torch

from innerloop.algorithms import MAML
from innerloop.core.types import Batch, Episode, TaskSpec
from innerloop.models import MLP
from innerloop.training.config import TrainConfig
from innerloop.training.cost import Workload


class Noise:
    """Regression of noise on noise: tasks of any size at once, without data."""

    def __init__(self, inputs: int = 64, examples: int = 256) -> None:
        self.inputs, self.examples = inputs, examples
        self.spec = TaskSpec((inputs,), 1, "mse", "mse", shots=examples, queries=examples)

    def sample(self, split: str, num_tasks: int, rng: Any) -> Episode:
        generator = torch.Generator().manual_seed(0)

        def batch() -> Batch:
            x = torch.randn(num_tasks, self.examples, self.inputs, generator=generator)
            return Batch(x, torch.randn(num_tasks, self.examples, 1, generator=generator))

        return Episode(batch(), batch())


def medium(inner_steps: int = 20) -> MAML:
    return MAML(MLP(64, 1, hidden=(256, 256)), inner_lr=0.01, inner_steps=inner_steps, loss="mse")


def small(inner_steps: int = 20) -> MAML:
    return MAML(MLP(16, 1, hidden=(32, 32)), inner_lr=0.01, inner_steps=inner_steps, loss="mse")


def workload(learner: MAML, tasks: Noise, config: TrainConfig) -> Workload:
    meta = learner.init(torch.Generator().manual_seed(0))
    return Workload(learner, meta, tasks.sample("train", config.tasks_per_step, 0), config)
