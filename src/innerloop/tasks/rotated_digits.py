"""Digits that are turned further from family to family."""

from __future__ import annotations

from typing import Self, final

from innerloop.tasks.digits import Digits, tiny_digits
from innerloop.tasks.streaming import Schedule, StreamTasks

_ANGLES = (0.0, 45.0, 90.0, 135.0, 180.0)


@final
class RotatedDigits(StreamTasks):
    """A family is `Digits` turned by one angle: the same classes and images, seen otherwise.

    Args:
        angles: degrees anticlockwise, one for each family, at least two and different; None is 0, 45, 90, 135
            and 180.
        ways: classes of a task, 2 to 10.
        shots, queries: support and query images of each class; together at most 43.
        schedule: `sequence` gives each an equal share of the outer steps, one after another; `drift` goes
            over from each to the next gradually; `progressive` lets them join one at a time, what is most
            alike first, and stay; `joint` is all at once.
        rounds: how often the whole sequence comes, >= 1.

    Raises:
        ConfigError: equal angles, a size out of range, or scikit-learn is not installed.
        DataError: a digit has fewer images than `shots + queries`.

    >>> RotatedDigits([0, 90]).names
    ('0 degrees', '90 degrees')

    Reference: rotated MNIST of Lopez-Paz and Ranzato 2017, arXiv 1706.08840, on smaller images.
    """

    def __init__(
        self,
        angles: list[float] | None = None,
        *,
        ways: int = 5,
        shots: int = 5,
        queries: int = 15,
        schedule: Schedule = "sequence",
        rounds: int = 1,
    ) -> None:
        self.angles = list(_ANGLES if angles is None else angles)
        self.ways, self.shots, self.queries = ways, shots, queries
        families = [Digits(rotation=a, ways=ways, shots=shots, queries=queries) for a in self.angles]
        self._set_families(families, [f"{a:g} degrees" for a in self.angles], schedule, rounds)

    @classmethod
    def tiny(cls) -> Self:
        """Synthetic strokes, upright and turned by 90 degrees, 3-way 1-shot; needs no scikit-learn."""
        source = cls.__new__(cls)
        source.angles = [0.0, 90.0]
        source.ways, source.shots, source.queries = 3, 1, 3
        families = [tiny_digits(rotation=a) for a in source.angles]
        source._set_families(families, ["0 degrees", "90 degrees"], "sequence", 1)
        return source
