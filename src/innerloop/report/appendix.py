"""The end of the page: every rule's answer, versions, and the command that trains the run again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from innerloop.diagnose.rules import RULES
from innerloop.report.head import command
from innerloop.report.markup import TONES, Raw, badge, copyable, esc, number, table
from innerloop.report.records import RunRecords


def rules(run: RunRecords) -> str:
    """Every rule: fired, passed, or not evaluated and why."""
    about = {rule.id: rule.about for rule in RULES}
    diagnosis, rows = run.diagnosis, []
    for found in diagnosis.findings:
        said = badge(*TONES[found.severity])
        rows.append([found.id, Raw(said), number(found.value), number(found.threshold), found.title])
    for passed in diagnosis.passed:
        said = badge("good", "good", "Passed")
        rows.append(
            [passed.id, Raw(said), number(passed.value), number(passed.threshold), about.get(passed.id, "")]
        )
    for silent in diagnosis.silent:
        said = badge("unknown", "unknown", "Not evaluated")
        rows.append([silent.id, Raw(said), "", "", silent.reason])
    if not rows:
        return "<p>No rule was asked.</p>"
    return table(
        ("rule", "answer", "value", "threshold", "what it says"), rows, caption=f"Rules asked of {run.name}"
    )


def versions(run: RunRecords) -> str:
    """What the numbers may depend on, and how meta-gradients were computed."""
    told = run.environment
    rows = [(name, _told(value)) for name, value in told.items() if name != "command"]
    engine = {
        name: run.engine[name]
        for name in ("gradient", "tasks_axis", "compile", "reason")
        if name in run.engine
    }
    rows += [(f"engine: {name}", _told(value)) for name, value in engine.items()]
    if not rows:
        return "<p>No environment.json in the run folder: versions are unknown.</p>"
    return table(("what", "value"), rows, caption=f"Versions, machine and engine of {run.name}")


def again(run: RunRecords) -> str:
    """The command that reproduces the run, and the one that was given."""
    made = "<p>The same run again, from its own configuration:</p>" + copyable(command(run))
    given = run.environment.get("command")
    if isinstance(given, list) and given:
        words = ["innerloop", *(str(word) for word in given[1:])]
        made += f"<p>As it was started:</p>{copyable(shlex.join(words))}"
    return made


def parts(runs: Sequence[RunRecords], heading: str) -> str:
    """All of it for all runs.

    Args:
        heading: the level of the run's name, where there are several.
    """
    made = []
    for run in runs:
        named = f'<{heading} class="run">{esc(run.name)}</{heading}>' if len(runs) > 1 else ""
        made.append(named + rules(run) + again(run) + versions(run))
    return "".join(made)


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_told(v)}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str)
