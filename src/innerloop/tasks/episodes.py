"""Double sampling of classification tasks: classes first, then examples of each; all tasks at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from innerloop.core.errors import check_count
from innerloop.core.rng import Keys, Rng, as_key, bits, choose, fold, key, task_keys
from innerloop.core.types import Batch, Episode, Split, check_split
from innerloop.tasks.sizes import Sizes
from innerloop.tasks.store import ExampleStore

#: Draws held at once while examples are chosen: 32 MB, whatever the size of a class.
_BLOCK = 1 << 22


def split_keys(split: str, num_tasks: int, rng: Rng) -> Keys:
    """Keys [num_tasks] of the tasks of a split; its name is part of the key, so splits are independent."""
    check_split(split)
    check_count("num_tasks", num_tasks)
    return task_keys(key(as_key(rng), "tasks", split), num_tasks)


def sample_classes(store: ExampleStore, split: Split, *, sizes: Sizes, num_tasks: int, rng: Rng) -> Episode:
    """`num_tasks` classification tasks of `split`.

    Each task has `ways` distinct classes in random order (so that labels are permuted from task to
    task) and, of each, `shots + queries` distinct examples. Task *i* is a pure function of
    `(rng, split, i)` and the sizes, whatever the number of tasks.

    Returns:
        support.x float32 [T, ways * shots, ...], support.y int64 [T, ways * shots], class by class:
        `shots` examples of class 0, then of class 1; query likewise with `queries`.

    Raises:
        ConfigError, DataError: the split cannot make tasks of these sizes (see `ExampleStore.check`).
    """
    keys = split_keys(split, num_tasks, rng)
    store.check(split, sizes)
    pool = store.pools[split]
    picked = choose(keys, len(pool), sizes.ways)
    classes = pool.ids[picked]
    class_keys = bits(fold(keys, 0), sizes.ways)
    order = choose_within(class_keys, store.counts[classes], sizes.shots + sizes.queries)
    values = store.examples[store.starts[classes][..., None] + order]
    _turn(values, pool.turns[picked])
    return Episode(_batch(values[:, :, : sizes.shots]), _batch(values[:, :, sizes.shots :]))


def pooled_batches(store: ExampleStore, *, sizes: Sizes, num_batches: int, rng: Rng) -> Episode:
    """`num_batches` batches of examples of all training classes at once, as ordinary training takes them.

    A label is the number of the class in the training pool, the same in every batch; the rotations of a
    class are classes of their own. A batch has as many examples as a training task, all distinct and every
    one as likely as any other. Batch *i* is a pure function of `(rng, i)` and the sizes.

    Returns:
        support.x float32 [T, ways * shots, ...], support.y int64 [T, ways * shots], in random order; query
        likewise with `queries`.
    """
    check_count("num_batches", num_batches)
    store.check("train", sizes)
    pool = store.pools["train"]
    ends = np.cumsum(store.counts[pool.ids])
    rows = sizes.ways * sizes.shots
    keys = task_keys(key(as_key(rng), "pooled"), num_batches)
    total = np.full(num_batches, ends[-1])
    places = choose_within(keys, total, rows + sizes.ways * sizes.queries)
    labels = np.searchsorted(ends, places, side="right")
    behind = ends[labels] - places  # how far before the end of its class an example stands
    ids = pool.ids[labels]
    values = store.examples[store.starts[ids] + store.counts[ids] - behind]
    _turn(values, pool.turns[labels])
    x, y = as_float(torch.from_numpy(values)), torch.from_numpy(labels)
    return Episode(Batch(x[:, :rows], y[:, :rows]), Batch(x[:, rows:], y[:, rows:]))


def choose_within(keys: Keys, populations: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """`k` distinct members of `range(population)` in random order, a population for each key: [*keys, k].

    Equal to `core.rng.choose(key, population, k)` key by key, so a choice does not depend on how
    many examples the other classes have.
    """
    flat, limits = keys.reshape(-1), populations.reshape(-1)
    largest = int(limits.max(initial=1))
    rows = max(1, _BLOCK // largest)
    if len(flat) > rows:
        parts = [
            choose_within(flat[i : i + rows], limits[i : i + rows], k) for i in range(0, len(flat), rows)
        ]
        return np.concatenate(parts).reshape(*keys.shape, k)
    if bool((limits == largest).all()):
        return choose(keys, largest, k)
    draws = bits(flat, largest)
    draws[np.arange(largest) >= limits[:, None]] = np.iinfo(np.uint64).max
    first = np.argpartition(draws, k - 1, axis=-1)[:, :k]
    order = np.argsort(np.take_along_axis(draws, first, axis=-1), axis=-1)
    return np.take_along_axis(first, order, axis=-1).reshape(*keys.shape, k)


def _turn(values: NDArray[Any], turns: NDArray[np.int64]) -> None:
    """Turn images [T, n, ..., H, W] in place by the quarter turns of each class or example [T, n]."""
    if not turns.any():
        return
    for quarter in (1, 2, 3):
        here = turns == quarter
        if here.any():
            values[here] = np.rot90(values[here], quarter, axes=(-2, -1))


def _batch(values: NDArray[Any]) -> Batch:
    """Examples [T, ways, n, ...] as floats with labels, class by class."""
    tasks, ways, each = values.shape[:3]
    x = torch.from_numpy(values.reshape(tasks, ways * each, *values.shape[3:]))
    y = torch.arange(ways).repeat_interleave(each).repeat(tasks, 1)
    return Batch(as_float(x), y)


def as_float(x: Tensor) -> Tensor:
    """Stored examples as a learner sees them: uint8 becomes value / 255, floats stay."""
    return x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x.to(torch.float32)
