"""One step of inner learning, as a pure function."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from innerloop.core.types import Tree

Params = dict[str, Tensor]


class UpdateRule(Protocol):
    """How a gradient becomes new parameters. Out of place, so it can be differentiated and vmapped."""

    def init(self, params: Params) -> Tree:
        """The rule's state before the first step."""
        ...

    def step(self, grads: Params, state: Tree, params: Params) -> tuple[Params, Tree]:
        """New parameters and state."""
        ...
