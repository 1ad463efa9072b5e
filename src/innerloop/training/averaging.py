"""The average of the iterates: what a run is judged by where the last iterate is mostly noise."""

from __future__ import annotations

from innerloop.core import tree
from innerloop.core.learner import MEMORY
from innerloop.core.types import Meta


def average_in(average: Meta, meta: Meta, decay: float, count: int) -> None:
    """Take the iterate after outer step number `count` (from 1) into a moving average, in place.

    With d = `decay`, the average of w_1 ... w_n is the sum of d^(n - i) w_i over the sum of d^(n - i): the
    initial weights have no part in it, so that there is no bias to wait for (Kingma and Ba 2015, arXiv
    1412.6980, section 3), and after the first step it is that iterate. Running statistics are averaged alike:
    averaged weights lie between past iterates, and so do the statistics of what they compute, while the
    newest ones belong to the newest weights.
    """
    share = (1.0 - decay) / (1.0 - decay**count)
    for name, node in average.items():
        taken = 1.0 if name == MEMORY else share  # what was remembered is past, and stays as it was
        for kept, new in zip(tree.leaves(node), tree.leaves(meta[name]), strict=True):
            kept.lerp_(new.detach(), taken)
