"""Curvature and sensitivity are those of the whole matrix, where that is small enough to be written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian

from cases import Case
from innerloop.algorithms import MAML
from innerloop.core import tree
from innerloop.core.learner import MetaLearner, adapt
from innerloop.core.mode import at_stream
from innerloop.core.types import Batch, Episode, Fast, Loss, Meta
from innerloop.core.vectorise import take
from innerloop.diagnose.finding import NotEvaluated
from innerloop.measure.backward import backward_norms
from innerloop.measure.curvature import inner_curvature
from innerloop.measure.krylov import largest_eigenvalue
from innerloop.measure.sensitivity import sensitivity
from innerloop.measure.unroll import as_trained, state_after
from unit.measure.settings import Logistic, on_sinusoids


def written_out(learner: Any, meta: Meta, episode: Episode, steps: range) -> Tensor:
    """The derivative of the adapted parameters after some steps by those before, [n, n]."""
    start = state_after(learner, meta, episode, steps.start)
    flat = torch.cat([leaf.flatten() for leaf in tree.leaves(start["params"])])

    def looped(flat: Tensor) -> Tensor:
        parts = flat.split([leaf.numel() for leaf in tree.leaves(start["params"])])
        shaped = [p.view_as(leaf) for p, leaf in zip(parts, tree.leaves(start["params"]), strict=True)]
        fast: Fast = start | {"params": tree.rebuild(start["params"], shaped)}
        with as_trained(episode):
            for k in steps:
                with at_stream(k):
                    fast = learner.step(meta, fast, episode.support, k)
        return torch.cat([leaf.flatten() for leaf in tree.leaves(fast["params"])])

    matrix = jacobian(looped, flat)
    assert isinstance(matrix, Tensor)
    return matrix


def case_of(name: str) -> tuple[Any, Meta, Episode]:
    if name == "sinusoid":
        learner, meta, episodes = on_sinusoids()
        return learner, meta, take(episodes, 0)
    algorithm, network, policy = name.split("-")
    case = Case(algorithm, network, policy)
    learner = case.learner()
    return learner, case.meta(), take(case.episodes(), 0)


NAMES = ["sinusoid", "MAML-batch-support", "MetaSGD-batch-running", "CAVIA-batch-support", "ANIL-mlp-support"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", [0, 1])
def test_curvature_is_the_largest_eigenvalue_of_the_matrix(name, at):
    learner, meta, episode = case_of(name)
    matrix = written_out(learner, meta, episode, range(at, at + 1))
    largest = float(torch.linalg.eigvals(torch.eye(len(matrix)) - matrix).real.max())
    assert inner_curvature(learner, meta, episode, at=at) == pytest.approx(largest, rel=0.01)
    close = inner_curvature(learner, meta, episode, at=at, steps=200, tolerance=1e-12)
    assert close == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "Reptile-mlp-support", "LearnedOptimizer-mlp-support"])
def test_sensitivity_is_the_largest_singular_value_of_the_matrix(name):
    learner, meta, episode = case_of(name)
    matrix = written_out(learner, meta, episode, range(learner.inner_steps))
    largest = float(torch.linalg.matrix_norm(matrix, 2))
    assert sensitivity(learner, meta, episode, learner.inner_steps) == pytest.approx(largest, rel=0.02)
    close = sensitivity(learner, meta, episode, learner.inner_steps, steps=200, tolerance=1e-12)
    assert close == pytest.approx(largest, rel=1e-6)


def test_backward_norms_end_with_the_query_gradient_and_begin_with_the_meta_gradient():
    learner, meta, episodes = on_sinusoids()
    episode = take(episodes, 0)
    found = backward_norms(learner, meta, episode, 3)
    theta = tree.map(lambda leaf: leaf.clone().requires_grad_(), meta)
    phi = adapt(learner, theta, episode.support, 3)
    loss, _ = learner.query_loss(theta, phi, episode.query)
    for at, fast in ((0, theta), (3, phi)):
        leaves = {f"params/{name}": leaf for name, leaf in fast["params"].items()}
        grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        expected = {name: float(grad.norm()) for name, grad in zip(leaves, grads, strict=True)}
        assert {name: norms[at] for name, norms in found.items()} == pytest.approx(expected, rel=1e-10)


def test_a_state_that_is_no_parameters_is_measured_too():
    learner, episode = Logistic(1), take(on_sinusoids()[2], 0)
    meta = learner.init(torch.Generator())
    slopes = 4 - 8 * meta["x"]
    assert inner_curvature(learner, meta, episode) == pytest.approx(float((1 - slopes).max()), rel=1e-9)
    assert sensitivity(learner, meta, episode, 1) == pytest.approx(float(slopes.abs().max()), rel=1e-9)
    assert set(backward_norms(learner, meta, episode, 1)) == {"x"}


def test_a_chaotic_map_doubles_its_sensitivity_with_each_step():
    learner, episode = Logistic(20), take(on_sinusoids()[2], 0)
    meta = learner.init(torch.Generator())
    at = [sensitivity(learner, meta, episode, steps) for steps in (5, 20)]
    assert at[1] / at[0] == pytest.approx(2.0**15, rel=0.95)
    assert at[1] > 1e4


@pytest.mark.parametrize("rule", ["Adam", "RMSprop", "Adagrad"])
def test_the_curvature_of_a_rule_with_a_state_is_not_evaluated(rule):
    learner, meta, episodes = on_sinusoids(inner_rule=rule)
    with pytest.raises(NotEvaluated, match="keeps a state"):
        inner_curvature(learner, meta, take(episodes, 0))
    assert sensitivity(learner, meta, take(episodes, 0), 3) > 0


@pytest.mark.parametrize("measure", ["curvature", "sensitivity", "backward"])
def test_without_inner_steps_nothing_is_evaluated(measure):
    learner, meta, episodes = on_sinusoids(inner_steps=0)
    one = take(episodes, 0)
    asked = {
        "curvature": lambda: inner_curvature(learner, meta, one),
        "sensitivity": lambda: sensitivity(learner, meta, one, 0),
        "backward": lambda: backward_norms(learner, meta, one, 0),
    }
    with pytest.raises(NotEvaluated, match="no inner steps"):
        asked[measure]()


class Decoded(MetaLearner):
    """A code that steps shrink by a tenth, and a weight that each computes anew from it."""

    loss: Loss = "mse"
    inner_steps = 2

    def init(self, rng: torch.Generator) -> Meta:
        return {"code": torch.ones(3, dtype=torch.float64)}

    def begin(self, meta: Meta, support: Batch) -> Fast:
        return {"code": meta["code"], "weight": 2 * meta["code"], "first": meta["code"]}

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        code = 0.9 * fast["code"]
        return fast | {"code": code, "weight": 2 * code}

    def predict(self, meta: Meta, fast: Fast, inputs: Tensor) -> Tensor:
        return inputs * fast["weight"].sum()


def test_what_each_step_computes_anew_is_no_part_of_the_state():
    learner, episode = Decoded(), take(on_sinusoids()[2], 0)
    meta = learner.init(torch.Generator())
    assert inner_curvature(learner, meta, episode) == pytest.approx(0.1)
    assert sensitivity(learner, meta, episode, 2) == pytest.approx(0.81)
    norms = backward_norms(learner, meta, episode, 2)
    assert set(norms) == {"code", "weight"}
    assert norms["weight"][:2] == [0.0, 0.0]
    assert norms["code"] == pytest.approx([share * norms["weight"][2] for share in (1.62, 1.8, 2.0)])


@pytest.mark.parametrize("algorithm", ["LearnedOptimizer", "Reptile"])
def test_the_state_that_is_looked_at_is_reached_as_in_training(algorithm):
    case = Case(algorithm, "mlp")
    learner, meta, episode = case.learner(), case.meta(), take(case.episodes(), 0)
    found = tree.leaves(state_after(learner, meta, episode, 2))
    with as_trained(episode):  # a start, or minibatches, drawn from the task's key
        expected = tree.leaves(adapt(learner, meta, episode.support, 2))
    elsewhere = tree.leaves(adapt(learner, meta, episode.support, 2))
    torch.testing.assert_close(found, expected)
    assert not all(map(torch.equal, found, elsewhere))


class Detached(MAML):
    """Cuts the graph after each step."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return tree.map(torch.Tensor.detach, super().step(meta, fast, support, k))


