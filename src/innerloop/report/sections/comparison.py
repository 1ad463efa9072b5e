"""Several runs beside each other, with paired differences where they were judged on identical tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from innerloop.diagnose.finding import NotEvaluated
from innerloop.report import chart
from innerloop.report.chart import SERIES, Chart
from innerloop.report.curves import half_width, mean_curve, task_losses
from innerloop.report.markup import Raw, bullets, esc, number, table, with_interval
from innerloop.report.records import DAMAGE, RunRecords
from innerloop.report.section import Block, Section

_ALONE = "one run was given; name more run folders to compare them on identical tasks"
_ELSEWHERE = ("root",)  # settings of tasks that say where data lie, and not what they are

Values = NDArray[np.float64]


def draw(runs: Sequence[RunRecords]) -> list[Block]:
    """One block for all runs: a table, paired differences, and the losses in one chart."""
    parts: list[Chart | Raw] = []
    missing: dict[str, list[str]] = {}
    if len(runs) > 1:
        parts += [Raw(_overview(runs)), Raw(_differences(runs))]
        curves = _losses(runs)
        parts += [curves] if curves else []
    else:
        missing[_ALONE] = ["comparison"]
    parts += [Raw(found) for run in runs if (found := _evaluations(run, named=len(runs) > 1))]
    return [Block(tuple(parts), missing)]


def why_not_paired(one: RunRecords, other: RunRecords) -> str:
    """Why two runs were not judged on identical probe tasks; empty if they were."""
    for run in (one, other):
        if not run.history.has("post", split="val"):
            return f"{run.name} has no probe records"
    for name, ours, theirs in (
        ("tasks", *(_tasks(run) for run in (one, other))),
        ("seed", *(run.probe_seed for run in (one, other))),
    ):
        if ours != theirs:
            return "other tasks" if name == "tasks" else f"probe tasks of seed {theirs} instead of {ours}"
    losses = [run.history.series("post", split="val").last for run in (one, other)]
    if len(losses[0]) != len(losses[1]):
        return f"{len(losses[1])} probe tasks instead of {len(losses[0])}"
    if all(run.history.has("trivial", split="val") for run in (one, other)):
        levels = [run.history.series("trivial", split="val").last for run in (one, other)]
        if levels[0].shape != levels[1].shape or not np.allclose(*levels, rtol=1e-4, equal_nan=True):
            return "the trivial predictor loses other amounts on them, so the examples differ"
    return ""


def _tasks(run: RunRecords) -> str:
    found = run.history.config.get("tasks")
    kept = {k: v for k, v in found.items() if k not in _ELSEWHERE} if isinstance(found, dict) else found
    return json.dumps(kept, sort_keys=True, default=str)


def _overview(runs: Sequence[RunRecords]) -> str:
    rows = []
    for run in runs:
        history, verdict = run.history, run.diagnosis.verdict
        worst = run.diagnosis.worst
        rows.append(
            [
                run.name,
                run.title,
                str(history.step),
                _last(run, "score", percent=run.accuracy),
                _last(run, "post"),
                verdict.state.name,
                "none" if worst is None else f"{len(run.diagnosis.findings)}, worst: {worst.value}",
                _seconds(run),
            ]
        )
    head = ("run", "what", "outer steps", "score", "loss", "verdict", "findings", "time")
    return table(
        head, rows, caption="All runs; scores and losses on their own probe tasks at their last look"
    )


def _differences(runs: Sequence[RunRecords]) -> str:
    first, rows, reasons = runs[0], [], []
    for other in runs[1:]:
        reason = why_not_paired(first, other)
        if reason:
            reasons.append(f"{other.name} is not compared with {first.name} task by task: {reason}.")
            continue
        for name, split in (("score", "val"), ("post", "val"), ("post", "train")):
            if name == "score" and other.score_is_loss:
                continue
            try:
                rows.append(_paired(first, other, name, split))
            except NotEvaluated:
                continue
            except DAMAGE as error:
                reasons.append(f"{other.name}, {name} on {split}: the records do not fit together ({error}).")
    told = bullets(reasons, "reasons")
    if not rows:
        return told
    head = ("run", "what", "first", "this run", "paired difference, 95 %", "in words")
    return table(head, rows, caption=f"Paired differences to {first.name} on identical probe tasks") + told


def _paired(first: RunRecords, other: RunRecords, name: str, split: str) -> list[str]:
    ours, theirs = (
        run.history.series(name, split=split)
        if name == "score"
        else task_losses(run.history, name, split=split)
        for run in (first, other)
    )
    percent = name == "score" and first.accuracy
    apart: Values = theirs.last - ours.last
    mean, half = float(apart.mean()), half_width(apart)
    higher = percent
    if abs(mean) <= half:
        words = "no clear difference"
    else:
        words = "better" if (mean > 0) is higher else "worse"
    what = "loss" if name == "post" else other.metric
    return [
        other.name,
        f"{what}, {'validation' if split == 'val' else 'training'} tasks",
        number(float(ours.last.mean()), percent=percent),
        number(float(theirs.last.mean()), percent=percent),
        with_interval(mean, half, percent=percent, signed=True),
        words,
    ]


def _losses(runs: Sequence[RunRecords]) -> Chart | None:
    """The probe losses of all runs in one chart."""
    curves = []
    for run in runs:
        try:
            curves.append((run.name, mean_curve(task_losses(run.history, "post"))))
        except (NotEvaluated, *DAMAGE):
            continue
    if len(curves) < 2:
        return None
    traces = []
    for i, (name, found) in enumerate(curves):
        style = SERIES[i % len(SERIES)]
        traces += [*chart.band(found.steps, found.low, found.high, style)]
        traces.append(chart.line(name, found.steps, found.mean, style))
    at = [dict(zip(found.steps, found.mean.tolist(), strict=True)) for _, found in curves]
    steps = sorted({step for by_step in at for step in by_step})
    return Chart(
        "Probe losses of all runs",
        "Lower is better. Bands are intervals over tasks; where tasks are identical, the paired "
        "differences in the table are far sharper than the bands.",
        traces,
        chart.fitted_axes("outer step", "loss", [found.mean for _, found in curves]),
        ("outer step", *(name for name, _ in curves)),
        [(s, *(number(by_step[s]) if s in by_step else "" for by_step in at)) for s in steps],
        wide=True,
    )


def _evaluations(run: RunRecords, *, named: bool) -> str:
    """What `innerloop evaluate` found, beside the baselines on the same tasks."""
    rows = []
    for name, found in run.evaluations.items():
        percent = found.get("metric") == "accuracy"
        ours = with_interval(found.get("mean"), found.get("ci95"), percent=percent)
        rows.append([Raw(f"<strong>{esc(name)}</strong>"), "this run", ours, ""])
        for baseline, beside in _mappings(found.get("baselines")):
            theirs = with_interval(beside.get("mean"), beside.get("ci95"), percent=percent)
            apart = with_interval(
                beside.get("difference"), beside.get("difference_ci95"), percent=percent, signed=True
            )
            rows.append([name, baseline.replace("_", " "), theirs, apart])
    if not rows:
        return ""
    of = f" of {run.name}" if named else ""
    head = ("evaluation", "learner", "score, 95 %", "this run minus it, paired")
    return table(head, rows, caption=f"Evaluations{of} on fixed tasks, beside baselines on the same tasks")


def _mappings(found: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(k, v) for k, v in found.items() if isinstance(v, dict)] if isinstance(found, dict) else []


def _last(run: RunRecords, name: str, *, percent: bool = False) -> str:
    try:
        found = run.history.series(name, split="val") if name == "score" else task_losses(run.history, name)
        return with_interval(float(found.last.mean()), half_width(found.last), percent=percent)
    except (NotEvaluated, *DAMAGE):
        looks = [row for row in run.looks if row.get("mean") is not None]
        if name == "score" and looks:
            return with_interval(looks[-1]["mean"], looks[-1].get("ci95"), percent=percent)
        return "not recorded"


def _seconds(run: RunRecords) -> str:
    found = [row["seconds"] for row in run.history.metrics if isinstance(row.get("seconds"), (int, float))]
    return f"{found[-1]:.0f} s" if found else ""


SECTION = Section(
    "comparison",
    "Comparison",
    "How do the runs stand beside each other, and beside baselines?",
    draw,
)
