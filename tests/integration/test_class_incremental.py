"""The benchmark's head is a linear layer under an ordinary optimizer, one example a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

FOLDER = Path(__file__).parents[2] / "benchmarks"
RATES = [0.3, 0.01]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import class_incremental

    return class_incremental


def features() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, 5, generator=draw), torch.arange(4).repeat_interleave(3)


def by_hand(kind: str, rate: float, order: Tensor) -> Tensor:
    (x, y), layer = features(), nn.Linear(5, 4, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = getattr(torch.optim, kind)(layer.parameters(), lr=rate)
    for i in order.tolist():
        optimizer.zero_grad()
        cross_entropy(layer(x[i : i + 1]), y[i : i + 1]).backward()
        optimizer.step()
    return layer.weight.detach()


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_head_online_is_a_layer_under_torchs_optimizer(benchmark: Any, kind: str) -> None:
    heads = benchmark.online(*features(), 4, kind, RATES)
    for head, rate in zip(heads, RATES, strict=True):
        assert torch.allclose(head, by_hand(kind, rate, torch.arange(12)), atol=1e-6)
    backwards = by_hand(kind, RATES[0], torch.arange(11, -1, -1))
    assert not torch.allclose(heads[0], backwards, atol=1e-2), "the order does not matter"


def test_a_head_is_right_where_its_own_row_is_largest(benchmark: Any) -> None:
    head = torch.eye(3)[None]
    queries, labels = torch.tensor([[2.0, 1, 0], [0, 1, 2], [0, 1, 2], [3, 1, 2]]), torch.tensor([0, 2, 1, 0])
    assert benchmark.accuracy(head, queries, labels).tolist() == [0.75]
