"""ANIL computes the body once where it may, and gives the numbers of computing it in every step."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from cases import Case
from innerloop.algorithms import ANIL
from innerloop.core.functional import FunctionalModule
from innerloop.core.mode import Mode, running_in
from innerloop.gradients import FirstOrder, MetaGradient, Recompute, Truncated, Unrolled
from innerloop.testing.probing import close, deviation

CASES = [Case("ANIL", "mlp"), Case("ANIL", "batch", "running"), Case("ANIL", "batch", "support")]


def in_every_step() -> object:
    return mock.patch.object(FunctionalModule, "before_head", return_value=None)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("axis", ["loop", "vmap"])
@pytest.mark.parametrize("path", [Unrolled(), Recompute(), FirstOrder(), Truncated(last=1)], ids=str)
def test_features_computed_once_give_the_same_gradient(case: Case, axis: str, path: MetaGradient) -> None:
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    once, _, record = path.estimate(learner, meta, episodes, axis=axis)  # pyright: ignore
    with in_every_step():
        each, _, other = path.estimate(learner, meta, episodes, axis=axis)  # pyright: ignore
    close(once, each, 1e-10)
    close(record.losses, other.losses, 1e-10)


def test_where_derivatives_are_cut_features_are_part_of_every_step() -> None:
    """Planted: features from the beginning of a truncated loop lose the body's gradient."""
    case = CASES[0]
    learner, meta, episodes = case.learner(), case.meta(), case.episodes()
    right, _, _ = Truncated(last=1).estimate(learner, meta, episodes)
    with mock.patch.object(Mode, "whole", property(lambda _: True, lambda *_: None)):
        wrong, _, _ = Truncated(last=1).estimate(learner, meta, episodes)
    assert deviation(right, wrong) > 1e-6


def test_the_body_runs_once_for_all_steps() -> None:
    body = nn.Linear(1, 8)
    learner = ANIL(nn.Sequential(body, nn.Tanh(), nn.Linear(8, 1)).double(), inner_steps=4, loss="mse")
    passes = []
    whole = FunctionalModule._pass

    def counted(self: FunctionalModule, *given: object) -> Tensor:
        passes.append(self)
        return whole(self, *given)  # pyright: ignore

    with mock.patch.object(FunctionalModule, "_pass", counted):
        Unrolled().estimate(learner, learner.init(torch.Generator()), CASES[0].episodes(1), axis="loop")
    assert len(passes) == 2, "the support once, the query once"


class Scaled(nn.Module):
    """Does something to the outputs of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.head(self.body(x))


class Twice(Scaled):  # a concrete base is fine in a test
    """Runs its last layer twice."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        self.head(hidden)
        return self.head(hidden)


def test_only_a_linear_layer_that_ends_the_module_is_taken_apart() -> None:
    x = torch.randn(3, 1, generator=torch.Generator().manual_seed(0))
    dropping = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def features(module: nn.Module) -> Tensor | None:
        net = FunctionalModule(module, "support")
        return net.before_head(net.params(), x)

    for module in (Scaled(), Twice(), nn.Sequential(nn.Linear(1, 4), nn.PReLU())):
        assert features(module) is None
    plain = features(nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1)))
    assert plain is not None
    assert plain.shape == (3, 4)
    assert features(dropping) is not None
    with running_in(training=True):
        assert features(dropping) is None, "every step draws a mask of its own"
