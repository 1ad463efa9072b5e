"""Synaptic intelligence: parameters that brought the loss down stay where they were."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.types import Meta
from innerloop.gradients.base import learned
from innerloop.training.retain.anchor import added, copied
from innerloop.training.retain.base import Moment, Remedy


@final
class Intelligence(Remedy):
    """`strength` times the sum of Omega (theta - anchor)^2.

    Within a stage, omega sums -g times the step of each parameter: its part in the fall of the loss. At the
    end, Omega grows by max(0, omega) / ((distance over the stage)^2 + damping), and omega begins again at
    zero.
    """

    def __init__(self, strength: float, damping: float) -> None:
        self.strength, self.damping = strength, damping
        self._path: Meta | None = None
        self._importance: Meta | None = None
        self._anchor: Meta | None = None
        self._began: Meta | None = None

    def changed(self, grads: Meta, moment: Moment) -> Meta:
        if self._began is None:
            self._began = copied(learned(moment.meta))
        if self._importance is None or self._anchor is None:
            return grads
        force = tree.map(
            lambda f, now, then: 2.0 * self.strength * f * (now - then),
            self._importance,
            learned(moment.meta),
            self._anchor,
        )
        return added(grads, force)

    def stepped(self, grads: Meta, before: Meta, after: Meta) -> None:
        part = tree.map(lambda g, b, a: -g * (a - b), learned(grads), before, after)
        self._path = part if self._path is None else tree.map(torch.add, self._path, part)

    def stage_ended(self, moment: Moment) -> None:
        now = copied(learned(moment.meta))
        if self._path is not None and self._began is not None:
            gained = tree.map(
                lambda w, a, b: w.clamp(min=0.0) / ((a - b).square() + self.damping),
                self._path,
                now,
                self._began,
            )
            old = self._importance
            self._importance = gained if old is None else tree.map(torch.add, old, gained)
        self._anchor, self._began, self._path = now, now, None

    def tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, kept in self._kept().items():
            if kept is not None:
                found |= {path: leaf.clone() for path, leaf in tree.flatten(kept, name).items()}
        return found

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        found = tree.unflatten(tensors) if tensors else {}
        for name in self._kept():
            setattr(self, f"_{name}", found.get(name))

    def _kept(self) -> dict[str, Meta | None]:
        return {name: getattr(self, f"_{name}") for name in ("path", "importance", "anchor", "began")}
