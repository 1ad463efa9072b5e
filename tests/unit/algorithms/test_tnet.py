"""TNet is its definition written out: matrices behind layers, and masks of their units."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cases import Case, images
from innerloop.algorithms import MAML, TNet
from innerloop.core import tree
from innerloop.core.errors import ConfigError, ContractError
from innerloop.core.mode import running_in
from innerloop.core.types import Batch, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Recompute, Truncated, Unrolled
from innerloop.models import MLP
from innerloop.testing import questions as ask
from innerloop.testing.probing import adapted, close, estimate, inner_keys, predictions

LR, STEPS = 0.2, 2
CASE = Case("TNet", "mlp")


class Small(nn.Module):
    """A convolution, a normalisation and a linear layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maps = nn.Conv2d(1, 4, 3, stride=4)
        self.norm = nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.maps(x)).tanh().mean((2, 3)))


def shifted(meta: Meta, name: str, size: float = 0.3) -> Meta:
    """Meta-parameters in float64, one part of them moved at random."""
    rng = torch.Generator().manual_seed(1)
    double = tree.map(lambda leaf: leaf.double(), meta)
    moved = tree.map(lambda m: m + size * torch.randn(m.shape, generator=rng, dtype=m.dtype), double[name])
    return double | {name: moved}


def by_hand(params: dict[str, Tensor], transforms: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network with a matrix behind each layer: a convolution of 1 by 1, and one more linear layer."""
    maps = F.conv2d(x, params["maps.weight"], params["maps.bias"], stride=4)
    maps = F.conv2d(maps, transforms["maps.weight"][:, :, None, None])
    hidden = F.group_norm(maps, 2, params["norm.weight"], params["norm.bias"]).tanh().mean((2, 3))
    return F.linear(F.linear(hidden, params["head.weight"]), transforms["head.weight"])


@pytest.mark.parametrize("masked", [False, True])
def test_layers_adapt_in_front_of_their_matrices(masked: bool) -> None:
    learner = TNet(Small(), inner_lr=LR, inner_steps=STEPS, masked=masked, temperature=0.7)
    meta = shifted(learner.init(torch.Generator()), "transforms")
    meta = shifted(meta, "logits") if masked else meta
    episodes = images(2)
    given = tree.map(lambda leaf: leaf.detach().requires_grad_(), meta)
    total = torch.zeros((), dtype=torch.float64)
    for i, key in enumerate(inner_keys(2)):
        support, query = take(episodes, i)
        with running_in(key=key):
            noise = learner.begin(meta, support)["data"]["noise"] if masked else {}

        def mask(name: str, noise: dict[str, Tensor] = noise) -> Tensor | float:
            layer = name.replace("bias", "weight")
            if layer not in noise:
                return 1.0
            soft = torch.sigmoid((given["logits"][layer] + noise[layer]) / 0.7)
            hard = (given["logits"][layer] + noise[layer] >= 0).double()
            rows = hard + soft - soft.detach()
            return rows.view(-1, *(1,) * (given["params"][name].ndim - 1))

        phi = dict(given["params"])
        for _ in range(STEPS):
            loss = F.cross_entropy(by_hand(phi, given["transforms"], support.x), support.y)
            grads = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
            phi = {n: p - LR * mask(n) * g for (n, p), g in zip(phi.items(), grads, strict=True)}
        total = total + F.cross_entropy(by_hand(phi, given["transforms"], query.x), query.y) / 2
    expected = tree.rebuild(given, list(torch.autograd.grad(total, tree.leaves(given))))
    close(estimate(learner, meta, episodes)[0], expected, 1e-12)


def test_one_step_descends_in_the_metric_of_the_matrix() -> None:
    """On a linear model, the outputs' map T W moves by T T^t G, G its own gradient."""
    net = nn.Linear(2, 3).double()
    learner = TNet(net, inner_lr=LR, loss="mse")
    meta = shifted(learner.init(torch.Generator()), "transforms")
    rng = torch.Generator().manual_seed(2)
    support = Batch(*(torch.randn(5, size, generator=rng, dtype=torch.float64) for size in (2, 3)))
    t = meta["transforms"]["weight"]
    whole = (t @ meta["params"]["weight"]).requires_grad_()
    loss = F.mse_loss(F.linear(support.x, whole, t @ meta["params"]["bias"]), support.y)
    (gradient,) = torch.autograd.grad(loss, whole)
    after = adapted(learner, meta, support)["params"]["weight"]
    close(t @ after, whole.detach() - LR * t @ t.T @ gradient, 1e-12)


@pytest.mark.parametrize("case", [CASE, Case("TNet", "batch")], ids=str)
def test_identity_matrices_are_maml(case: Case) -> None:
    learner, episodes = case.learner(), case.episodes()
    meta = tree.map(lambda leaf: leaf.double(), learner.init(torch.Generator().manual_seed(0)))
    maml = MAML(case.module(), inner_lr=0.1, inner_steps=2, loss=learner.loss)
    grads, record = estimate(learner, meta, episodes)
    expected, other = estimate(maml, {"params": meta["params"]}, episodes)
    close(grads["params"], expected["params"], 1e-12)
    close(record.losses, other.losses, 1e-12)


def test_only_what_maps_inputs_to_outputs_has_a_matrix() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.ConvTranspose2d(4, 2, 3), nn.BatchNorm2d(2)
    )
    assert set(TNet(net).init(torch.Generator())["transforms"]) == {"0.weight"}


