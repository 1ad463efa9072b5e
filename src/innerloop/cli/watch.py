"""`innerloop watch`: the verdict, the findings and the curves of a run in the terminal, while it grows."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from innerloop.cli.options import HELP, Option, help_page, one_positional, simple
from innerloop.core.errors import check_range

if TYPE_CHECKING:
    from rich.console import RenderableType

    from innerloop.report.records import RunRecords

_OPTIONS = (
    Option("once", "draw what there is, and end"),
    Option("every", "seconds between two looks at the folder", "SECONDS", "2"),
    HELP,
)
_WIDTH, _HEIGHT = 64, 8  # of the large curve, in characters
_MARKS = {"error": "[x]", "warn": "[!]", "info": "[i]"}
_COLOURS = {"error": "red", "warn": "yellow", "info": "cyan"}
#: What is drawn as a line of blocks: title and record.
_LINES = (
    ("update size", "update"),
    ("outer rate", "lr"),
    ("curvature", "curvature"),
    ("sensitivity", "sensitivity"),
    ("signal", "signal"),
)


def run(argv: list[str]) -> int:
    parsed = simple(argv, _OPTIONS, "watch")
    if parsed.flag("help"):
        print(help_page("watch RUN [--once] [--every SECONDS]", _ABOUT, _OPTIONS))
        return 0
    path = one_positional(parsed, "RUN", "watch")
    from innerloop.training.components import converted

    every = converted(float, parsed.options.get("every", "2"), "--every")
    check_range("--every", every, low=0.0, open_low=True)
    if parsed.flag("once") or not sys.stdout.isatty():
        return _plainly(path, every, once=parsed.flag("once"))
    return _live(path, every)


def _plainly(path: str, every: float, *, once: bool) -> int:
    """Text for a pipe: all of it once, then again after each new look of the probe."""
    from rich.console import Console

    from innerloop.report.records import read

    console, shown = Console(width=max(80, Console().width), highlight=False), None
    while True:
        found = read(path)
        seen = (found.history.looks[-1:], len(found.looks), finished(found))
        if seen != shown:
            console.print(picture(found))
            sys.stdout.flush()
            shown = seen
        if once or finished(found):
            return 0
        time.sleep(every)


def _live(path: str, every: float) -> int:
    """A picture on the terminal that is drawn anew."""
    from rich.live import Live

    from innerloop.report.records import read

    with Live(picture(found := read(path)), auto_refresh=False, vertical_overflow="visible") as live:
        while not finished(found):
            time.sleep(every)
            found = read(path)
            live.update(picture(found), refresh=True)
    return 0


def finished(found: RunRecords) -> bool:
    """Whether nothing more will come: all steps are done, it went non-finite, or was to stop and may."""
    history = found.history
    steps = history.setting("steps")
    if any(row.get("kind") == "nonfinite" for row in history.metrics):
        return True
    # The look at the validation tasks is the last that a run writes; the probe's comes before it.
    if isinstance(steps, int) and any(row["step"] >= steps for row in found.looks):
        return True
    return history.setting("stop") == "when-converged" and found.diagnosis.verdict.stops


def picture(found: RunRecords) -> RenderableType:
    """The verdict, the findings by name, a curve, and lines of blocks."""
    from rich.console import Group
    from rich.text import Text

    steps = found.history.setting("steps")
    head = Text(f"{found.name}  {found.title}  step {found.history.step}" + (f"/{steps}" if steps else ""))
    head.stylize("bold")
    verdict = found.diagnosis.verdict
    lines = [head, Text(str(verdict), style=_colour(verdict.state.name))]
    lines += [Text(f"  {note}", style="dim") for note in (*verdict.notes, *found.notes)]
    for finding in found.diagnosis.findings:
        mark, colour = _MARKS[finding.severity.value], _COLOURS[finding.severity.value]
        lines.append(Text(f"{mark} {finding.id}: {finding.title}", style=colour))
    if not found.diagnosis.findings:
        lines.append(Text(f"no findings: {len(found.diagnosis.passed)} rules passed", style="green"))
    return Group(*lines, Text(), *(Text(line) for line in curves(found)))


def curves(found: RunRecords) -> list[str]:
    """The curves of a run as text, each under its name; what was not recorded is left out."""
    from innerloop.diagnose.finding import NotEvaluated
    from innerloop.report.curves import scalars, task_losses
    from innerloop.report.markup import number
    from innerloop.report.records import DAMAGE
    from innerloop.report.terminal import braille, sparkline

    lines: list[str] = []
    try:
        post = task_losses(found.history, "post")
        lines += [
            "probe loss after adaptation",
            *braille(post.steps, post.means, width=_WIDTH, height=_HEIGHT),
        ]
    except (NotEvaluated, *DAMAGE):
        looks = [(row["step"], row["mean"]) for row in found.looks if row.get("mean") is not None]
        if looks:
            steps, means = zip(*looks, strict=True)
            lines += [f"validation {found.metric}", *braille(steps, means, width=_WIDTH, height=_HEIGHT)]
    rows = [row for row in found.history.metrics if row.get("kind") == "train"]
    losses = [float(row["loss"]) for row in rows if isinstance(row.get("loss"), (int, float))]
    if losses:
        lines.append(f"{'training loss':<14} {sparkline(losses)} {number(losses[-1])}")
    for title, name in _LINES:
        try:
            _, values = scalars(found.history, name)
            lines.append(f"{title:<14} {sparkline(values)} {number(values[-1].item())}")
        except (NotEvaluated, *DAMAGE):
            continue
    return lines


def _colour(state: str) -> str:
    good, bad = ("CONVERGED", "IMPROVING"), ("STALLED", "WORSENING", "NONFINITE")
    return "bold green" if state in good else "bold red" if state in bad else "bold yellow"


_ABOUT = """Draws the verdict, the findings and the curves of a run, again and again while it trains; ends
with the run, or with Ctrl-C. Plain text where the output is no terminal."""
