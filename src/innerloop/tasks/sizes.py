"""How large a task is: ways, shots and queries, checked once."""

from __future__ import annotations

from typing import NamedTuple

from innerloop.core.errors import check_count


class Sizes(NamedTuple):
    """Sizes of the tasks of one split; `ways` is 1 where a task has no classes."""

    ways: int
    shots: int
    queries: int


def check_optional_count(name: str, value: object, *, low: int = 1) -> int | None:
    """As `check_count`, and None passes: it means the same size as at test."""
    return None if value is None else check_count(name, value, low=low)
