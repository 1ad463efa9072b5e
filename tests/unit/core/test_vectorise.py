"""One task lifted to many: chunks, the loop, and when `auto` falls back to it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import as_double
from innerloop.algorithms import MAML
from innerloop.core.errors import ConfigError
from innerloop.core.types import Episode
from innerloop.core.vectorise import each_part, lifting, num_tasks, over_tasks, take
from innerloop.tasks import Sinusoid
from innerloop.testing.probing import close, estimate, mean_query_loss
from innerloop.testing.questions import gradient_equals_finite_differences


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x[:, None])[0][:, -1])


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(1, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x[:, None])[0][:, -1])


class Branching(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, input: Tensor) -> Tensor:
        outputs = super().forward(input)
        return outputs if input.sum() > 0 else -outputs


class Reading(Branching):
    def forward(self, input: Tensor) -> Tensor:
        return nn.Linear.forward(self, input) * input.abs().max().item()


class Selecting(Branching):
    def forward(self, input: Tensor) -> Tensor:
        return nn.Linear.forward(self, input) + torch.nonzero(input > 0).shape[0]


class Broken(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 1)


def episodes(count: int = 3) -> Episode:
    return as_double(Sinusoid(shots=4, queries=3).sample("train", count, 0))


def learner_and_meta(module: nn.Module) -> tuple[MAML, dict[str, Any]]:
    torch.manual_seed(0)
    learner = MAML(module.double(), inner_lr=0.01, inner_steps=2, loss="mse")
    return learner, learner.init(torch.Generator())


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (Recurrent, "lstm"),
        (Gated, "gru"),
        (Branching, "`if` on a tensor"),
        (Reading, ".item()"),
        (Selecting, "aten::nonzero"),
    ],
)
def test_auto_falls_back_to_the_loop_with_one_line_that_names_the_operator(
    kind: type[nn.Module], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    learner, meta = learner_and_meta(kind())
    with caplog.at_level(logging.INFO, logger="innerloop"):
        grads, record = estimate(learner, meta, episodes(), axis="auto")
        again, _ = estimate(learner, meta, episodes(), axis="auto")
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("tasks run in a loop, since vmap cannot: ")
    assert named in caplog.text
    assert "file an issue" not in caplog.text
    looped, expected = estimate(learner, meta, episodes(), axis="loop")
    close(grads, looped)
    close(again, looped)
    close(record.losses, expected.losses)
    assert abs(record.loss - mean_query_loss(learner, meta, episodes())) < 1e-12


@pytest.mark.parametrize("kind", [Recurrent, Gated, Branching])
def test_what_runs_in_the_loop_is_differentiated_exactly(kind: type[nn.Module]) -> None:
    learner, meta = learner_and_meta(kind())
    gradient_equals_finite_differences(learner, meta, episodes(2), axis="loop")


def test_an_ordinary_module_stays_under_vmap(caplog: pytest.LogCaptureFixture) -> None:
    learner, meta = learner_and_meta(nn.Linear(1, 1))
    estimate(learner, meta, episodes(), axis="auto")
    assert caplog.records == []


def test_a_fault_of_the_model_is_not_blamed_on_vmap(caplog: pytest.LogCaptureFixture) -> None:
    learner, meta = learner_and_meta(Broken())
    with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied \(4x1 and 2x1\)"):
        estimate(learner, meta, episodes(), axis="auto")
    assert caplog.records == []


def test_vmap_on_request_does_not_fall_back() -> None:
    learner, meta = learner_and_meta(Branching())
    with pytest.raises(RuntimeError, match="vmap"):
        estimate(learner, meta, episodes(), axis="vmap")


@pytest.mark.parametrize(
    ("axis", "sizes"),
    [
        ("loop", [1, 1, 1, 1, 1]),
        ("vmap", [5]),
        ("auto", [5]),
        (2, [2, 2, 1]),
        (5, [5]),
        (9, [5]),
        (1, [1] * 5),
    ],
)
def test_chunks_cover_all_tasks_once(axis: Any, sizes: list[int]) -> None:
    x = torch.arange(5.0)
    slices = each_part(lambda part, _: part, {"x": x}, lifting(axis, {"x": x}))
    assert [len(x[s]) for s in slices] == sizes
    assert torch.equal(torch.cat([x[s] for s in slices]), x)
    lifted = over_tasks(lambda t: {"square": t["x"] ** 2, "pair": (t["x"], t["x"] + 1)}, {"x": x}, axis=axis)
    assert torch.equal(lifted["square"], x**2)
    assert torch.equal(lifted["pair"][1], x + 1)


@pytest.mark.parametrize("axis", [0, -1, "all", True, 1.5, None])
def test_another_axis_is_refused(axis: Any) -> None:
    with pytest.raises(ConfigError, match="chunk size"):
        over_tasks(lambda x: x, torch.zeros(2), axis=axis)


def test_episodes_keep_their_type_when_some_are_taken() -> None:
    taken = take(episodes(4), slice(1, 3))
    assert isinstance(taken, Episode)
    assert num_tasks(taken) == 2
    assert take(episodes(4), 0).support.x.shape == (4, 1)