class Idle(MAML):
    """Steps that do nothing."""

    def step(self, meta: Meta, fast: Fast, support: Batch, k: int) -> Fast:
        return fast


@pytest.mark.parametrize(
    ("learner", "said"), [(Detached, "no derivative passes"), (Idle, "change no number")]
)
def test_steps_that_pass_nothing_on_are_told_of(learner, said):
    built, meta, episodes = on_sinusoids(learner)
    with pytest.raises(NotEvaluated, match=said):
        inner_curvature(built, meta, take(episodes, 0))
    with pytest.raises(NotEvaluated, match=said):
        sensitivity(built, meta, take(episodes, 0), 3)


# --- the eigenvalue itself -------------------------------------------------------------------------------


def turned(values: list[float], *, symmetric: bool) -> Tensor:
    """A matrix of these eigenvalues in a random basis."""
    rng = torch.Generator().manual_seed(1)
    basis = torch.randn(len(values), len(values), generator=rng, dtype=torch.float64)
    basis = torch.linalg.qr(basis)[0] if symmetric else basis
    return basis @ torch.tensor(values, dtype=torch.float64).diag() @ torch.linalg.inv(basis)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("values", [[3.0, 1.0, 0.1, 0.0], [1.0, -5.0, 0.5, -2.0], [-1.0, -2.0, -3.0, -4.0]])
def test_the_largest_eigenvalue_is_found_also_where_a_negative_one_is_larger_in_size(values, symmetric):
    matrix = turned(values, symmetric=symmetric)
    found = largest_eigenvalue(matrix.mv, torch.ones(4, dtype=torch.float64), steps=30, tolerance=1e-12)
    assert found == pytest.approx(max(values), abs=1e-9)


def test_few_products_suffice_for_a_large_matrix_with_eigenvalues_close_to_each_other():
    values = torch.linspace(0.0, 1.0, 300, dtype=torch.float64)
    products = []

    def product(v: Tensor) -> Tensor:
        products.append(v)
        return values * v

    start = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = largest_eigenvalue(product, start, steps=100, tolerance=1e-3)
    assert found == pytest.approx(1.0, rel=0.01)
    assert found <= 1.0
    assert len(products) <= 30


def test_an_overflowing_map_has_no_eigenvalue():
    found = largest_eigenvalue(lambda v: v * float("inf"), torch.ones(3), steps=5, tolerance=1e-3)
    assert found != found
