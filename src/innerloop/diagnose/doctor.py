"""All rules asked of a run, and what follows: a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from innerloop.diagnose.finding import Finding, Passed, Severity, Silent
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.rules import RULES
from innerloop.diagnose.verdict import EPSILON, Verdict, judge


@dataclass(frozen=True)
class Diagnosis:
    """A verdict, and the answer of every rule.

    Attributes:
        findings: what is wrong or worth knowing, the worst first.
        passed: the rules that were asked and found nothing.
        silent: the rules that could not be asked, and why.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    passed: tuple[Passed, ...]
    silent: tuple[Silent, ...]

    @property
    def worst(self) -> Severity | None:
        """The severity of the worst finding; None without findings."""
        return max((f.severity for f in self.findings), key=lambda s: s.rank, default=None)

    def exit_code(self, fail_on: str = "warn") -> int:
        """2 for an error, 1 for a warning unless only errors are to `fail_on`, 0 otherwise."""
        worst = self.worst
        if worst is Severity.ERROR:
            return 2
        return int(worst is Severity.WARN and fail_on == "warn")

    def to_dict(self) -> dict[str, Any]:
        """What `innerloop doctor --json` prints."""
        return {
            "verdict": self.verdict.state.name,
            "convergence": self.verdict.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "passed": [answer.to_dict() for answer in self.passed],
            "not_evaluated": [answer.to_dict() for answer in self.silent],
        }


def diagnose(history: History, *, epsilon: float = EPSILON, rules: Sequence[Rule] = RULES) -> Diagnosis:
    """Ask every rule, and judge convergence, from the records of a run as they stand."""
    answers = [rule.ask(history) for rule in rules]
    findings = [a for a in answers if isinstance(a, Finding)]
    return Diagnosis(
        judge(history, epsilon=epsilon),
        tuple(sorted(findings, key=lambda finding: -finding.severity.rank)),
        tuple(a for a in answers if isinstance(a, Passed)),
        tuple(a for a in answers if isinstance(a, Silent)),
    )
