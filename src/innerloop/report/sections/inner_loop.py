"""What adaptation does step by step, and how close it is to the edge at which it breaks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.history import Series
from innerloop.report import chart
from innerloop.report.chart import BEFORE, OURS, TRIVIAL, WRONG, Chart
from innerloop.report.curves import checkpoints, half_width, per_task, task_losses
from innerloop.report.markup import Raw, Tile, number, tiles
from innerloop.report.records import RunRecords
from innerloop.report.section import Section, of_each_run

EDGE = 2.0  # of the curvature alpha lambda: beyond it a step of gradient descent overshoots
_AGES = (TRIVIAL, BEFORE, WRONG, OURS)  # styles of the checkpoints, the oldest first


def numbers(run: RunRecords) -> Raw:
    """Where the inner loop stands at the last look that measured it."""
    found = []
    if run.history.has("curvature"):
        steps, middle, worst = per_task(run.history, "curvature")
        told = f"worst task at step {steps[-1]}; median {number(middle[-1])}"
        found.append(Tile("curvature αλ", number(worst[-1]), told))
    tried = run.value("SAFETY_FACTOR")
    if tried is not None:
        told = "times the inner rate, at which adaptation still helps"
        found.append(Tile("safety factor, tried", number(tried), told))
    if run.history.has("sensitivity"):
        steps, middle, worst = per_task(run.history, "sensitivity")
        told = f"median at step {steps[-1]}; worst task {number(worst[-1])}"
        found.append(Tile("sensitivity", number(middle[-1]), told))
    if not found:
        raise _why_not(run, "curvature")
    return Raw(tiles(found))


def query(run: RunRecords) -> Chart:
    """Query loss against inner step."""
    return _adaptation(
        run,
        "query",
        "Query loss after each inner step",
        "Each line should fall, and stay low beyond the number of steps trained for: one that turns up there "
        "adapts well only for exactly so many steps. Later checkpoints should lie lower.",
    )


def support(run: RunRecords) -> Chart:
    """Support loss against inner step."""
    return _adaptation(
        run,
        "support",
        "Support loss after each inner step",
        "Each line should fall at every step: one that rises overshoots, and its inner learning rate is "
        "too large.",
    )


def curvature(run: RunRecords) -> Chart:
    """The inner problem's curvature over training, and the edge."""
    steps, middle, worst = per_task(run.history, "curvature")
    layout = chart.axes("outer step", "αλ", chart.level(EDGE, "2: edge of a quadratic", WRONG))
    return Chart(
        "Curvature of the inner problem, αλ",
        "The inner learning rate times the largest eigenvalue of the support loss. Meta-training often "
        "sharpens the inner problem, so it may rise. Above 2, gradient descent on a quadratic diverges; "
        "other problems may lie above without harm, which the chart of longer steps tries.",
        [chart.line("worst task", steps, worst, BEFORE), chart.line("median", steps, middle)],
        layout,
        ("outer step", "median", "worst task"),
        [(s, number(m), number(w)) for s, m, w in zip(steps, middle.tolist(), worst.tolist(), strict=True)],
    )


def safety(run: RunRecords) -> Chart:
    """By how much the inner rate may grow."""
    steps, _, worst = per_task(run.history, "curvature")
    factors = np.where(worst > 0, EDGE / np.maximum(worst, 1e-12), np.nan)
    marks = [chart.level(1.0, "1: edge of a quadratic", WRONG, above=False)]
    return Chart(
        "Safety factor 2/(αλ) of the worst task",
        "By how much the inner learning rate could be multiplied on a quadratic of this curvature. "
        "A fall towards 1 says that the room gets less; the chart of longer steps tries how much there is.",
        [chart.line("safety factor", steps, factors)],
        chart.fitted_axes("outer step", "2/(αλ)", [factors, [1.0]], *marks),
        ("outer step", "safety factor"),
        [(s, number(f)) for s, f in zip(steps, factors.tolist(), strict=True)],
    )


def stretched(run: RunRecords) -> Chart:
    """The support loss after longer inner steps: the room that is left, by trying."""
    history = run.history
    scales = sorted(history.places("stretched", "scale"), key=float)
    if not scales:
        raise _why_not(run, "stretched")
    tried = [task_losses(history, "stretched", scale=scale) for scale in scales]
    looks, count = checkpoints(tried[0].steps), min(len(found.last) for found in tried)
    traces, columns = [], []
    for look, style in zip(looks, _AGES[-len(looks) :], strict=True):
        ends = {1.0: _support(run, look, count, last=True)}
        ends |= {float(s): _at(found, look, count) for s, found in zip(scales, tried, strict=True)}
        columns.append(ends)
        traces.append(chart.line(f"outer step {look}", list(ends), list(ends.values()), style))
    before = _support(run, looks[-1], count, last=False)
    mark = chart.level(before, "before adaptation", WRONG)
    return Chart(
        "Support loss with longer inner steps",
        "Each inner step goes so many times as far. The line should stay below the loss before adaptation "
        "at 1.3 at least: tasks at test may be sharper than these, as if their steps were longer.",
        traces,
        chart.fitted_axes(
            "length of inner steps", "mean support loss", [t["y"] for t in traces] + [[before]], mark
        ),
        ("length of inner steps", *(f"outer step {look}" for look in looks)),
        [(number(s), *(number(ends[s]) for ends in columns)) for s in columns[0]],
    )


def _whole(last: int) -> dict[str, Any]:
    """An axis of whole steps, where they are so few that it would show parts of one."""
    return {"dtick": 1} if last <= 6 else {}


