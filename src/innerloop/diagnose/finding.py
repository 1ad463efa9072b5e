"""What a rule says: a finding, that it passed, or why it could not be asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


class Severity(Enum):
    """How bad a finding is: `INFO`, `WARN` or `ERROR`, in this order."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Its place in the order, from 0."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a run, or worth knowing.

    Attributes:
        severity: `info` is worth knowing, `warn` may spoil the result, `error` does.
        title: what is wrong, in a sentence with its number.
        value, threshold: what was measured, and where it begins to be wrong.
        advice: what to do, in a line.
        why: the facts that support it, at most three.
        remedy: settings that mend it, by dotted name, as `innerloop train` takes them.
        id: the rule's name; set by the rule.
        plot: the section of the report that shows it; set by the rule.
        step: the outer step at which it was found; None is before training.
    """

    severity: Severity
    title: str
    value: float
    threshold: float
    advice: str
    why: tuple[str, ...] = ()
    remedy: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    plot: str = ""
    step: int | None = None

    @property
    def options(self) -> str:
        """The remedy as options of `innerloop train`; empty where there is none that a setting is."""
        return " ".join(f"--{_dashed(name)} {_plain(value)}" for name, value in self.remedy.items())

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON has it; not-finite numbers become None."""
        return {
            "id": self.id,
            "severity": self.severity.value,
            "title": self.title,
            "value": finite(self.value),
            "threshold": finite(self.threshold),
            "why": list(self.why),
            "advice": self.advice,
            "remedy": dict(self.remedy),
            "options": self.options,
            "plot": self.plot,
            "step": self.step,
        }


@dataclass(frozen=True)
class Passed:
    """A rule that was asked and found nothing.

    Attributes:
        value, threshold: what was measured, and where it would begin to be wrong.
        id: the rule's name.
    """

    value: float
    threshold: float
    id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON has it; a not-finite number becomes None."""
        return {"id": self.id, "value": finite(self.value), "threshold": finite(self.threshold)}


@dataclass(frozen=True)
class Silent:
    """A rule that could not be asked.

    Attributes:
        reason: why, in words.
        id: the rule's name.
    """

    reason: str
    id: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON has it."""
        return {"id": self.id, "reason": self.reason}


class NotEvaluated(Exception):
    """Raised where a record that a rule needs is not there; its text is the reason."""


Answer = Finding | Passed | Silent


def named(answer: Answer, id: str, plot: str, step: int | None) -> Answer:
    """The answer under the name of the rule that gave it."""
    if isinstance(answer, Finding):
        return replace(answer, id=id, plot=plot, step=step if answer.step is None else answer.step)
    return replace(answer, id=id)


def finite(value: float | None) -> float | None:
    """A number as JSON can hold it: not-finite ones become None, others keep six significant digits."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


def _dashed(name: str) -> str:
    return name if "." in name else name.replace("_", "-")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
