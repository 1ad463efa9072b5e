"""What a setting is offered as a remedy for, it mends: the same run with it and without, on equal tasks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from innerloop.algorithms import MAML
from innerloop.core.losses import trivial_loss
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import over_tasks
from innerloop.models import MLP
from innerloop.tasks import Linear, Mixture, Sinusoid
from innerloop.training.config import ObjectiveConfig, OptimizerConfig, TrainConfig, ValidationConfig
from innerloop.training.loop import Training
from innerloop.training.objective import adapted_losses

SIZES = {"shots": 10, "queries": 10}
JUDGED = 200


class HalfTiny:
    """Every other task has targets a fiftieth as large."""

    def __init__(self) -> None:
        self._tasks = Sinusoid(**SIZES)
        self.spec = self._tasks.spec

    def sample(self, split: Any, num_tasks: int, rng: Any) -> Episode:
        scale = torch.ones(num_tasks, 1, 1)
        scale[1::2] = 0.02
        return Episode(*(Batch(b.x, b.y * scale) for b in self._tasks.sample(split, num_tasks, rng)))


def trained(
    tasks: Any, steps: int = 600, *, inner: dict[str, Any] | None = None, **outer: Any
) -> tuple[MAML, Meta]:
    optimizer = {"lr": 2e-3, "clip_norm": 10.0} | outer.pop("optimizer", {})
    given = {"tasks_per_step": 10, "compile": False, "validation": ValidationConfig(steps, 2)} | outer
    learner = MAML(
        MLP(1, 1, hidden=(40, 40)), **{"inner_lr": 0.01, "inner_steps": 3, "loss": "mse"} | (inner or {})
    )
    training = Training(
        learner, tasks, TrainConfig(steps=steps, optimizer=OptimizerConfig(**optimizer), **given)
    )
    for _ in training:
        pass
    return learner, training.state.judged


def losses(tasks: Any, run: tuple[MAML, Meta]) -> Tensor:
    return adapted_losses(*run, tasks.sample("test", JUDGED, 7), key=0, axis="vmap")


def worse_than_trivial(tasks: Any, run: tuple[MAML, Meta]) -> float:
    episodes = tasks.sample("test", JUDGED, 7)
    trivial = over_tasks(lambda episode: trivial_loss("mse", episode), episodes, axis="vmap")
    return float((losses(tasks, run) > trivial).float().mean())


@pytest.mark.slow
def test_normalised_losses_mend_tasks_that_are_worse_than_without_a_model() -> None:
    tasks = HalfTiny()
    usual, normalised = (
        worse_than_trivial(tasks, trained(tasks, objective=ObjectiveConfig(normalise=on)))
        for on in (False, True)
    )
    assert usual > 0.4
    assert normalised < 0.3


@pytest.mark.slow
def test_a_bound_on_inner_gradients_mends_an_inner_rate_that_is_far_too_large() -> None:
    tasks = Sinusoid(**SIZES)
    free, bound = (
        losses(tasks, trained(tasks, 150, inner={"inner_lr": 0.3, "inner_clip": clip}))
        .nan_to_num(torch.inf)
        .mean()
        for clip in (None, 1.0)
    )
    assert float(bound) < 4.0 < 10.0 * float(bound) < float(free)


@pytest.mark.slow
def test_the_average_of_the_iterates_is_below_the_noise_of_the_last() -> None:
    tasks = Sinusoid(**SIZES)
    found = [
        losses(tasks, trained(tasks, 800, tasks_per_step=2, optimizer={"lr": 1e-2, "average": decay}))
        for decay in (None, 0.99)
    ]
    gain = found[0] - found[1]
    assert float(gain.mean()) > 3 * float(gain.std()) / JUDGED**0.5
    assert float(gain.mean()) > 0.05 * float(found[0].mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PCGrad", "UPGrad"])
def test_a_rare_family_gains_where_families_do_not_pay_for_each_other(name: str) -> None:
    tasks = Mixture([Sinusoid(**SIZES), Linear(**SIZES)], weights=[1.0, 3.0])
    rare = torch.tensor(tasks.families("test", JUDGED, 7)) == 0
    mean, apart = (
        losses(tasks, trained(tasks, optimizer={"aggregate": how}))[rare].mean() for how in ("mean", name)
    )
    assert float(apart) < 0.85 * float(mean)
