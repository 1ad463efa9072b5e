"""The memory keeps each task that was seen with the same probability, within its size, repeatably."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from innerloop.core.types import Batch, Episode
from innerloop.training.retain.memory import TaskMemory
from unit.training.retain.moments import same_after_a_checkpoint

SIZE, SEEN, SEEDS = 5, 20, 600


def numbered(first: int, count: int) -> Episode:
    """Tasks [count] that hold their number everywhere."""
    numbers = torch.arange(first, first + count, dtype=torch.float64)
    x = numbers[:, None, None].expand(count, 2, 1)
    return Episode(Batch(x, x + 0.1), Batch(x + 0.2, x + 0.3))


def kept(memory: TaskMemory) -> list[int]:
    leaves = memory.tensors()
    return [int(number) for number in leaves["support/x"][:, 0, 0]] if leaves else []


def filled(
    families: list[int],
    *,
    size: int = SIZE,
    balance: Literal["reservoir", "family"] = "reservoir",
    seed: int = 0,
    at_once: int = 4,
) -> TaskMemory:
    """Tasks 0, 1, 2, ... of these families, offered a few at a time."""
    memory = TaskMemory(size, balance, seed)
    for start in range(0, len(families), at_once):
        part = families[start : start + at_once]
        memory.take_in(numbered(start, len(part)), part)
    return memory


def frequencies(memories: list[list[int]], tasks: int) -> np.ndarray:
    counts = Counter(itertools.chain(*memories))
    return np.array([counts[number] for number in range(tasks)])


def evenly(counts: np.ndarray, share: float) -> None:
    """Counts of SEEDS memories that keep a fixed number of tasks, each with probability `share`.

    The counts of one memory are drawn without replacement, so their chi-square is scaled by (n - 1) / n over
    1 - share; it is held against the 99.9 % quantile, by Wilson and Hilferty's cube.
    """
    n, expected = len(counts), SEEDS * share
    found = float(((counts - expected) ** 2).sum() / (expected * (1 - share)) * (n - 1) / n)
    bound = (n - 1) * (1 - 2 / (9 * (n - 1)) + 3.0902 * (2 / (9 * (n - 1))) ** 0.5) ** 3
    assert found < bound, f"{found:.1f} >= {bound:.1f}"


def equally_often(size: int, seen: int, at_once: int = 4) -> None:
    found = [kept(filled([0] * seen, size=size, seed=seed, at_once=at_once)) for seed in range(SEEDS)]
    evenly(frequencies(found, seen), size / seen)


@pytest.mark.parametrize(("size", "seen", "at_once"), [(2, 6, 1), (2, 6, 6), (3, 10, 4)])
def test_every_task_is_kept_equally_often(size: int, seen: int, at_once: int) -> None:
    equally_often(size, seen, at_once)


@pytest.mark.parametrize(("low", "more"), [(0, 0), (0, 1), (0, -1), (1, 0)])
def test_a_draw_that_is_off_by_one_is_told(low: int, more: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task after n others draws j from {0, ..., n}; up to n + 1, the later ones are kept less often.

    The first is no bug: the same code with the right bounds.
    """

    def wrong(self: TaskMemory, family: int) -> int | None:
        before = self._seen.get(0, 0)
        self._seen[0] = before + 1
        if len(self) < self.size:
            return len(self)
        slot = np.random.default_rng((self._seed, before)).integers(low, before + more, endpoint=True)
        return int(slot) if slot < self.size else None

    monkeypatch.setattr(TaskMemory, "_place", wrong)
    if (low, more) == (0, 0):
        equally_often(2, 6)
        return
    with pytest.raises(AssertionError, match=">="):
        equally_often(2, 6)


def test_the_same_tasks_and_seed_give_the_same_memory_and_another_seed_another() -> None:
    one, same, other = (filled([0] * SEEN, seed=seed) for seed in (3, 3, 4))
    assert kept(one) == kept(same)
    assert kept(one) != kept(other)
    assert kept(filled([0] * SEEN, seed=3, at_once=1)) == kept(one), "whatever comes together"


