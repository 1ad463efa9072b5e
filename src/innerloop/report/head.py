"""The top of the page: what was run, the verdict in a sentence with its number, and what to do about it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from datetime import datetime

from innerloop.diagnose.finding import Finding, NotEvaluated, Silent
from innerloop.diagnose.seeds import disagreement, judge_seeds
from innerloop.diagnose.verdict import State
from innerloop.report.curves import half_width, task_losses
from innerloop.report.folders import SearchRecords
from innerloop.report.markup import (
    TONES,
    Tile,
    badge,
    bullets,
    copyable,
    esc,
    folded,
    number,
    tiles,
    with_interval,
)
from innerloop.report.records import DAMAGE, RunRecords
from innerloop.report.sections.convergence import baselines

FIRST = 3  # findings that are shown unfolded

#: How a state looks: its tone, and the shape of its icon.
LOOKS = {
    State.IMPROVING: ("going", "going"),
    State.CONVERGED: ("good", "good"),
    State.STALLED: ("bad", "flat"),
    State.NOISE_FLOOR: ("warn", "noise"),
    State.WORSENING: ("bad", "warn"),
    State.SCHEDULE_ENDED: ("warn", "ended"),
    State.NONFINITE: ("bad", "bad"),
    State.UNRESOLVED: ("unknown", "unknown"),
    State.SEED_DISAGREEMENT: ("warn", "apart"),
}


def verdict(run: RunRecords, heading: str) -> str:
    """What was run and when, the verdict in one sentence, and the numbers behind it.

    Args:
        heading: `h2` or `h3`: the level at which the run is named.
    """
    found = run.diagnosis.verdict
    tone, shape = LOOKS[found.state]
    word, _, rest = str(found).partition(": ")
    sentence = f"{badge(tone, shape, word)} <span>{esc(_printed(rest))}</span>"
    notes = [*found.notes, *run.notes]
    return (
        f'<article class="verdict {tone}"><{heading} class="run">{esc(run.name)}</{heading}>'
        f'<p class="sentence">{sentence}</p>{bullets(notes, "notes")}{tiles(_tiles(run))}'
        f'<p class="rests">{esc(_rests_on(run))}</p></article>'
    )


def together(runs: Sequence[RunRecords]) -> str:
    """The verdict on runs that differ in their seed alone; empty for others."""
    histories = [run.history for run in runs]
    try:
        answer = disagreement(histories, [run.diagnosis.verdict for run in runs])
        if isinstance(answer, Silent):
            return ""
        found = judge_seeds(histories, epsilon=runs[0].diagnosis.verdict.epsilon)
    except (NotEvaluated, *DAMAGE):
        return ""
    tone, shape = LOOKS[found.state]
    why = (
        bullets([answer.title, *answer.why], "notes")
        if isinstance(answer, Finding)
        else bullets(found.notes, "notes")
    )
    return (
        f'<article class="verdict {tone}"><h3>All {len(runs)} seeds together</h3>'
        f'<p class="sentence">{badge(tone, shape, found.state.name)} '
        f"<span>{esc(found.state.value)}</span></p>{why}</article>"
    )


def findings(run: RunRecords, heading: str, anchors: dict[str, str]) -> str:
    """The worst findings in full, the others folded.

    Args:
        heading: the level of a finding's title.
        anchors: the sections that there are: titles by id.
    """
    found = run.diagnosis.findings
    if not found:
        asked, silent = len(run.diagnosis.passed), len(run.diagnosis.silent)
        shown = (
            badge("good", "good", "No findings") if asked > silent else badge("unknown", "unknown", "Unknown")
        )
        told = (
            f"{asked} rules were asked and found nothing; {silent} could not be asked, as the appendix says."
        )
        return f'<p class="none">{shown} {told}</p>'
    cards = [_card(finding, run, heading, anchors) for finding in found]
    rest = cards[FIRST:]
    more = folded(f"{len(rest)} more", f'<div class="cards">{"".join(rest)}</div>') if rest else ""
    return f'<div class="cards">{"".join(cards[:FIRST])}</div>{more}'


def what_was_run(run: RunRecords) -> str:
    """When it was begun, versions and machine, in a line.

    Where no date was written down, it is that of the configuration, which is written first and once.
    """
    told = run.environment
    packages = found if isinstance(found := told.get("packages"), dict) else {}
    parts = [f"{name} {told[name]}" for name in ("innerloop", "python") if told.get(name)]
    parts += [f"torch {packages['torch']}"] if packages.get("torch") else []
    parts += [str(told["machine"])] if told.get("machine") else []
    return ", ".join([f"begun {told.get('started') or _date_of(run)}", *parts])


def _date_of(run: RunRecords) -> str:
    if run.history.path is None:
        return "at an unknown time"
    written = (run.history.path / "config.yaml").stat().st_mtime
    return datetime.fromtimestamp(written).strftime("%Y-%m-%d %H:%M")


def summary(found: Sequence[RunRecords] | Sequence[SearchRecords]) -> str:
    """The first line of the page of runs, or of searches, and its title."""
    titles = list(dict.fromkeys(one.title for one in found))
    kind = "runs" if isinstance(found[0], RunRecords) else "searches"
    return titles[0] if len(titles) == 1 else f"{len(found)} {kind}: " + "; ".join(titles)


def _printed(sentence: str) -> str:
    """The signs as print has them."""
    return sentence.replace(" +- ", " ± ").replace("(-", "(−")


def _tiles(run: RunRecords) -> list[Tile]:
    history, found = run.history, run.diagnosis.verdict
    steps = history.setting("steps")
    made = [Tile("outer steps", number(history.step), f"of {steps}" if steps else "")]
    if found.window is not None and math.isfinite(found.change) and math.isfinite(found.half_width):
        change = f"{100 * found.change:+.1f} ± {100 * found.half_width:.1f} %".replace("-", "−")
        made.append(Tile("change of the loss", change, f"from step {found.window[0]} to {found.window[1]}"))
    score, best = _score(run)
    if score:
        made.append(Tile(f"{run.metric} now" if run.accuracy else f"{run.metric.upper()} now", score, best))
    try:
        now = task_losses(history, "post").last
        made.append(
            Tile(
                "loss after adaptation",
                with_interval(float(now.mean()), half_width(now)),
                f"{len(now)} tasks, 95 %",
            )
        )
        if history.has("pre", split="val"):
            made.append(Tile("before adaptation", number(float(task_losses(history, "pre").last.mean()))))
        if history.has("trivial", split="val"):
            level = float(history.series("trivial", split="val").last.mean())
            made.append(Tile("trivial predictor", number(level), "ignores its inputs"))
    except (NotEvaluated, *DAMAGE):
        pass
    return made


def _score(run: RunRecords) -> tuple[str, str]:
    """The last score, and the best baseline beside it."""
    percent = run.accuracy
    known = baselines(run)
    pick = max if percent else min
    name = pick(known, key=lambda n: known[n], default="")
    beside = f"{name.replace('_', ' ')}: {number(known[name], percent=percent)}" if name else ""
    if run.history.has("score", split="val") and percent:
        last = run.history.series("score", split="val").last
        return with_interval(float(last.mean()), half_width(last), percent=True), beside
    looks = [row for row in run.looks if row.get("mean") is not None]
    if not looks or run.history.has("post", split="val"):
        return "", ""
    return with_interval(looks[-1]["mean"], looks[-1].get("ci95"), percent=percent), beside


def _rests_on(run: RunRecords) -> str:
    found = run.diagnosis.verdict
    parts = [run.title]
    if found.window is not None:
        parts.append(f"the window is outer steps {found.window[0]} to {found.window[1]}")
        parts[-1] += f", {found.looks} looks at the same {found.tasks} tasks"
    if math.isfinite(found.half_width):
        parts.append(
            f"it resolves {100 * found.half_width:.1f} %, and {100 * found.epsilon:g} % counts as flat"
        )
    if found.predicted_gain is not None:
        usual, low, high = (100 * g for g in found.predicted_gain)
        parts.append(f"twice the steps would gain {usual:.1f} % ({low:.1f} to {high:.1f} %) by its power law")
    return "; ".join([*parts, what_was_run(run)]) + "."


def _card(finding: Finding, run: RunRecords, heading: str, anchors: dict[str, str]) -> str:
    tone, shape, word = TONES[finding.severity]
    value = f"measured {number(finding.value)}, threshold {number(finding.threshold)}"
    when = "" if finding.step is None else f", outer step {finding.step}"
    mend = f"<p><strong>What to do:</strong> {esc(finding.advice)}</p>"
    if finding.options:
        mend += copyable(command(run, finding.options))
    plot = ""
    if finding.plot in anchors:
        plot = f'<p class="plot"><a href="#{esc(finding.plot)}">See {esc(anchors[finding.plot])}</a></p>'
    title = finding.title[:1].upper() + finding.title[1:]
    return (
        f'<article class="finding {tone}"><{heading}>{badge(tone, shape, word)} '
        f"<span>{esc(title)}</span></{heading}>"
        f'<p class="value"><code>{esc(finding.id)}</code> {esc(value + when)}</p>'
        f"{bullets(finding.why, 'why')}{mend}{plot}</article>"
    )


def command(run: RunRecords, options: str = "") -> str:
    """The command that trains this run again, with changes.

    The folder's own config.yaml holds every setting, so that nothing else has to be given.
    """
    place = run.name.rstrip("/")
    config, out = shlex.quote(f"{place}/config.yaml"), shlex.quote(f"{place}-again")
    return " ".join(part for part in ("innerloop train --config", config, options, "--out", out) if part)
