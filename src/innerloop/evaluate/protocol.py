"""Fixed episodes by name: task number i of (seed, split) is the same wherever it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from innerloop.core.rng import key, task_keys
from innerloop.core.types import Episode, Split
from innerloop.core.vectorise import take
from innerloop.tasks.base import TaskSource

import torch

BLOCK = 25  # tasks drawn at once; part of an episode's name, so it never changes


def fixed_episodes(tasks: TaskSource, split: Split, episodes: int, seed: int) -> Iterator[tuple[Episode, Tensor]]:
    """Blocks of the first `episodes` tasks of (seed, split), each with the tasks' keys [T]."""
    for block in range(-(-episodes // BLOCK)):
        place = key(seed, "evaluation", split, block)
        count = min(BLOCK, episodes - block * BLOCK)
        keys = torch.from_numpy((task_keys(place, count) >> 1).astype("int64"))
        yield take(tasks.sample(split, count, place), slice(0, count)), keys
