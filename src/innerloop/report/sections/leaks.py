"""What was asked before the first step: does anything flow where it must not?"""

from __future__ import annotations

import math

from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.quotients import RIGHT
from innerloop.report import chart
from innerloop.report.chart import SERIES, WRONG, Chart
from innerloop.report.markup import TONES, Raw, badge, number, table
from innerloop.report.records import RunRecords
from innerloop.report.section import Section, of_each_run

#: By record: what was tried, what its number is, and whether that is a share.
_CHECKS = {
    "state_leak": ("a task learned again after another one gives the same", "largest change", False),
    "query_leak": ("query examples are not in the support set", "share that is", True),
    "class_leak": ("validation examples are not among the training examples", "share that is", True),
    "transduction": ("a prediction does not depend on the other queries", "largest change", False),
}


def checks(run: RunRecords) -> Raw:
    """The checks for leaks: what was tried, and what was found."""
    rows, reason = [], ""
    fired = {finding.id: finding for finding in run.diagnosis.findings}
    for name, (tried, unit, percent) in _CHECKS.items():
        try:
            value = float(run.history.series(name).last[0])
        except NotEvaluated as error:
            reason = str(error)
            rows.append([tried, Raw(badge("unknown", "unknown", "Not asked")), reason])
            continue
        said = badge("good", "good", "Holds")
        if name.upper() in fired:
            tone, shape, _ = TONES[fired[name.upper()].severity]
            said = badge(tone, shape, "Does not hold")
        rows.append([tried, Raw(said), f"{unit}: {number(value, percent=percent)}"])
    if all(not run.history.has(name) for name in _CHECKS):
        raise NotEvaluated(reason)
    return Raw(table(("what should hold", "does it?", "measured"), rows, caption="Checks before training"))


def quotients(run: RunRecords) -> Chart:
    """The meta-gradient against difference quotients of the objective, at several distances."""
    places = sorted(run.history.places("quotient", "inner_step"))
    if not places:
        raise NotEvaluated("difference quotients are asked for by 'innerloop doctor --preflight'")
    errors = [run.history.series("quotient", inner_step=place).last for place in places]
    distances = [10.0**-place for place in places]
    traces = []
    for i in range(min(map(len, errors))):
        style = SERIES[i % len(SERIES)]
        traces.append(chart.line(f"direction {i + 1}", distances, [float(e[i]) for e in errors], style))
    mark = chart.level(RIGHT, f"{RIGHT:g}: a right one falls below", WRONG)
    layout = chart.fitted_axes("distance h", "relative error", [t["y"] for t in traces], mark)
    layout["xaxis"] |= {"type": "log", "tickvals": distances, "ticktext": [f"{h:g}" for h in distances]}
    return Chart(
        "Meta-gradient against difference quotients",
        "A right meta-gradient has a distance at which the error is tiny in every direction. One that is "
        "wrong errs alike at all of them; one that is right but chaotic needs very small distances.",
        traces,
        layout,
        ("distance", *(str(trace["name"]) for trace in traces)),
        [
            (f"{h:g}", *(number(float(v)) if math.isfinite(v) else "not finite" for v in e))
            for h, e in zip(distances, errors, strict=True)
        ],
    )


SECTION = Section(
    "leaks",
    "Checks before training",
    "Does anything flow where it must not?",
    of_each_run(("checks for leaks", checks), ("meta-gradient against quotients", quotients)),
)
