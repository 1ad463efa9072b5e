"""One meta-gradient out of those of families: known answers, the families' own gradients, the record."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from cases import Case
from innerloop.core import tree
from innerloop.core.errors import ConfigError
from innerloop.core.types import Batch, Episode, Meta
from innerloop.core.vectorise import take
from innerloop.gradients import Unrolled
from innerloop.gradients.base import learned
from innerloop.tasks import Mixture
from innerloop.testing.probing import close
from innerloop.training import aggregate
from innerloop.training.aggregate import aggregated, by_family
from innerloop.training.config import Aggregate, ObjectiveConfig, OptimizerConfig
from innerloop.training.fit import train
from innerloop.training.state import new_state
from innerloop.training.step import Engine, families_of, gradient_of
from unit.training.resuming import Setup, resumes_bitwise, sinusoid_learner, small_config

NAMES = [name for name in get_args(Aggregate) if name != "mean"]
CONFLICT = torch.tensor([[1.0, 0.0], [-0.5, 0.5]], dtype=torch.float64)
APART = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
FAMILIES = [1, 0, 1, 1]
MAML = Case("MAML", "mlp")


def projected(a: Tensor, b: Tensor) -> Tensor:
    """What of `a` does not go against `b`."""
    return a - min(0.0, float(a @ b)) / float(b @ b) * b


@pytest.mark.parametrize("name", ["PCGrad", "UPGrad"])
def test_two_gradients_in_conflict_are_projected_off_each_other(name: str) -> None:
    one, other = CONFLICT
    expected = (projected(one, other) + projected(other, one)) / 2
    close(aggregated(CONFLICT, name, 0), expected, 1e-3 if name == "UPGrad" else 1e-12)  # it solves for it


def test_the_shortest_vector_between_two_gradients() -> None:
    one, other = CONFLICT  # the point of the segment between them that is next to the origin: (0.1, 0.3)
    share = float(other @ (other - one)) / float((other - one) @ (other - one))
    close(aggregated(CONFLICT, "MGDA", 0), share * one + (1 - share) * other, 1e-3)


@pytest.mark.parametrize("name", ["PCGrad", "UPGrad", "DualProj"])
def test_without_a_conflict_there_is_nothing_but_the_mean(name: str) -> None:
    close(aggregated(APART, name, 0), APART.mean(0), 1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_no_family_pays_for_another(name: str) -> None:
    """Planted: for the mean, some do."""
    rows = torch.tensor([[1.0, 0.0, 0.2], [-3.0, 0.5, 0.1]], dtype=torch.float64)
    assert float((rows @ rows.mean(0)).min()) < -0.1
    assert float((rows @ aggregated(rows, name, 0)).min()) > -2e-3  # as near as solvers come


@pytest.mark.parametrize("name", NAMES)
def test_an_aggregate_is_a_function_of_gradients_and_key(name: str) -> None:
    rows = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = torch.get_rng_state()
    one = aggregated(rows, name, 7)
    torch.rand(3)
    other = aggregated(rows, name, 7)
    close(one, other, 0.0)
    torch.set_rng_state(before)
    aggregated(rows, name, 7)
    assert torch.equal(torch.get_rng_state(), before), "the caller's randomness was used up"


def test_the_order_in_which_conflicts_are_resolved_comes_from_the_key() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert len({tuple(aggregated(rows, "PCGrad", place).tolist()) for place in range(8)}) > 1


# --- in an outer step ------------------------------------------------------------------------------------


def step_gradient(case: Case, name: str, families: list[int] | None, **changes: Any) -> tuple[Meta, Any]:
    config = small_config(optimizer=OptimizerConfig(aggregate=name), tasks_per_step=4, **changes)  # pyright: ignore
    state = new_state(case.meta(), config)
    given = (state, case.learner(), case.episodes(), Engine(Unrolled(), "vmap"), config)
    grads, _, record = gradient_of(*given, families)
    return grads, record


def family_mean(which: list[int]) -> Tensor:
    grads, _, _ = Unrolled().estimate(
        MAML.learner(), MAML.meta(), take(MAML.episodes(), torch.tensor(which)), axis="vmap"
    )
    return flat(grads)


def flat(grads: Meta) -> Tensor:
    return torch.cat([leaf.flatten() for leaf in tree.leaves(learned(grads))])


@pytest.mark.parametrize("name", ["PCGrad", "UPGrad"])
def test_what_is_aggregated_are_the_mean_gradients_of_the_families(name: str) -> None:
    grads, _ = step_gradient(MAML, name, FAMILIES)
    rows = torch.stack([family_mean([1]), family_mean([0, 2, 3])])
    close(flat(grads), aggregated(rows, name, 0), 1e-10)


def test_planted_families_that_are_taken_for_each_other_are_seen() -> None:
    grads, _ = step_gradient(MAML, "MGDA", [0, 1, 1, 1])
    rows = torch.stack([family_mean([1]), family_mean([0, 2, 3])])
    assert float((flat(grads) - aggregated(rows, "MGDA", 0)).abs().max()) > 1e-6


@pytest.mark.parametrize("families", [None, [0, 0, 0, 0], [2, 2, 2, 2]])
def test_one_family_is_the_mean_to_the_last_bit(families: list[int] | None) -> None:
    close(step_gradient(MAML, "UPGrad", families)[0], step_gradient(MAML, "mean", None)[0], 0.0)


def test_the_mean_does_not_ask_for_families() -> None:
    close(step_gradient(MAML, "mean", FAMILIES)[0], step_gradient(MAML, "mean", None)[0], 0.0)


def test_the_record_has_the_tasks_in_their_order_with_failures_where_they_are() -> None:
    _, plain = step_gradient(MAML, "mean", None)
    _, record = step_gradient(MAML, "PCGrad", FAMILIES)
    close(record.losses, plain.losses, 1e-12)
    spoiled = Episode(*(Batch(b.x.clone(), b.y) for b in MAML.episodes()))
    spoiled.support.x[2] = float("nan")

    def estimate(weights: Tensor | None) -> Any:
        return Unrolled().estimate(MAML.learner(), MAML.meta(), spoiled, weights=weights, axis="vmap")

    grads, _, record = by_family(estimate, FAMILIES, None, "PCGrad", key=0)
    assert record.kept == [0, 1, 3]
    rows = torch.stack([family_mean([1]), family_mean([0, 3])])
    close(flat(grads), aggregated(rows, "PCGrad", 0), 1e-10)


def test_a_family_that_failed_has_no_say() -> None:
    spoiled = Episode(*(Batch(b.x.clone(), b.y) for b in MAML.episodes()))
    spoiled.support.x[1] = float("nan")

    def estimate(weights: Tensor | None) -> Any:
        return Unrolled().estimate(MAML.learner(), MAML.meta(), spoiled, weights=weights, axis="vmap")

    grads, _, record = by_family(estimate, FAMILIES, None, "UPGrad", key=0)
    assert record.kept == [0, 2, 3]
    close(flat(grads), family_mean([0, 2, 3]), 1e-10)


def test_weights_of_tasks_go_into_their_families() -> None:
    _, record = step_gradient(MAML, "UPGrad", FAMILIES, objective=ObjectiveConfig(worst=0.5))
    _, plain = step_gradient(MAML, "mean", None, objective=ObjectiveConfig(worst=0.5))
    close(record.losses, plain.losses, 1e-12)


def test_running_statistics_are_the_mean_over_all_tasks() -> None:
    case = Case("ProtoNet", "batch", "running")
    _, plain = step_gradient(case, "mean", None)
    _, record = step_gradient(case, "PCGrad", FAMILIES)
    close(record.statistics, plain.statistics, 1e-10)


# --- a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["PCGrad", "UPGrad"])
def test_a_run_on_a_mixture_resumes_bitwise_and_differs_from_the_mean(name: str, tmp_path: Path) -> None:
    config = small_config(optimizer=OptimizerConfig(aggregate=name), tasks_per_step=4)  # pyright: ignore
    resumes_bitwise(Setup(tasks=Mixture.tiny, config=config), tmp_path)
    aggregated_run = train(sinusoid_learner(), Mixture.tiny(), config=config)
    usual = train(sinusoid_learner(), Mixture.tiny(), config=small_config(tasks_per_step=4))
    moved = [
        float((a - b).abs().max())
        for a, b in zip(tree.leaves(aggregated_run.meta), tree.leaves(usual.meta), strict=True)
    ]
    assert max(moved) > 1e-9


def test_sources_without_families_have_one() -> None:
    assert families_of(Setup().tasks(), 4, 0) is None
    assert set(families_of(Mixture.tiny(), 20, 0) or ()) == {0, 1}


def test_without_torchjd_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ConfigError, match=r"innerloop\[torchjd\]"):
        aggregate.check_installed("UPGrad")
    aggregate.check_installed("mean")
    with pytest.raises(ConfigError, match="did you mean 'UPGrad'"):
        OptimizerConfig(aggregate="UPgrad")  # pyright: ignore
