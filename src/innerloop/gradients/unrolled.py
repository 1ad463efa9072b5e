"""The exact meta-gradient by ordinary backpropagation through all inner steps."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.gradients.sweep import Sweep


@dataclass(frozen=True)
class Unrolled(Sweep):
    """The exact meta-gradient, by backpropagation through every inner step.

    The fastest exact path. Memory grows with the number of inner steps: all their graphs are kept
    until the backward pass, which frees them as it goes.
    """

    exact = True
