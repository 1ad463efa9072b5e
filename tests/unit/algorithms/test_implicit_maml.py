"""ImplicitMAML's gradient is its definition, solved with a dense Hessian at the adapted point."""

from __future__ import annotations

import torch
from torch import Tensor

from cases import Case
from innerloop.algorithms import ImplicitMAML
from innerloop.core import tree
from innerloop.core.learner import adapt
from innerloop.core.losses import loss_value
from innerloop.core.types import Batch, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Implicit
from innerloop.models import MLP
from innerloop.testing.probing import deviation

CASE = Case("ImplicitMAML", "mlp")
PROXIMAL = 2.0


def dense(learner: ImplicitMAML, meta: Meta, support: Batch, query: Batch) -> Tensor:
    """g with (I + H / proximal) g = grad L_Q(phi_K), by a direct solver."""
    fast = adapt(learner, meta, support, learner.inner_steps)
    names = list(meta["params"])
    shapes = [meta["params"][name].shape for name in names]
    point = torch.cat([fast["params"][name].detach().flatten() for name in names])

    def loss(flat: Tensor, batch: Batch) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        params = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return loss_value("mse", learner.net(params, batch.x), batch.y)

    hessian = torch.autograd.functional.hessian(lambda flat: loss(flat, support), point)
    v = torch.func.grad(loss)(point, query)
    return torch.linalg.solve(torch.eye(len(point), dtype=point.dtype) + hessian / PROXIMAL, v)


def test_the_gradient_solves_the_papers_system() -> None:
    learner = ImplicitMAML(MLP(1, 1, hidden=(4,)), inner_lr=0.1, inner_steps=5, proximal=PROXIMAL, loss="mse")
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    episodes = CASE.episodes(3)
    exact = torch.stack([dense(learner, meta, *take(episodes, i)) for i in range(3)]).mean(0)
    errors = []
    for iterations in (2, 5, 40):
        path = Implicit(iterations=iterations, tolerance=0.0)
        grads, _, record = path.estimate(learner, meta, episodes)
        found = torch.cat([leaf.flatten() for leaf in grads["params"].values()])
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[-1] < 1e-8
    assert float(record.measures["residual"].max()) < 1e-8
    # The Hessian is not definite here, so the way there is not monotone; few iterations are not enough.
    assert min(errors[:2]) > 1e-3


def test_without_the_pull_the_gradient_would_be_another() -> None:
    """Planted: half of the proximal term."""
    learner, meta, episodes = CASE.learner(), CASE.meta(), CASE.episodes(2)
    other = CASE.learner(proximal=1.0)
    path = Implicit(iterations=20)
    found, _, _ = path.estimate(learner, meta, episodes)
    planted, _, _ = path.estimate(other, meta, episodes)
    assert deviation(found, planted) > 1e-4
