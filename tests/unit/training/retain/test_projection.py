"""What is followed after a projection raises the loss on remembered tasks no more, and changes least."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from innerloop.core.types import Episode, Meta
from innerloop.core.vectorise import num_tasks, take
from innerloop.training.retain.memory import TaskMemory
from innerloop.training.retain.projection import Projection, projected
from unit.training.retain.moments import EPISODES, META, at, flat, moment

TRIALS = 40


def pair(seed: int) -> tuple[Meta, Meta]:
    numbers = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tuple({"params": {"a": row[:1], "b": row[1:].reshape(3, 1)}} for row in numbers)  # pyright: ignore


def inner(a: Meta, b: Meta) -> Tensor:
    return flat(a) @ flat(b)


PAIRS = [pair(seed) for seed in range(TRIALS)]
CONFLICTS = [(g, r) for g, r in PAIRS if inner(g, r) < 0]


def test_some_of_the_pairs_are_in_conflict_and_some_are_not() -> None:
    assert TRIALS / 4 < len(CONFLICTS) < 3 * TRIALS / 4


def test_without_a_conflict_nothing_changes() -> None:
    for grads, reference in PAIRS:
        if inner(grads, reference) >= 0:
            assert torch.equal(flat(projected(grads, reference)), flat(grads))


def equals_the_closed_form(project: Any) -> None:
    for grads, reference in CONFLICTS:
        g, r = flat(grads), flat(reference)
        expected = g - (g @ r) / (r @ r) * r
        torch.testing.assert_close(flat(project(grads, reference)), expected, rtol=0, atol=1e-12)


def leaves_no_conflict(project: Any) -> None:
    for grads, reference in PAIRS:
        assert float(inner(project(grads, reference), reference)) > -1e-12


def test_with_a_conflict_it_is_the_closed_form() -> None:
    equals_the_closed_form(projected)


def test_afterwards_there_is_no_conflict() -> None:
    leaves_no_conflict(projected)


def test_it_is_the_nearest_gradient_without_a_conflict() -> None:
    """|g - p| is the distance to the half-space of directions that do not raise the remembered loss."""
    for grads, reference in CONFLICTS:
        moved = (flat(projected(grads, reference)) - flat(grads)).norm()
        distance = -inner(grads, reference) / flat(reference).norm()
        torch.testing.assert_close(moved, distance, rtol=1e-12, atol=0)


@pytest.mark.parametrize("power", [1, 4])
def test_a_division_by_another_power_of_the_norm_is_told(power: int) -> None:
    def wrong(grads: Meta, reference: Meta) -> Meta:
        g, r = flat(grads), flat(reference)
        return {"all": g - min(g @ r, 0.0 * g[0]) / (r @ r) ** (power / 2) * r}

    with pytest.raises(AssertionError):
        equals_the_closed_form(wrong)
    with pytest.raises(AssertionError):
        leaves_no_conflict(wrong)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_reference_of_tasks_that_failed_changes_nothing(value: float) -> None:
    grads = at(1.0, 2.0, 3.0)
    assert torch.equal(flat(projected(grads, at(value, value, value))), flat(grads))


def test_statistics_have_no_part_in_it() -> None:
    statistics = {"mean": torch.zeros(2, dtype=torch.float64)}
    grads, reference = at(1.0, 0.0, 0.0), at(-2.0, 1.0, 0.0)
    found = projected(grads | {"statistics": statistics}, reference | {"statistics": statistics})
    torch.testing.assert_close(found, projected(grads, reference) | {"statistics": statistics})


# --- of an outer step ------------------------------------------------------------------------------------


def filled(count: int) -> TaskMemory:
    memory = TaskMemory(10, "reservoir", 0)
    memory.take_in(take(EPISODES, slice(0, count)), [0] * count)
    return memory


def test_an_empty_memory_changes_nothing_and_asks_for_no_gradient() -> None:
    asked: list[Episode] = []
    grads = at(1.0, 2.0, 3.0)
    found = Projection(filled(0)).changed(grads, moment(META, seen=asked.append))
    assert found is grads
    assert not asked


def test_the_reference_is_of_as_many_remembered_tasks_as_the_step_has() -> None:
    asked: list[Episode] = []
    fresh = take(EPISODES, slice(3, 6))
    step = moment(META, fresh, seen=asked.append)
    grads = at(*(-step.gradient(take(EPISODES, slice(0, 3)))["params"]["head.weight"][0]).tolist())
    asked.clear()
    found = Projection(filled(3)).changed(grads, step)
    assert [num_tasks(tasks) for tasks in asked] == [3]
    kept = {float(y) for y in EPISODES.support.y[:3, 0, 0]}
    assert {float(y) for y in asked[0].support.y[:, 0, 0]} == kept
    assert float(flat(found).norm()) < 1e-12, "the opposite of the reference has nothing left"


def test_it_is_of_other_tasks_than_those_that_are_replayed() -> None:
    """The same draw would hide conflicts: what is replayed already pulls the gradient its way."""
    asked: list[Episode] = []
    step = moment(META, take(EPISODES, slice(0, 2)), seen=asked.append)
    memory = filled(6)
    Projection(memory).changed(at(1.0, 2.0, 3.0), step)
    replayed = memory.drawn(2, step.key)
    assert replayed is not None
    assert not torch.equal(asked[0].support.y, replayed[0].support.y)
