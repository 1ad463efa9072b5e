"""How the outer gradient is obtained: an object, not a flag."""

from innerloop.gradients.backpropagated import FirstOrder, Unrolled
from innerloop.gradients.base import MetaGradient, Record
from innerloop.gradients.displacement import Displacement

__all__ = ["Displacement", "FirstOrder", "MetaGradient", "Record", "Unrolled"]
