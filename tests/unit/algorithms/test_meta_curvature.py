"""MetaCurvature is gradient descent under a Kronecker product of its matrices, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cases import Case, images
from innerloop.algorithms import MAML, MetaCurvature
from innerloop.core import tree
from innerloop.core.types import Batch, Meta
from innerloop.core.vectorise import take
from innerloop.testing.probing import adapted, close, deviation, estimate

LR = 0.2


class Small(nn.Module):
    """A weight of every kind: a filter, a matrix, vectors, a single number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filter = nn.Conv2d(1, 3, (3, 2), stride=4)
        self.norm = nn.GroupNorm(1, 3)
        self.matrix = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.matrix(self.norm(self.filter(x)).tanh().mean((2, 3)))


def curved_meta(learner: MetaCurvature) -> Meta:
    """Its meta-parameters with matrices that are not symmetric."""
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    rng = torch.Generator().manual_seed(1)
    drawn = tree.map(
        lambda m: m + 0.3 * torch.randn(m.shape, generator=rng, dtype=m.dtype), meta["curvature"]
    )
    return meta | {"curvature": drawn}


@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_are_multiplied_by_the_kronecker_product(steps: int) -> None:
    net = Small().double()
    learner = MetaCurvature(net, inner_lr=LR, inner_steps=steps)
    meta, episodes = curved_meta(learner), images(2)
    given = tree.map(lambda leaf: leaf.detach().requires_grad_(), meta)

    def full(name: str) -> Tensor:
        """M_o (x) M_i (x) M_f, which multiplies the numbers of a gradient in their order in memory."""
        matrices = [given["curvature"][kind].get(name) for kind in ("outputs", "inputs", "filter")]
        product = torch.ones(1, 1, dtype=torch.float64)
        for matrix in matrices:
            product = product if matrix is None else torch.kron(product, matrix)
        return product

    def loss(params: dict[str, Tensor], batch: Batch) -> Tensor:
        return F.cross_entropy(functional_call(net, params, (batch.x,)), batch.y)

    total = torch.zeros((), dtype=torch.float64)
    for i in range(2):
        support, query = take(episodes, i)
        phi = dict(given["params"])
        for _ in range(steps):
            grads = torch.autograd.grad(loss(phi, support), list(phi.values()), create_graph=True)
            phi = {
                name: value - LR * (full(name) @ grad.flatten()).view_as(value)
                for (name, value), grad in zip(phi.items(), grads, strict=True)
            }
        total = total + loss(phi, query) / 2
    expected = tree.rebuild(given, list(torch.autograd.grad(total, tree.leaves(given))))
    close(estimate(learner, meta, episodes)[0], expected, 1e-12)


@pytest.mark.parametrize("case", [Case("MetaCurvature", "mlp"), Case("MetaCurvature", "batch")], ids=str)
def test_identity_matrices_are_maml(case: Case) -> None:
    learner, episodes = case.learner(), case.episodes()
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    maml = MAML(case.module(), inner_lr=0.1, inner_steps=2, loss=learner.loss)
    grads, record = estimate(learner, meta, episodes)
    expected, other = estimate(maml, {"params": meta["params"]}, episodes)
    close(grads["params"], expected["params"], 1e-12)
    close(record.losses, other.losses, 1e-12)
    assert deviation(record.losses, estimate(learner, case.meta(), episodes)[1].losses) > 1e-6


def test_every_axis_of_every_parameter_has_its_matrix() -> None:
    curvature = MetaCurvature(Small()).init(torch.Generator())["curvature"]
    shapes = {kind: {name: tuple(m.shape) for name, m in found.items()} for kind, found in curvature.items()}
    vectors = {"filter.bias": (3, 3), "norm.weight": (3, 3), "norm.bias": (3, 3), "matrix.bias": (3, 3)}
    assert shapes == {
        "outputs": {"filter.weight": (3, 3), "matrix.weight": (3, 3), "scale": (1, 1)} | vectors,
        "inputs": {"filter.weight": (1, 1), "matrix.weight": (3, 3)},
        "filter": {"filter.weight": (6, 6)},
    }


def test_another_rule_is_given_the_multiplied_gradient() -> None:
    """The first step of RMSprop hardly sees a scale, that of gradient descent all of it."""
    case = Case("MetaCurvature", "mlp")
    episodes = case.episodes(1)

    def moved(rule: str, factor: float) -> float:
        learner = case.learner(inner_rule=rule, inner_lr=0.01, inner_steps=1)
        meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
        outputs = tree.map(lambda m: factor * m, meta["curvature"]["outputs"])
        doubled = meta | {"curvature": meta["curvature"] | {"outputs": outputs}}
        support = take(episodes, 0).support
        return deviation(adapted(learner, doubled, support)["params"], meta["params"])

    assert moved("RMSprop", 2.0) == pytest.approx(moved("RMSprop", 1.0), rel=1e-3)
    assert moved("SGD", 2.0) == pytest.approx(2 * moved("SGD", 1.0))