# --- masks -----------------------------------------------------------------------------------------------


def masked_case(**changes: Any) -> tuple[TNet, Meta]:
    learner = CASE.learner(masked=True, **changes)
    assert isinstance(learner, TNet)
    return learner, shifted(learner.init(torch.Generator().manual_seed(0)), "logits", 0.1)


def test_masked_units_stay_and_others_adapt() -> None:
    learner, meta = masked_case()
    support = take(CASE.episodes(), 0).support
    certain = {name: 40.0 * torch.where(z >= 0, 1.0, -1.0).double() for name, z in meta["logits"].items()}
    with running_in(key=inner_keys(1)[0]):
        after = adapted(learner, meta | {"logits": certain}, support)["params"]
    for name, logits in certain.items():
        for part in (name, name.replace("weight", "bias")):
            moved = (after[part] - meta["params"][part]).abs().reshape(len(logits), -1).sum(1) > 0
            assert not moved[logits < 0].any(), part
            assert part.startswith("body") or torch.equal(moved, logits > 0), part  # units may be dead
    assert any(bool((z > 0).any()) for z in certain.values())


def test_masks_differ_between_tasks_and_repeat_when_recomputed() -> None:
    learner, meta = masked_case()
    episodes = CASE.episodes()
    noises = []
    for key in inner_keys(2):
        with running_in(key=key):
            noises.append(learner.begin(meta, take(episodes, 0).support)["data"]["noise"]["head.weight"])
    assert not torch.equal(*noises)
    ask.vmap_chunks_and_loop_agree(learner, meta, episodes)
    whole, _ = estimate(learner, meta, episodes, gradient=Unrolled())
    close(estimate(learner, meta, episodes, gradient=Recompute())[0], whole, 1e-12)


def test_log_odds_are_learned_where_the_loop_is_cut_too() -> None:
    learner, meta = masked_case()
    for path in (Unrolled(), Truncated(last=1)):
        grads, _ = estimate(learner, meta, CASE.episodes(), gradient=path)
        assert all(float(leaf.abs().max()) > 1e-9 for leaf in tree.leaves(grads["logits"]))


def test_without_randomness_a_mask_is_its_likelier_value() -> None:
    learner, meta = masked_case()
    episode = take(CASE.episodes(), 0)
    certain = {name: 100.0 * logits for name, logits in meta["logits"].items()}
    close(
        predictions(learner, meta, episode), predictions(learner, meta | {"logits": certain}, episode), 1e-12
    )


def test_the_share_of_units_that_adapt_is_that_of_the_log_odds() -> None:
    learner = TNet(MLP(1, 2000, hidden=()), masked=True, loss="mse")
    meta = learner.init(torch.Generator())
    with running_in(key=inner_keys(1)[0]):
        fast = learner.begin(meta, Batch(torch.zeros(1, 1), torch.zeros(1, 2000)))
    (noise,) = fast["data"]["noise"].values()
    for odds in (-1.0, 0.0, 2.0):
        share = float((odds + noise >= 0).float().mean())
        assert share == pytest.approx(torch.sigmoid(torch.tensor(odds)).item(), abs=0.04)


# --- bad arguments ---------------------------------------------------------------------------------------


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match="temperature = 0"):
        TNet(MLP(1, 1), temperature=0.0, loss="mse")
    with pytest.raises(ContractError, match="no linear layer and no convolution"):
        TNet(nn.BatchNorm1d(3), loss="mse")
