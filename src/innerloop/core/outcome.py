"""What became of a task. Failure is data: the members are the sentences that users read."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The end of one task's inner loop."""

    FINITE = "adapted"
    NONFINITE_LOSS = "its query loss is not finite after adaptation"
    NONFINITE_GRADIENT = "its loss is finite but its meta-gradient is not"

    @property
    def ok(self) -> bool:
        return self is Outcome.FINITE
