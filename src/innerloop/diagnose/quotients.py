"""What it means that a meta-gradient disagrees with difference quotients: wrong, or right and chaotic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

RIGHT = 1e-3  # largest error of a gradient that is right
_CONSTANT = 0.1  # relative change of what no longer depends on the distance

Error = Literal["right", "chaotic", "wrong"]


def kind_of_error(errors: Mapping[float, Sequence[float]]) -> Error:
    """What the errors of a sweep mean.

    Along a direction a gradient is wrong where no distance brings the error below 1e-3 and the quotients no
    longer change over the two smallest distances: they have found a slope, and it is another. A gradient is
    wrong if it is so along two directions or more; right if it is right along most of them at some distance
    beyond the two smallest; else chaotic: right, but over steps so small that it is of no use.

    Args:
        errors: for each distance h the errors by direction, as `quotient_sweep` returns.
    """
    distances = sorted(errors, reverse=True)
    by_direction = list(zip(*(errors[h] for h in distances), strict=True))
    wrong = sum(min(each) > RIGHT and _settled(each[-2], each[-1]) for each in by_direction)
    right = sum(min(each[:-2]) <= RIGHT for each in by_direction)
    if wrong >= 2:
        return "wrong"
    return "right" if 2 * right > len(by_direction) else "chaotic"


def _settled(one: float, other: float) -> bool:
    """Whether two errors come from one quotient; |1 - e| is the ratio of the smaller slope to the larger."""
    pairs = ((one, other), (abs(1 - one), abs(1 - other)))
    return all(abs(a - b) <= _CONSTANT * max(a, b) for a, b in pairs)
