"""ANML is OML behind a gate: open it is OML, closed it learns nothing, and it looks at one example."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from innerloop.algorithms import ANML, OML
from innerloop.core.errors import ContractError
from innerloop.core.learner import adapt
from innerloop.core.types import Batch, Meta
from innerloop.models import Conv4
from innerloop.testing.probing import close


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 8)).double()


def support() -> Batch:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(x, torch.tensor([1, 1, 3, 3]))


def gated(learner: ANML, bias: float) -> Meta:
    """Meta-parameters whose gate is the same for every input."""
    meta = learner.init(torch.Generator().manual_seed(0))
    gate = {name: torch.zeros_like(leaf) for name, leaf in meta["gate"].items()}
    return meta | {"gate": gate | {"2.bias": torch.full_like(gate["2.bias"], bias)}}


def test_an_open_gate_is_oml() -> None:
    ours, theirs = ANML(network(), inner_steps=4), OML(network(), inner_lr=0.1, inner_steps=4)
    meta, plain = gated(ours, 60.0), theirs.init(torch.Generator().manual_seed(0))
    queries = support().x + 0.1
    found = ours.predict(meta, adapt(ours, meta, support(), 4), queries)
    expected = theirs.predict(plain, adapt(theirs, plain, support(), 4), queries)
    close(found.detach(), expected.detach(), 1e-12)


def closed_features_leave_no_trace(learner: ANML) -> None:
    meta = gated(learner, -60.0)
    before, after = (adapt(learner, meta, support(), steps)["params"]["2.weight"] for steps in (0, 4))
    close(before.detach(), after.detach(), 1e-12)


def test_a_closed_gate_leaves_the_heads_weights_alone() -> None:
    closed_features_leave_no_trace(ANML(network()))


def test_a_planted_gate_that_is_missing_is_seen() -> None:
    planted = ANML(network())
    planted.features_of = OML(network()).features_of  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="differ"):
        closed_features_leave_no_trace(planted)


def test_the_gate_of_an_example_does_not_depend_on_others() -> None:
    learner = ANML(Conv4(5, size=16, width=4, norm="batch"))
    gate = learner.init(torch.Generator().manual_seed(0))["gate"]
    x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    together = learner.parts["gate"](gate, x)
    close(torch.cat([learner.parts["gate"](gate, x[i : i + 1]) for i in range(3)]), together, 1e-5)


def test_the_gate_is_drawn_from_the_seed() -> None:
    learner = ANML(Conv4(5, size=16, width=4))
    gates = [learner.init(torch.Generator().manual_seed(seed))["gate"]["head.weight"] for seed in (0, 0, 1)]
    assert torch.equal(gates[0], gates[1])
    assert not torch.equal(gates[0], gates[2])


def test_a_module_without_a_linear_head_is_refused() -> None:
    for module in (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()), nn.Linear(3, 2)):
        with pytest.raises(ContractError, match="linear"):
            ANML(module)
