"""Fixed episodes by name: task number i of (split, seed) is the same wherever it is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from innerloop.core.errors import check_range
from innerloop.core.rng import key, tensor_keys
from innerloop.core.types import Episode, Split, check_split
from innerloop.core.vectorise import take
from innerloop.tasks.base import TaskSource

BLOCK = 25  # tasks drawn at once; part of an episode's name, so it never changes


@dataclass(frozen=True)
class FixedEpisodes:
    """The first `episodes` tasks of a split under a seed.

    Args:
        split: train, val or test.
        episodes: how many, >= 1; fewer of them are the first of more.
        seed: names the sequence.
    """

    split: Split = "test"
    episodes: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)
        check_range("episodes", self.episodes, low=1)
        check_range("seed", self.seed, low=0)

    def blocks(self, tasks: TaskSource) -> Iterator[tuple[Episode, Tensor]]:
        """Stacked episodes with the key of each task [T], some at a time."""
        for block in range(-(-self.episodes // BLOCK)):
            place = key(self.seed, "evaluation", self.split, block)
            count = min(BLOCK, self.episodes - block * BLOCK)
            keys = tensor_keys(place, count, torch.device("cpu"))
            yield take(tasks.sample(self.split, count, place), slice(0, count)), keys
