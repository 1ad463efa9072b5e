"""The derivative of adapted numbers with respect to themselves some inner steps before, as products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from innerloop.core import tree
from innerloop.core.types import Fast
from innerloop.gradients.chain import pulled
from innerloop.measure.unroll import adapted


@final
class Jacobian:
    """J = d last / d first on the leaves that steps change, for states `first` and `last` of one graph.

    The graph is run through as often as products are asked for, and never built again. Leaves that no
    later state reads (a decoded weight, say) belong to neither side.

    Raises:
        NotEvaluated: there is no such leaf, or no derivative.
    """

    def __init__(self, first: Fast, last: Fast) -> None:
        before, after = tree.flatten(first), tree.flatten(last)
        paths = [path for path in adapted(first, last) if after[path].requires_grad]
        inputs, outputs = [before[path] for path in paths], [after[path] for path in paths]
        found = pulled(outputs, [torch.ones_like(o) for o in outputs], inputs, keep=True)
        read = [i for i, grad in enumerate(found) if grad is not None] or list(range(len(paths)))
        self._inputs, self._outputs = [inputs[i] for i in read], [outputs[i] for i in read]
        self._forward: tuple[list[Tensor], list[Tensor]] | None = None

    def start(self) -> Tensor:
        """Where to begin an iteration [n]: where the steps went, and a little of a fixed random direction.

        Steps go where the loss is steep, which is most of what is looked for; no direction is left out.
        """
        gone = _flat([o - i for o, i in zip(self._outputs, self._inputs, strict=True)], self._inputs)
        drawn = torch.randn(gone.numel(), generator=torch.Generator().manual_seed(0)).to(gone)
        return gone / gone.norm().clamp_min(torch.finfo(gone.dtype).tiny) + 0.1 * drawn / drawn.norm()

    def transposed(self, vector: Tensor) -> Tensor:
        """J^T w [n], by one backward pass."""
        found = pulled(self._outputs, self._split(vector), self._inputs, keep=True)
        return _flat(found, self._inputs)

    def times(self, vector: Tensor) -> Tensor:
        """J v [n], by one backward pass through the backward pass, which is linear in w."""
        if self._forward is None:
            weights = [torch.zeros_like(o, requires_grad=True) for o in self._outputs]
            with torch.enable_grad():
                turned = torch.autograd.grad(
                    self._outputs, self._inputs, weights, create_graph=True, materialize_grads=True
                )
            self._forward = weights, list(turned)
        weights, turned = self._forward
        return _flat(pulled(turned, self._split(vector), weights, keep=True), weights)

    def _split(self, vector: Tensor) -> list[Tensor]:
        sizes = [leaf.numel() for leaf in self._inputs]
        parts = vector.split(sizes)
        return [part.view_as(leaf) for part, leaf in zip(parts, self._inputs, strict=True)]


def _flat(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(like, found, strict=True)]
    return torch.cat([leaf.detach().flatten() for leaf in filled])
