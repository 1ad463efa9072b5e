"""An order for families of tasks: those that are alike first, what is new after them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from innerloop.core.likeness import added, divergences, embedding, no_keys, scales
from innerloop.core.rng import key
from innerloop.tasks.base import TaskSource

_TASKS = 200  # of each family that are looked at


def alike_first(sources: Sequence[TaskSource]) -> list[int]:
    """The numbers of some sources: the first one, then always the one that is nearest to any before it.

    How near two are is told by the support sets of training tasks (`core/likeness.py`), and by no model.
    """
    keys, place = no_keys(len(sources)), key(0, "alike first")
    supports = [source.sample("train", _TASKS, place).support for source in sources]
    keys["scale"] = scales(supports[0])
    for number, support in enumerate(supports):
        added(keys, number, embedding(keys["scale"], support))
    unlike, order = divergences(keys), [0]
    while len(order) < len(sources):
        rest = [number for number in range(len(sources)) if number not in order]
        nearest = torch.stack([unlike[number, order].min() for number in rest]).argmin()
        order.append(rest[int(nearest)])
    return order
