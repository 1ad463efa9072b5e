"""How the outer gradient is obtained: an object, not a flag."""

from innerloop.gradients.asynchronous import Asynchronous
from innerloop.gradients.base import MetaGradient, Record
from innerloop.gradients.displacement import Displacement
from innerloop.gradients.evolution import Evolution
from innerloop.gradients.first_order import FirstOrder
from innerloop.gradients.implicit import Implicit
from innerloop.gradients.recompute import Recompute
from innerloop.gradients.truncated import Truncated
from innerloop.gradients.unrolled import Unrolled

__all__ = [
    "Asynchronous",
    "Displacement",
    "Evolution",
    "FirstOrder",
    "Implicit",
    "MetaGradient",
    "Recompute",
    "Record",
    "Truncated",
    "Unrolled",
]