@pytest.mark.parametrize("balance", ["reservoir", "family"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_it_is_never_larger_than_its_size(balance: Literal["reservoir", "family"], size: int) -> None:
    families = [0] * 6 + [1] * 5 + [2, 3, 0, 1, 4, 4, 4]
    memory = TaskMemory(size, balance, 0)
    for number, family in enumerate(families):
        memory.take_in(numbered(number, 1), [family])
        assert len(memory) == min(size, number + 1) or (balance == "family" and len(memory) <= size)
        assert len(memory.families) == len(memory)


def test_a_task_is_kept_whole_and_apart_from_the_batch_it_came_in() -> None:
    batch = Episode(*(Batch(*(leaf.clone() for leaf in part)) for part in numbered(0, 3)))
    memory = TaskMemory(3, "reservoir", 0)
    memory.take_in(batch, [0, 1, 2])
    for leaf in itertools.chain(*batch):
        leaf.fill_(-1.0)
    found = memory.drawn(3, 5)
    assert found is not None
    episodes, families = found
    order = [int(x) for x in episodes.support.x[:, 0, 0]]
    assert families == order
    expected = Episode(*(Batch(*(leaf[order] for leaf in part)) for part in numbered(0, 3)))
    assert all(torch.equal(a, b) for a, b in zip(flatten(episodes), flatten(expected), strict=True))


def flatten(episodes: Episode) -> list[Tensor]:
    return [*episodes.support, *episodes.query]


# --- families --------------------------------------------------------------------------------------------


def shares(memory: TaskMemory) -> dict[int, int]:
    return dict(sorted(Counter(memory.families).items()))


def test_each_family_has_an_equal_part() -> None:
    assert shares(filled([0] * 30 + [1] * 30 + [2] * 30, size=12, balance="family")) == {0: 4, 1: 4, 2: 4}
    assert shares(filled([0] * 90 + [1] * 5, size=8, balance="family")) == {0: 4, 1: 4}


def test_what_does_not_divide_goes_to_the_first_families() -> None:
    assert shares(filled([2] * 9 + [0] * 9 + [1] * 9, size=8, balance="family")) == {0: 3, 1: 3, 2: 2}


def test_a_new_family_makes_the_others_smaller_at_once() -> None:
    memory = filled([0] * 10, size=6, balance="family")
    assert shares(memory) == {0: 6}
    before = set(kept(memory))
    memory.take_in(numbered(10, 1), [1])
    assert shares(memory) == {0: 3, 1: 1}
    assert set(kept(memory)) - {10} < before


def test_a_reservoir_of_all_prefers_the_family_that_came_more_often() -> None:
    assert shares(filled([0] * 95 + [1] * 5, size=10, seed=1)).get(1, 0) < 4


def test_each_task_of_a_family_is_kept_equally_often_whenever_the_others_came() -> None:
    families = [0] * 4 + [1] * 3 + [0] * 4
    found = [kept(filled(families, size=4, balance="family", seed=seed)) for seed in range(SEEDS)]
    counts = frequencies(found, len(families))
    evenly(counts[[i for i, family in enumerate(families) if family == 0]], 2 / 8)
    evenly(counts[[i for i, family in enumerate(families) if family == 1]], 2 / 3)


# --- what is drawn ---------------------------------------------------------------------------------------


def test_draws_are_distinct_while_there_are_as_many() -> None:
    memory = filled([0] * 5)
    for place in range(50):
        found = memory.drawn(4, place)
        assert found is not None
        assert len(set(found[0].support.x[:, 0, 0].tolist())) == 4


def test_more_than_there_are_repeat_each_as_often_as_they_must() -> None:
    found = filled([0, 0, 0]).drawn(7, 1)
    assert found is not None
    assert sorted(Counter(found[0].support.x[:, 0, 0].tolist()).values()) == [2, 2, 3]


def test_a_draw_is_a_function_of_its_place_and_every_task_is_drawn() -> None:
    memory = filled([0] * 5)
    drawn = [memory.drawn(2, place) for place in range(200)]
    again = memory.drawn(2, 7)
    assert drawn[7] is not None
    assert again is not None
    assert torch.equal(drawn[7][0].support.x, again[0].support.x)
    numbers = np.array([found[0].support.x[:, 0, 0].tolist() for found in drawn if found])
    counts = np.array([(numbers == number).sum() for number in range(5)])
    assert counts.min() > 50, "of 400 draws among five, 80 each are expected"


def test_nothing_is_drawn_of_nothing() -> None:
    assert TaskMemory(3, "reservoir", 0).drawn(2, 0) is None
    assert filled([0] * 5).drawn(0, 0) is None


# --- checkpoints -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", ["reservoir", "family"])
@pytest.mark.parametrize("count", [0, 3, 11, 23])
def test_it_goes_on_from_a_checkpoint_bitwise(balance: Literal["reservoir", "family"], count: int) -> None:
    families = ([0] * 10 + [1] * 6 + [0, 1, 2] * 10)[:40]
    whole = filled(families, balance=balance, at_once=1)
    part = filled(families[:count], balance=balance, at_once=1)
    part = same_after_a_checkpoint(part, TaskMemory(SIZE, balance, 0))
    assert isinstance(part, TaskMemory)
    for number in range(count, len(families)):
        part.take_in(numbered(number, 1), [families[number]])
    same_after_a_checkpoint(whole, part)
    assert kept(whole) == kept(part)
    assert whole.families == part.families


def test_what_was_written_down_does_not_change_when_training_goes_on() -> None:
    memory = filled([0] * 3)
    values, tensors = memory.values(), memory.tensors()
    before = str(values), {path: leaf.clone() for path, leaf in tensors.items()}
    memory.take_in(numbered(3, 9), [1] * 9)
    assert (str(values), list(tensors)) == (before[0], list(before[1]))
    assert all(torch.equal(tensors[path], leaf) for path, leaf in before[1].items())
