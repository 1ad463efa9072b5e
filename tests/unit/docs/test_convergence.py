"""The pages on convergence: a row for each rule and verdict, the code's numbers, outputs of real commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from _pages import convergence, findings
from innerloop.cli import settings
from innerloop.cli.doctor import _takes_settings
from innerloop.cli.main import COMMANDS
from innerloop.cli.options import parse
from innerloop.diagnose import verdict
from innerloop.diagnose.finding import Passed, Severity
from innerloop.diagnose.history import History
from innerloop.diagnose.rule import Rule
from innerloop.diagnose.rules import RULES, inner
from innerloop.diagnose.seeds import ID
from innerloop.diagnose.verdict import State

DOCS = Path(__file__).parents[3] / "docs"
CONVERGED, BROKEN = (
    (DOCS / f"{name}.md").read_text("utf-8") for name in ("has-it-converged", "why-does-it-not-train")
)
STORED = {path.stem: path.read_text("utf-8") for path in convergence.FOLDER.glob("*.txt")}
FINDING = re.compile(r"^\[.\] (?:error|warn|info) ([A-Z_]+):|: ([A-Z_]+): ", re.MULTILINE)


def _of_one_look(history: History) -> Passed:
    """A rule that names Severity.ERROR and Severity.INFO."""
    return Passed(0.0, 1.0)


NEW = Rule("NEW_RULE", _of_one_look, "tasks", "something new", 2, settles=0.5, wide=True)

# --- findings --------------------------------------------------------------------------------------------


def test_every_rule_has_one_row_and_is_told_whole() -> None:
    made = findings.findings()
    for id in [*(rule.id for rule in RULES), ID]:
        assert made.count(f"   * - ``{id}``\n") == 1, id
    assert findings.complaints() == []
    assert "—" not in made


def test_a_new_rule_appears_by_itself_and_is_complained_of() -> None:
    made = findings.findings([*RULES, NEW])
    assert "``NEW_RULE``" in made
    assert "(error or info; at 2 wide looks in a row; after 50% of the run); section *tasks*" in made
    assert findings.complaints([*RULES, NEW]) == ["finding NEW_RULE: not in docs/_pages/findings.yaml"]
    assert findings.complaints(RULES[1:]) == [f"finding {RULES[0].id}: no rule has this id"]


def test_thresholds_are_those_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "in over 30% of the tasks" in findings.findings()
    monkeypatch.setattr(inner, "_RISING", 0.45)
    assert "in over 45% of the tasks" in findings.findings()


def test_severities_are_read_off_the_code() -> None:
    by_id = {rule.id: findings.severities(rule) for rule in RULES}
    assert all(by_id.values())
    assert by_id["INNER_CHAOS"] == [Severity.ERROR, Severity.WARN, Severity.INFO]
    assert by_id["EVAL_UNDERPOWERED"] == [Severity.INFO]


@pytest.mark.parametrize("id", findings.told())
def test_what_mends_a_finding_are_settings_that_there_are(id: str) -> None:
    spans = re.findall(r"`(--[^`]+)`", findings.told()[id]["mends"])
    for span in spans:
        name, _, value = span.partition(" ")
        words = [name, value or "1"] if name != "--stop" else [name, "when-converged"]
        learner = [] if name == "--algorithm" else ["--algorithm", "MAML"]
        assert settings.gather(parse([*learner, "--tasks", "Glyphs", *words], settings.takes))


# --- verdicts --------------------------------------------------------------------------------------------


def test_every_verdict_has_one_row() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", CONVERGED, re.MULTILINE)
    assert sorted(rows) == sorted(state.name for state in State)


@pytest.mark.parametrize(
    "said",
    [
        f"{100 * verdict.EPSILON:g} % of the loss a window",
        f"by more than {100 * verdict.RELAPSE:g} %, beyond {verdict.SURE:g} standard errors",
        f"the rate is below {100 * verdict.ENDED:g} % of its peak",
        f"as long as it was above {100 * verdict.ALIVE:g} %",
        f"that of a constant guess ({100 * verdict.LEARNED:g} % of it, or more)",
    ],
)
def test_the_numbers_of_the_verdict_are_those_of_the_code(said: str) -> None:
    assert said in " ".join(CONVERGED.split())


# --- outputs ---------------------------------------------------------------------------------------------


def test_every_output_on_a_page_is_one_that_the_command_makes() -> None:
    shown = re.findall(r"_static/convergence/([\w-]+)\.txt", CONVERGED + BROKEN)
    assert set(shown) == set(convergence.TRANSCRIPTS) == set(STORED)


@pytest.mark.parametrize("name", convergence.TRANSCRIPTS)
def test_an_output_is_of_the_command_lines_that_stand_in_the_script(name: str) -> None:
    lines = convergence.commands(STORED[name])
    for line, template in zip(lines, convergence.TRANSCRIPTS[name], strict=True):
        before, _, after = template.partition("{remedy}")
        assert line.startswith(before)
        assert line.endswith(after)
        _, command, *rest = shlex.split(line)
        assert command in COMMANDS
        if command == "train":
            parse(rest, settings.takes)
        elif "--preflight" in rest:
            parse(rest, _takes_settings)


def test_a_transcript_has_commands_exit_codes_and_no_progress() -> None:
    told = convergence.transcript(["innerloop list models"])
    assert convergence.commands(told) == ["innerloop list models"]
    assert "MLP" in told
    assert not any(re.match(r"step +\d+/", line) for text in STORED.values() for line in text.splitlines())


def test_what_the_readme_shows_is_in_that_output() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    (shown,) = re.findall(r"^```text\n(runs/broken.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    told = iter(STORED["broken"].splitlines())
    assert all(line in told for line in shown.splitlines())  # in this order


@pytest.mark.slow
def test_the_command_makes_the_same_verdicts_and_findings_again(tmp_path: Path) -> None:
    names = ("preflight", "broken", "mended")
    convergence.make(tmp_path, names)
    for name in names:
        again = (tmp_path / f"{name}.txt").read_text("utf-8")
        assert FINDING.findall(again) == FINDING.findall(STORED[name]), name
    assert {path.name for path in tmp_path.glob("*.png")} == {"steepness.png", "stationary.png"}
