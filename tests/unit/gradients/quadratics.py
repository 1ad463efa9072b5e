"""Learners whose meta-gradients have a closed form: a proximal quadratic, and a linear unroll."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from innerloop.core.learner import MetaLearner
from innerloop.core.types import Batch, Episode, Fast, Loss, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.gradients import Implicit, MetaGradient, Unrolled

DIM = 5


class Proximal(MetaLearner):
    """Gradient descent on |X w - y|^2 / S + lam / 2 |w - theta|^2 until it stands still, as in iMAML."""

    loss: Loss = "mse"
    inner_steps = 150
    gradient: MetaGradient = Implicit()

    def init(self, rng: torch.Generator) -> Meta:
        theta = torch.randn(DIM, 1, generator=rng, dtype=torch.float64)
        return {"theta": theta, "lam": torch.tensor(1.5, dtype=torch.float64)}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return {"w": meta["theta"]}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        w, x = fast["w"], support.x
        slope = 2 / len(x) * x.T @ (x @ w - support.y) + meta["lam"] * (w - meta["theta"])
        return {"w": w - 0.15 * slope}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return inputs @ fast["w"]


def regressions(count: int = 3, seed: int = 0) -> Episode:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, DIM, generator=rng, dtype=torch.float64) * torch.linspace(0.3, 1.4, DIM)
    y = x @ torch.randn(count, DIM, 1, generator=rng, dtype=torch.float64)
    return Episode(Batch(x[:, :6], y[:, :6]), Batch(x[:, 6:], y[:, 6:]))


def implicit_by_hand(meta: Meta, episodes: Episode, damping: float = 0.0) -> Meta:
    """d w*/d theta = lam (H + lam)^-1 and d w*/d lam = -(H + lam)^-1 (w* - theta), applied to dL_Q/dw*."""
    total = {name: torch.zeros_like(leaf) for name, leaf in meta.items()}
    for i in range(num_tasks(episodes)):
        support, query = take(episodes, i)
        hessian = 2 / len(support.x) * support.x.T @ support.x
        system = hessian + meta["lam"] * torch.eye(DIM, dtype=torch.float64)
        right = 2 / len(support.x) * support.x.T @ support.y + meta["lam"] * meta["theta"]
        reached = torch.linalg.solve(system, right)
        v = 2 / len(query.x) * query.x.T @ (query.x @ reached - query.y)
        # The path's own system is that of the step, 0.15 times this one; damping stands on its diagonal.
        damped = system + damping / 0.15 * torch.eye(DIM, dtype=torch.float64)
        solution = torch.linalg.solve(damped, v)
        total["theta"] += meta["lam"] * solution / num_tasks(episodes)
        total["lam"] += -(solution * (reached - meta["theta"])).sum() / num_tasks(episodes)
    return total


class Pulled(MetaLearner):
    """x <- 0.9 x + theta + a pull of the data, with squared losses summed over steps: linear-quadratic."""

    loss: Loss = "mse"
    gradient: MetaGradient = Unrolled()

    def __init__(self, steps: int = 2) -> None:
        self.inner_steps, self.step_weights = steps, (1.0,) * steps

    def init(self, rng: torch.Generator) -> Meta:
        return {"theta": torch.tensor([0.3, -0.2], dtype=torch.float64)}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return {"x": support.x.mean(0)}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return {"x": 0.9 * fast["x"] + meta["theta"] + 0.1 * (k + 1) * support.x[0]}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return inputs * fast["x"]


def pulls(count: int = 1) -> Episode:
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(1, 6, 2, generator=rng, dtype=torch.float64).expand(count, -1, -1)
    y = torch.randn(1, 6, 2, generator=rng, dtype=torch.float64).expand(count, -1, -1)
    return Episode(Batch(x[:, :2], y[:, :2]), Batch(x[:, 2:], y[:, 2:]))


def start(learner: Any) -> Meta:
    return learner.init(torch.Generator().manual_seed(0))


def truth_of_the_whole_unroll() -> Meta:
    """The gradient of the sum over six steps, which three outer steps of two add up to."""
    whole = Pulled(steps=6)
    return Unrolled().estimate(whole, start(whole), pulls())[0]
