"""The exact meta-gradient in the memory of a few steps."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.core.errors import check_count
from innerloop.gradients.sweep import Sweep


@dataclass(frozen=True)
class Recompute(Sweep):
    """The exact meta-gradient, keeping only states: steps are run again on the way back.

        v = d loss / d fast_K;   for k = K-1, ..., 0:   (g_k, v) = vjp(step at (meta, fast_k))(v)

    Memory: the graph of `segment` steps, and one state for each segment. Work: one more forward and
    backward pass a step than `Unrolled`, a third more at most.

    Args:
        segment: steps run again at a time, >= 1; None is all of them, as in `Unrolled`. About
            sqrt(inner_steps) is the middle ground between keeping states and keeping graphs.

    >>> import innerloop as il
    >>> il.gradients.Recompute().segments(3)
    [range(0, 1), range(1, 2), range(2, 3)]
    """

    segment: int | None = 1
    exact = True

    def __post_init__(self) -> None:
        if self.segment is not None:
            check_count("segment", self.segment, low=1)
