"""What a user can mend, told as: got, expected, do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InnerloopError(Exception):
    """Base of every error that a user can mend.

    The message is at most four lines: what was *got*, what was *expected*, and what to *do*.
    """

    def __init__(self, got: str, *, expected: str, do: str) -> None:
        self.got, self.expected, self.do = got, expected, do
        super().__init__(f"got: {got}\nexpected: {expected}\ndo: {do}")

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.got, self.expected, self.do))


class ConfigError(InnerloopError):
    """A setting is unknown, of the wrong type, or out of range."""


class ContractError(InnerloopError):
    """A model, learner, checkpoint or run folder does not keep its side of a contract."""


class DataError(InnerloopError):
    """Data is missing, unreadable, or unfit for the tasks asked of it."""


def check_count(name: str, value: object, *, low: int = 1) -> int:
    """`value` if it is a whole number of at least `low`; raises `ConfigError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(
            f"{name} = {value!r}",
            expected=f"a whole number, {name} >= {low}",
            do=f"set {name} to {low} or more",
        )
    return value


class AllocationError(InnerloopError):
    """A step of training needs more memory than there is."""

    heading = "not enough memory"


class NonFiniteError(InnerloopError):
    """Training left the finite numbers: most tasks of a step did."""


def _rebuild(kind: type[InnerloopError], got: str, expected: str, do: str) -> InnerloopError:
    return kind(got, expected=expected, do=do)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The member of `known` that `name` most likely meant, or None if nothing is close."""
    by_lower = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[match[0]] if match else None


def unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in `known`, with the nearest one suggested."""
    known = sorted(known)
    near = nearest(name, known)
    return ConfigError(
        f"{kind} {name!r}",
        expected=f"one of {', '.join(known)}" if known else f"no {kind}",
        do=f"did you mean {near!r}?" if near else f"choose a known {kind}",
    )


def check_range(
    name: str,
    value: float,
    *,
    low: float = float("-inf"),
    high: float = float("inf"),
    open_low: bool = False,
) -> None:
    """Raise `ConfigError` unless `low <= value <= high` (`low < value` if `open_low`), finite."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # A NaN fails every comparison, so it is refused here too.
    inside = number and (low < value if open_low else low <= value) and value <= high
    if inside and abs(value) != float("inf"):
        return
    above = f"{name} {'>' if open_low else '>='} {low:g}" if low > float("-inf") else f"finite {name}"
    below = f" and <= {high:g}" if high < float("inf") else ""
    raise ConfigError(f"{name} = {value!r}", expected=above + below, do=f"set {name} within that range")
