"""Digits whose pixels stand in another order in every family."""

from __future__ import annotations

from typing import Self, final

from innerloop.core.errors import check_count
from innerloop.tasks.digits import Digits, tiny_digits
from innerloop.tasks.streaming import Schedule, StreamTasks


@final
class PermutedDigits(StreamTasks):
    """A family is `Digits` under one fixed order of its pixels: the first as they are, the others at random.

    Nothing that is local in an image survives, so this is for networks without convolutions.

    Args:
        count: number of families, >= 2.
        seed: which orders: family i, from 1, has `Digits(permutation=seed + i)`.
        ways: classes of a task, 2 to 10.
        shots, queries: support and query images of each class; together at most 43.
        schedule: `sequence` gives each an equal share of the outer steps, one after another; `drift` goes
            over from each to the next gradually; `progressive` lets them join one at a time, what is most
            alike first, and stay; `joint` is all at once.
        rounds: how often the whole sequence comes, >= 1.

    Raises:
        ConfigError: a number or size out of range, or scikit-learn is not installed.
        DataError: a digit has fewer images than `shots + queries`.

    >>> PermutedDigits(3).names
    ('in order', 'permuted 1', 'permuted 2')

    Reference: permuted MNIST of Goodfellow et al. 2013, arXiv 1312.6211, on smaller images.
    """

    def __init__(
        self,
        count: int = 5,
        *,
        seed: int = 0,
        ways: int = 5,
        shots: int = 5,
        queries: int = 15,
        schedule: Schedule = "sequence",
        rounds: int = 1,
    ) -> None:
        self.count, self.seed = check_count("count", count, low=2), check_count("seed", seed, low=0)
        self.ways, self.shots, self.queries = ways, shots, queries
        sizes = {"ways": ways, "shots": shots, "queries": queries}
        self._set_families(
            [Digits(permutation=order, **sizes) for order in self._orders()], self._told(), schedule, rounds
        )

    def _orders(self) -> list[int | None]:
        return [None, *(self.seed + i for i in range(1, self.count))]

    def _told(self) -> list[str]:
        return ["in order", *(f"permuted {i}" for i in range(1, self.count))]

    @classmethod
    def tiny(cls) -> Self:
        """Synthetic strokes, as they are and permuted, 3-way 1-shot; needs no scikit-learn."""
        source = cls.__new__(cls)
        source.count, source.seed = 2, 0
        source.ways, source.shots, source.queries = 3, 1, 3
        families = [tiny_digits(permutation=order) for order in source._orders()]
        source._set_families(families, source._told(), "sequence", 1)
        return source
