"""Inner gradients held constant."""

from __future__ import annotations

from dataclasses import dataclass

from innerloop.gradients.sweep import Sweep


@dataclass(frozen=True)
class FirstOrder(Sweep):
    """Inner gradients as constants: FOMAML's gradient, the query gradient at the adapted point.

    Finn et al. 2017 (arXiv 1703.03400), section 5.2. Whatever else `meta` holds (learned rates)
    still gets its gradient; only second derivatives are dropped. No graph of an inner step is kept.
    """

    exact = False
    first_order = True
