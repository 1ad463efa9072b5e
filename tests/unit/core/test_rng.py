"""Keyed randomness: frozen numbers, so that a change of any is noticed, and what makes it random."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from innerloop.core.rng import (
    as_key,
    bits,
    choose,
    fold,
    fold_key,
    generator,
    key,
    keyed_uniform,
    normal,
    task_keys,
    uniform,
)

BASE = key(0, "tasks", 3)
TASK = torch.tensor(123456789012345678)

# A seed names a run: these may change only under the changelog's heading *Numerics*.
FROZEN: dict[str, tuple[Callable[[], Any], Any]] = {
    "key": (
        lambda: [key(0), key(0, "tasks", 3), key(2**62, "a")],
        [6450899586159507901, 3768144967186423425, 7880963339278824233],
    ),
    "task_keys": (
        lambda: task_keys(BASE, 3).tolist(),
        [0xF175038DCDA4ADD9, 0x85A019861723C82F, 0xEDC98D4840A4180E],
    ),
    "fold": (lambda: fold(task_keys(BASE, 2), 1).tolist(), [0x713F172704D69B27, 0x978AE3E35B3CAECA]),
    "bits": (
        lambda: bits(task_keys(BASE, 2), 1)[:, 0].tolist(),
        [11603583248846060027, 16987826346870194783],
    ),
    "uniform": (lambda: uniform(task_keys(BASE, 1), 2)[0].tolist(), [0.6290315083507653, 0.7113430032544972]),
    "normal": (  # logarithm and cosine may differ in the last bit from machine to machine
        lambda: normal(task_keys(BASE, 1), 2)[0].round(12).tolist(),
        [0.623376722497, -1.124664970743],
    ),
    "choose": (lambda: choose(task_keys(BASE, 2), 10, 4).tolist(), [[5, 8, 9, 6], [8, 7, 4, 1]]),
    "permute": (lambda: choose(task_keys(BASE, 2), 4, 4).tolist(), [[2, 0, 1, 3], [1, 3, 0, 2]]),
    "keyed_uniform": (
        lambda: keyed_uniform(TASK, (3,)).tolist(),
        [0.816680908203125, 0.38522565364837646, 0.11823350191116333],
    ),
    "fold_key": (
        lambda: [int(fold_key(TASK, s)) for s in (0, 7)],
        [5639924080423041229, 5693233689733774747],
    ),
    "generator": (
        lambda: torch.rand(2, generator=generator(0, "init")).tolist(),
        [0.6381614804267883, 0.32239001989364624],
    ),
}


@pytest.mark.parametrize("name", FROZEN)
def test_numbers_are_the_frozen_ones(name: str) -> None:
    draw, expected = FROZEN[name]
    assert draw() == expected


def tasks_do_not_depend_on_their_number(draw: Callable[[int], Any]) -> None:
    """The first tasks of many are the tasks of few."""
    few, many = np.asarray(draw(3)), np.asarray(draw(50))
    assert (few == many[:3]).all(), "task i depends on the number of tasks"


DRAWS: dict[str, Callable[[int], Any]] = {
    "task_keys": lambda n: task_keys(BASE, n),
    "uniform": lambda n: uniform(task_keys(BASE, n), 4),
    "normal": lambda n: normal(task_keys(BASE, n), 4),
    "choose": lambda n: choose(task_keys(BASE, n), 20, 5),
    "fold": lambda n: fold(task_keys(BASE, n), 2),
}


@pytest.mark.parametrize("name", DRAWS)
def test_task_i_does_not_depend_on_the_number_of_tasks(name: str) -> None:
    tasks_do_not_depend_on_their_number(DRAWS[name])


def test_tasks_can_be_drawn_from_the_middle() -> None:
    assert (task_keys(BASE, 10)[4:] == task_keys(BASE, 6, first=4)).all()


def test_a_key_tells_apart_numbers_and_texts_and_places() -> None:
    paths: list[tuple[int | str, ...]] = [(1,), ("1",), (1, 1), (11,), (1, "1"), ("a", "b"), ("ab",), ()]
    assert len({key(0, *path) for path in paths}) == len(paths)
    assert all(0 <= key(0, *path) < 2**63 for path in paths)


def test_uniform_draws_are_uniform() -> None:
    drawn = uniform(task_keys(key(1), 2000), 50)
    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0] / drawn.size
    assert np.abs(counts - 0.05).max() < 0.003  # 4.3 standard deviations of one bin
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.08
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.08


def test_normal_draws_are_standard_normal_and_fewer_are_the_first_of_more() -> None:
    drawn = normal(task_keys(key(1), 2000), 50)
    assert np.isfinite(drawn).all()
    below = (np.vectorize(math.erf)(np.sort(drawn, axis=None)[::100] / math.sqrt(2)) + 1) / 2
    expected = np.linspace(0, 1, len(below), endpoint=False)
    assert np.abs(below - expected).max() < 1.63 / math.sqrt(drawn.size)  # Kolmogorov and Smirnov, 1 %
    assert np.abs(np.corrcoef(drawn[:, :4].T) - np.eye(4)).max() < 0.09
    assert (normal(task_keys(key(1), 3), 7) == drawn[:3, :7]).all()


def test_keyed_uniform_draws_are_uniform() -> None:
    keys = torch.from_numpy((task_keys(key(2), 500) >> np.uint64(1)).astype("int64"))
    drawn = torch.stack([keyed_uniform(k, (200,)) for k in keys])
    assert float(drawn.min()) >= 0.0
    assert float(drawn.max()) < 1.0
    counts = torch.histc(drawn, 20, 0.0, 1.0) / drawn.numel()
    assert float((counts - 0.05).abs().max()) < 0.003
    assert abs(float(torch.corrcoef(drawn[:, :2].T)[0, 1])) < 0.15
    assert abs(float(torch.corrcoef(torch.stack([drawn[:-1, 0], drawn[1:, 0]]))[0, 1])) < 0.15


def test_streams_are_independent_of_each_other() -> None:
    keys = task_keys(BASE, 3000)
    streams = np.stack([uniform(keys, 1)[:, 0], *(uniform(fold(keys, s), 1)[:, 0] for s in (0, 1, 2, 1000))])
    assert np.abs(np.corrcoef(streams) - np.eye(len(streams))).max() < 0.07
    tasks = torch.from_numpy((keys[:1500] >> np.uint64(1)).astype("int64"))
    folded = [torch.stack([keyed_uniform(fold_key(k, s), ()) for k in tasks]) for s in (-1, 0, 1, 2)]
    alone = torch.stack([keyed_uniform(k, ()) for k in tasks])
    found = torch.corrcoef(torch.stack([alone, *folded])) - torch.eye(5)
    assert float(found.abs().max()) < 0.1


def test_keyed_draws_are_the_same_under_vmap() -> None:
    keys = torch.arange(5) * 987654321987
    lifted = torch.func.vmap(lambda k: keyed_uniform(fold_key(k, 3), (4, 2)))(keys)
    assert torch.equal(lifted, torch.stack([keyed_uniform(fold_key(k, 3), (4, 2)) for k in keys]))


def test_choices_are_distinct_and_each_member_is_as_likely() -> None:
    chosen = choose(task_keys(key(5), 4000), 12, 5)
    assert all(len(set(row)) == 5 for row in chosen.tolist())
    shares = np.bincount(chosen.ravel(), minlength=12) / chosen.size
    assert np.abs(shares - 1 / 12).max() < 0.01
    first = np.bincount(chosen[:, 0], minlength=12) / len(chosen)
    assert np.abs(first - 1 / 12).max() < 0.02


def test_a_generator_gives_another_key_each_time_and_an_int_is_a_key() -> None:
    rng = torch.Generator().manual_seed(0)
    assert as_key(rng) != as_key(rng)
    assert as_key(5) == 5
    assert 0 <= as_key(-1) < 2**63
    assert 0 <= as_key(2**70) < 2**63
    task_keys(as_key(-1), 2)


def test_generators_of_different_places_differ() -> None:
    drawn = {
        float(torch.rand((), generator=generator(*place)))
        for place in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 0, 1), (0, "a", 1, 1)]
    }
    assert len(drawn) == 6
