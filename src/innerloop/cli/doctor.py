"""`innerloop doctor`: has a run converged, and if not, why? From its records, or before it is trained."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from innerloop.cli import settings
from innerloop.cli.options import HELP, JSON, Option, Parsed, Takes, help_page, parse, shown, unknown_option
from innerloop.core.errors import ConfigError
from innerloop.diagnose.doctor import Diagnosis, diagnose
from innerloop.diagnose.finding import Finding, Severity
from innerloop.diagnose.history import History

FAIL_ON = ("warn", "error")
MARKS = {Severity.ERROR: "[x]", Severity.WARN: "[!]", Severity.INFO: "[i]"}
_OPTIONS = (
    Option("preflight", "ask what can be asked before training; takes the settings of 'innerloop train'"),
    Option("html", "also write the report of these runs", "FILE"),
    Option("fail_on", "warn or error: what exits with another code than 0", "NAME", "warn"),
    Option("epsilon", "relative change over a window that counts as none", "X", "0.01"),
    Option("all", "also name the rules that passed, and why others were not asked"),
    JSON,
    HELP,
)
_OF_TRAINING = ("resume", "overwrite", "print_config", "out")


def run(argv: list[str]) -> int:
    before = "--preflight" in argv
    parsed = parse(argv, _takes_settings if before else _takes)
    if parsed.flag("help"):
        print(help_page("doctor RUN [RUN ...] [options]", _ABOUT, _OPTIONS, more=_MORE))
        return 0
    fail_on = parsed.options.get("fail_on", "warn")
    if fail_on not in FAIL_ON:
        raise ConfigError(f"--fail-on {fail_on}", expected="warn or error", do="choose one")
    if before and "html" in parsed.options:
        raise ConfigError(
            "--html with --preflight", expected="a run to report on", do="train first, or leave --html out"
        )
    epsilon = _epsilon(parsed)
    names, histories = ([_BEFORE], [_preflight(parsed)]) if before else _read(parsed.positionals)
    found = [diagnose(history, epsilon=epsilon) for history in histories]
    report = _Report(names, histories, found, epsilon)
    if parsed.flag("json"):
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(report.text(everything=parsed.flag("all")))
    if "html" in parsed.options:
        from innerloop.report.page import write

        print(f"report {write(parsed.positionals, parsed.options['html'], epsilon=epsilon)}", file=sys.stderr)
    return report.exit_code(fail_on)


class _Report:
    """The diagnoses of some runs, and whether their seeds agree."""

    def __init__(
        self, names: Sequence[str], histories: Sequence[History], found: Sequence[Diagnosis], epsilon: float
    ) -> None:
        from innerloop.diagnose.seeds import disagreement, judge_seeds

        self.names, self.found = names, found
        self.together: Finding | None = None
        self.verdict = found[0].verdict
        if len(found) > 1:
            answer = disagreement(histories, [diagnosis.verdict for diagnosis in found])
            self.together = answer if isinstance(answer, Finding) else None
            self.verdict = judge_seeds(histories, epsilon=epsilon)

    def exit_code(self, fail_on: str) -> int:
        codes = [diagnosis.exit_code(fail_on) for diagnosis in self.found]
        return max(*codes, int(self.together is not None and fail_on == "warn"), 0)

    def to_dict(self) -> dict[str, Any]:
        """One run is one diagnosis; several are a list of them, under a verdict on all."""
        told = [{"run": n} | d.to_dict() for n, d in zip(self.names, self.found, strict=True)]
        if len(told) == 1:
            return told[0]
        together = [] if self.together is None else [self.together.to_dict()]
        verdict = {"verdict": self.verdict.state.name, "convergence": self.verdict.to_dict()}
        return verdict | {"findings": together, "runs": told}

    def text(self, *, everything: bool) -> str:
        parts = [_told(n, d, everything=everything) for n, d in zip(self.names, self.found, strict=True)]
        if len(parts) > 1:
            own = [] if self.together is None else [finding_text(self.together)]
            parts = ["\n".join([f"together: {self.verdict}", *own]), *parts]
        return "\n\n".join(parts)


def finding_text(finding: Finding) -> str:
    """A finding as a paragraph: mark, name, sentence, facts, and what to do."""
    lines = [f"{MARKS[finding.severity]} {finding.severity.value} {finding.id}: {finding.title}"]
    lines += [f"      value {finding.value:.3g}, threshold {finding.threshold:.3g}"]
    lines += [f"      why  {fact}" for fact in finding.why]
    lines += [f"      do   {finding.advice}"]
    return "\n".join([*lines, *([f"           {finding.options}"] if finding.options else [])])


def _told(name: str, found: Diagnosis, *, everything: bool) -> str:
    lines = [f"{name}: {found.verdict}"] if name != _BEFORE else [f"{name}:"]
    lines += [f"  {note}" for note in found.verdict.notes] if name != _BEFORE else []
    lines += [finding_text(finding) for finding in found.findings]
    if not found.findings:
        lines.append(f"no findings: {len(found.passed)} rules passed")
    if everything:
        lines += ["", *(f"passed         {p.id} (value {p.value:.3g})" for p in found.passed)]
        lines += [f"not evaluated  {s.id}: {s.reason}" for s in found.silent]
    else:
        lines.append(f"{len(found.passed)} rules passed, {len(found.silent)} not evaluated; --all names them")
    return "\n".join(lines)


def _read(paths: Sequence[str]) -> tuple[Sequence[str], list[History]]:
    if not paths:
        raise ConfigError(
            "no run folder", expected="one or more", do="innerloop doctor RUN; see 'innerloop doctor --help'"
        )
    return paths, [History.read(path) for path in paths]


def _preflight(parsed: Parsed) -> History:
    """The records of a learner that has not been trained, from the settings of a training."""
    if parsed.positionals:
        raise ConfigError(
            f"{parsed.positionals[0]!r} with --preflight",
            expected="settings of a training, and no run folder",
            do="leave one of them out",
        )
    given = Parsed({name: v for name, v in parsed.options.items() if name not in _known()})
    values = settings.gather(given)
    settings.require(values)
    from innerloop.cli.configuration import configured
    from innerloop.training.preflight import preflight

    config = configured(values)
    learner, tasks = config.build()
    print("asking before training ...", file=sys.stderr, flush=True)
    return preflight(learner, tasks, config.train)


def _epsilon(parsed: Parsed) -> float:
    from innerloop.core.errors import check_range
    from innerloop.diagnose.verdict import EPSILON

    given = parsed.options.get("epsilon")
    if given is None:
        return EPSILON
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    check_range("epsilon", value, low=0.0, open_low=True)
    return value


def _known() -> dict[str, Option]:
    return {option.name: option for option in _OPTIONS}


def _takes(name: str) -> Takes:
    known = _known()
    if name not in known:
        raise unknown_option(name, known, "doctor")
    return "nothing" if known[name].metavar is None else "value"


def _takes_settings(name: str) -> Takes:
    if name in _known():
        return _takes(name)
    if name in _OF_TRAINING:
        raise ConfigError(
            f"{shown(name)} with --preflight", expected="settings of a training", do="leave it out"
        )
    return settings.takes(name, "doctor")


_BEFORE = "before training"
_ABOUT = """Says whether runs have converged, and what is wrong with them: a verdict with its number, and
findings with what to do. Exits 0 if nothing is wrong, 1 for a warning, 2 for an error. Several runs
that differ in their seed are also judged together."""
_MORE = "\n\nWith --preflight, --config FILE and every setting of 'innerloop train' may be given."
