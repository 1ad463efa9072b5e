"""Towards the meta-parameters that a stage ended with."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from innerloop.core import tree
from innerloop.core.types import Meta
from innerloop.gradients.base import learned
from innerloop.training.retain.base import Moment, Remedy


@final
class Anchor(Remedy):
    """Half the squared distance to the last anchor, times `weight`: a step back for every step away."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._anchor: Meta | None = None

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        if self._anchor is None:
            return grads
        pull = tree.map(lambda then, now: self.weight * (now - then), self._anchor, learned(moment.meta))
        return added(grads, pull)

    def stage_ended(self, moment: Moment) -> None:
        self.anchored(moment.meta)

    def anchored(self, meta: Meta) -> None:
        self._anchor = copied(learned(meta))

    def tensors(self) -> dict[str, Tensor]:
        return {} if self._anchor is None else tree.flatten(self._anchor)

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._anchor = tree.unflatten(tensors) if tensors else None


def copied(meta: Meta) -> Meta:
    """The same numbers, in memory of their own."""
    return tree.map(lambda leaf: leaf.detach().clone(), meta)


def added(grads: Meta, more: Meta) -> Meta:
    """Gradients with `more`, which is of the learned part, added; by path, whatever the order of names."""
    flat = tree.flatten(more)
    found = {path: leaf + flat[path] if path in flat else leaf for path, leaf in tree.flatten(grads).items()}
    return tree.rebuild(grads, list(found.values()))
