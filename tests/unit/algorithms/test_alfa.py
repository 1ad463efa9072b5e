"""ALFA is its definition written out, and begins near MAML."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cases import Case, as_double
from innerloop.algorithms import ALFA, MAML
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.models import MLP
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import adapted, close, deviation, estimate

LR, STEPS = 0.1, 2


def sinusoids(count: int = 2) -> Episode:
    return as_double(Sinusoid(shots=5, queries=6).sample("train", count, 1))


def begun(learner: ALFA, seed: int = 0) -> Meta:
    return tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(seed)))


def test_rates_and_decays_are_generated_from_means_of_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    learner = ALFA(net, inner_lr=LR, inner_steps=STEPS, loss="mse")
    rng = torch.Generator().manual_seed(1)
    meta = tree.map(
        lambda leaf: leaf + 0.2 * torch.randn(leaf.shape, generator=rng, dtype=leaf.dtype), begun(learner)
    )
    given = tree.map(lambda leaf: leaf.detach().requires_grad_(), meta)
    names = ["0.weight", "0.bias", "2.weight", "2.bias"]

    def generated(phi: dict[str, Tensor], grads: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        g = given["generator"]
        seen = torch.stack([phi[name].mean() for name in names] + [grads[name].mean() for name in names])
        hidden = (g["body.1.weight"] @ seen + g["body.1.bias"]).relu()
        both = g["head.weight"] @ hidden + g["head.bias"]
        return both[:4], both[4:]

    def loss(params: dict[str, Tensor], batch: Batch) -> Tensor:
        return F.mse_loss(functional_call(net, params, (batch.x,)), batch.y)

    total = torch.zeros((), dtype=torch.float64)
    for i in range(2):
        support, query = take(sinusoids(), i)
        phi = dict(given["params"])
        for k in range(STEPS):
            found = torch.autograd.grad(loss(phi, support), [phi[n] for n in names], create_graph=True)
            grads = dict(zip(names, found, strict=True))
            rates, decays = generated(phi, grads)
            phi = {
                n: (1 - given["decays"][n][k] * decays[i]) * phi[n]
                - given["rates"][n][k] * rates[i] * grads[n]
                for i, n in enumerate(names)
            }
        total = total + loss(phi, query) / 2
    expected = tree.rebuild(given, list(torch.autograd.grad(total, tree.leaves(given))))
    close(estimate(learner, meta, sinusoids())[0], expected, 1e-12)


def maml_like(case: Case) -> MAML:
    # The rate is one that float32 has, in which factors are made.
    return MAML(case.module(), inner_lr=0.125, inner_steps=2, loss=case.learner().loss)


@pytest.mark.parametrize("case", [Case("ALFA", "mlp"), Case("ALFA", "batch")], ids=str)
def test_a_generator_of_ones_without_decay_is_maml(case: Case) -> None:
    learner, episodes = case.learner(inner_lr=0.125, weight_decay=0.0), case.episodes()
    assert isinstance(learner, ALFA)
    meta = begun(learner)
    flat = meta["generator"] | {"head.weight": torch.zeros_like(meta["generator"]["head.weight"])}
    grads, record = estimate(learner, meta | {"generator": flat}, episodes)
    expected, other = estimate(maml_like(case), {"params": meta["params"]}, episodes)
    close(grads["params"], expected["params"], 1e-12)
    close(record.losses, other.losses, 1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_training_begins_near_maml(seed: int) -> None:
    case = Case("ALFA", "mlp")
    learner = case.learner(inner_lr=0.125)
    assert isinstance(learner, ALFA)
    meta, support = begun(learner, seed), take(case.episodes(), 0).support
    ours = adapted(learner, meta, support)["params"]
    theirs = adapted(maml_like(case), {"params": meta["params"]}, support)["params"]
    assert deviation(ours, theirs) < 0.4 * deviation(theirs, meta["params"])


def test_each_step_has_its_factors_and_later_ones_the_last() -> None:
    learner = ALFA(MLP(1, 1, hidden=(4,)), inner_lr=LR, weight_decay=0.0, inner_steps=STEPS, loss="mse")
    meta, support = begun(learner), take(sinusoids(), 0).support

    def moves(*rates: float) -> list[bool]:
        """Whether each of four steps moves the parameters."""
        factors = {name: torch.tensor(rates, dtype=torch.float64) for name in meta["rates"]}
        reached = [adapted(learner, meta | {"rates": factors}, support, k)["params"] for k in range(5)]
        return [deviation(a, b) > 0 for a, b in zip(reached[1:], reached, strict=False)]

    assert all(leaf.shape == (STEPS,) for leaf in tree.leaves(meta["rates"]) + tree.leaves(meta["decays"]))
    assert moves(0.0, LR) == [False, True, True, True]
    assert moves(LR, 0.0) == [True, False, False, False]


def test_a_negative_weight_decay_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight_decay = -1"):
        ALFA(MLP(1, 1), weight_decay=-1.0, loss="mse")
