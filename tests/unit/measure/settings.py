"""Small learners in float64 that measurements are asked on, and bugs to be found."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cases import as_double
from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.learner import MetaLearner
from innerloop.core.types import Batch, Episode, Fast, Loss, Meta
from innerloop.models import MLP
from innerloop.tasks import Bowls, Sinusoid

BOWLS = Bowls((0.1, 0.7, 1.9), centre=0.5, spread=2.0)
RATE, STEPS = 0.6, 3


def double(meta: Meta) -> Meta:
    return tree.map(torch.Tensor.double, meta)


def on_bowls(num_tasks: int = 6, **settings: Any) -> tuple[MAML, Meta, Episode]:
    """Gradient descent on bowls, far from their centre."""
    settings = {"inner_lr": RATE, "inner_steps": STEPS} | settings
    learner = MAML(MLP(3, 1, hidden=(), bias=False), loss="mse", **settings)
    meta = double(learner.init(torch.Generator().manual_seed(0)))
    meta["params"]["head.weight"] = torch.tensor([[1.0, -2.0, 0.3]], dtype=torch.float64)
    return learner, meta, exact_bowls(num_tasks)


def exact_bowls(num_tasks: int) -> Episode:
    """Bowls whose rows are not rounded to float32."""
    x = torch.tensor(BOWLS.curvatures, dtype=torch.float64).mul(1.5).sqrt().diag().repeat(num_tasks, 1, 1)
    batch = Batch(x, x @ BOWLS.centres(BOWLS.sample("train", num_tasks, 0))[..., None])
    return Episode(batch, batch)


def theta_of(meta: Meta) -> Tensor:
    return meta["params"]["head.weight"][0]


def on_sinusoids(
    learner: type[MAML] = MAML, *, seed: int = 0, num_tasks: int = 4, **settings: Any
) -> tuple[Any, Meta, Episode]:
    """An algorithm around a small network on sinusoids."""
    settings = {"inner_lr": 0.05, "inner_steps": 3} | settings
    built = learner(MLP(1, 1, hidden=(20, 20)), loss="mse", **settings)
    meta = double(built.init(torch.Generator().manual_seed(seed)))
    return built, meta, as_double(Sinusoid().sample("train", num_tasks, seed))


class Logistic(MetaLearner):
    """x <- 4 x (1 - x), a smooth map that is chaotic: errors double with each step."""

    loss: Loss = "mse"

    def __init__(self, inner_steps: int) -> None:
        self.inner_steps = inner_steps

    def init(self, rng: torch.Generator) -> Meta:
        return {"x": torch.tensor([0.3, 0.61], dtype=torch.float64)}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return {"x": meta["x"]}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return {"x": 4.0 * fast["x"] * (1.0 - fast["x"])}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return inputs * fast["x"].sum()