def _why_not(run: RunRecords, name: str) -> NotEvaluated:
    """Why a quantity of single inner steps is not there."""
    if run.history.setup.get("inner_steps") == 0:
        return NotEvaluated("there are no inner steps")
    try:
        run.history.series(name)
    except NotEvaluated as error:
        return error
    return NotEvaluated(f"no record of {name} that a chart could show")


def _support(run: RunRecords, look: int, count: int, *, last: bool) -> float:
    """The mean support loss of the first tasks before adaptation, or after as many steps as in training."""
    places = [0, *run.history.places("support", "inner_step")]
    trained = run.history.setup.get("trained_steps") or 0
    step = max(place for place in places if place <= trained) if last else 0
    return _at(task_losses(run.history, "support", inner_step=step), look, count)


def _at(found: Series, look: int, count: int) -> float:
    by_step = dict(zip(found.steps, found.values, strict=True))
    return float(by_step[look][:count].mean()) if look in by_step else math.nan


def sensitivity(run: RunRecords) -> Chart:
    """How strongly adapted parameters follow the initial ones."""
    steps, middle, worst = per_task(run.history, "sensitivity")
    limit = run.threshold("INNER_CHAOS")
    marks = [] if limit is None else [chart.level(limit, f"{number(limit)}: threshold of INNER_CHAOS", WRONG)]
    return Chart(
        "Sensitivity of adapted to initial parameters",
        "The largest factor by which a change of the initial parameters grows through the inner loop. Near "
        "1 is smooth; far above, meta-gradients may be chaotic, though networks with normalisation lie "
        "higher without harm; near 0, adaptation forgets where it began.",
        [chart.line("worst task", steps, worst, BEFORE), chart.line("median", steps, middle)],
        chart.fitted_axes("outer step", "largest singular value", [middle, worst], *marks),
        ("outer step", "median", "worst task"),
        [(s, number(m), number(w)) for s, m, w in zip(steps, middle.tolist(), worst.tolist(), strict=True)],
    )


def evaluated(run: RunRecords) -> Chart | None:
    """Scores after each inner step on the tasks of the largest evaluation in the folder."""
    curves = [e for e in run.evaluations.values() if len(e.get("adaptation", [])) > 1]
    if not curves:
        return None
    found = max(curves, key=lambda e: e.get("n", 0))
    rows = [row for row in found["adaptation"] if row.get("mean") is not None]
    percent = found["metric"] == "accuracy"
    x, y = [row["inner_steps"] for row in rows], np.array([row["mean"] for row in rows])
    half = np.array([row.get("ci95") or 0.0 for row in rows])
    title = f"{found['split']} {found['metric']}"
    if percent:
        layout = chart.axes("inner step", title, percent=True, zero=False)
    else:
        layout = chart.fitted_axes("inner step", title, [y])
    layout["xaxis"] |= _whole(x[-1])
    return Chart(
        f"{str(found['split']).capitalize()} {found['metric']} after each inner step, {found['n']} tasks",
        "From 'innerloop evaluate'. Most of the gain should come within the first steps, and none be lost "
        "later.",
        [*chart.band(x, y - half, y + half), chart.line("mean, 95 % interval", x, y)],
        layout,
        ("inner step", found["metric"], "95 % interval"),
        [
            (s, number(m, percent=percent), f"± {number(h, percent=percent)}")
            for s, m, h in zip(x, y.tolist(), half.tolist(), strict=True)
        ],
    )


def _adaptation(run: RunRecords, name: str, title: str, look_for: str) -> Chart:
    history = run.history
    places = sorted(history.places(name, "inner_step"))
    if not places:
        raise _why_not(run, name)
    by_place = {j: task_losses(history, name, inner_step=j) for j in places}
    found = {j: dict(zip(s.steps, s.values, strict=True)) for j, s in by_place.items()}
    looks = checkpoints(sorted({step for by_step in found.values() for step in by_step}))
    traces, columns = [], {}
    for look, style in zip(looks, _AGES[-len(looks) :], strict=True):
        at = [j for j in places if look in found[j]]
        means = [float(found[j][look].mean()) for j in at]
        if look == looks[-1]:
            halves = np.array([half_width(found[j][look]) for j in at])
            traces += chart.band(at, np.array(means) - halves, np.array(means) + halves)
        traces.append(chart.line(f"outer step {look}", at, means, style))
        columns[look] = dict(zip(at, means, strict=True))
    trained = history.setup.get("trained_steps")
    marks = [] if trained is None else [chart.upright(trained, f"trained: {trained}")]
    layout = chart.fitted_axes(
        "inner step", f"mean {name} loss", [t["y"] for t in traces if "name" in t], *marks
    )
    layout["xaxis"] |= _whole(places[-1])
    return Chart(
        title,
        look_for,
        traces,
        layout,
        ("inner step", *(f"outer step {look}" for look in looks)),
        [(j, *(number(columns[look][j]) if j in columns[look] else "" for look in looks)) for j in places],
    )


SECTION = Section(
    "inner-loop",
    "Inner loop",
    "Does each step of adaptation help, and how far is it from breaking?",
    of_each_run(
        ("numbers", numbers),
        ("query loss by inner step", query),
        ("support loss by inner step", support),
        ("curvature", curvature),
        ("longer inner steps", stretched),
        ("safety factor", safety),
        ("sensitivity", sensitivity),
        ("scores of evaluations", evaluated),
    ),
)
