"""What a learner's memory holds: the meta-parameters at the end of each stage, with a key to their tasks."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from innerloop.algorithms.recalling import remembered
from innerloop.core import tree
from innerloop.core.learner import MEMORY
from innerloop.core.likeness import added, divergences, embedding, scales
from innerloop.core.types import Meta
from innerloop.training.retain.base import Moment, Remedy

_TODAY = 0  # the place of the key of what is learned today; slot i has the one after it


@final
class Recollection(Remedy):
    """Writes to the memory that `algorithms/recalling.py` reads; both are in `meta`, and so in checkpoints.

    What is learned in a stage has a key from its first step on, of the tasks of its steps. When a step
    follows the end of a stage, key and meta-parameters go to a slot: to an empty one, or else in the place of
    the older one of the two whose tasks are most alike, the new one among them. Families that come back so
    take the place of their own past, and what is unlike all else stays.
    """

    def __init__(self) -> None:
        self._over = False
        self._order: list[int] = []

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        memory = moment.meta[MEMORY]
        keys, support = memory["keys"], moment.tasks.support
        if self._over:
            self._write(memory, remembered(moment.meta))
        if not keys["scale"].any():
            keys["scale"].copy_(scales(support))
        added(keys, _TODAY, embedding(keys["scale"], support))
        return grads

    def stage_ended(self, moment: Moment) -> None:
        # Not yet: what is learned last needs no slot, and another may have to give way to it.
        self._over = True

    def _write(self, memory: dict[str, Any], now: Meta) -> None:
        keys, slots = memory["keys"], len(memory["keys"]["count"]) - 1
        slot = len(self._order) if len(self._order) < slots else self._given_up(keys)
        self._order = [*(other for other in self._order if other != slot), slot]
        for name in ("count", "mean", "scatter"):
            keys[name][1 + slot] = keys[name][_TODAY]
            keys[name][_TODAY] = 0.0
        tree.map(lambda kept, new: kept[slot].copy_(new.detach()), memory["values"], now)
        self._over = False

    def _given_up(self, keys: dict[str, Tensor]) -> int:
        """The slot that was written first, of those two of all keys whose tasks are most alike."""
        unlike = divergences(keys)
        unlike.fill_diagonal_(torch.inf)
        pair = divmod(int(unlike.argmin()), len(unlike))
        return min((place - 1 for place in pair if place != _TODAY), key=self._order.index)

    def values(self) -> dict[str, Any]:
        return {"over": self._over, "order": self._order}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._over, self._order = bool(values.get("over", False)), list(values.get("order", []))
