"""How large a task is: ways, shots and queries, checked once."""

from __future__ import annotations

from typing import NamedTuple

from innerloop.core.errors import ConfigError


class Sizes(NamedTuple):
    """Sizes of the tasks of one split; `ways` is 1 where a task has no classes."""

    ways: int
    shots: int
    queries: int


def check_count(name: str, value: object, *, low: int = 1) -> int:
    """`value` if it is a whole number of at least `low`; raises `ConfigError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(
            f"{name} = {value!r}",
            expected=f"a whole number, {name} >= {low}",
            do=f"set {name} to {low} or more",
        )
    return value


def check_optional_count(name: str, value: object, *, low: int = 1) -> int | None:
    """As `check_count`, and None passes: it means the same size as at test."""
    return None if value is None else check_count(name, value, low=low)
