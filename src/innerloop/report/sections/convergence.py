"""Has it converged? The probe's score and loss against the outer step, with all that they stand beside."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from innerloop.diagnose.finding import NotEvaluated
from innerloop.diagnose.verdict import CAP, outlook
from innerloop.report import chart
from innerloop.report.chart import AVERAGED, BEFORE, FAINT, OURS, TRIVIAL, WRONG, Chart, Trace
from innerloop.report.curves import Curve, mean_curve, on_same_tasks, scalars, task_losses
from innerloop.report.markup import number
from innerloop.report.records import RunRecords
from innerloop.report.section import Section, of_each_run

_LOSSES = (
    ("pre", "before adaptation", BEFORE),
    ("wrong", "adapted to another task's support", WRONG),
    ("averaged", "average of the iterates", AVERAGED),
)
_DASHES = ("dash", "dot", "dashdot", "longdash")
_MOST_LOSSES = 400  # points of the training loss; more are averaged in bins


def score(run: RunRecords) -> Chart | None:
    """The score that users know, with its interval, beside the baselines; none where it is the loss."""
    if run.score_is_loss:
        return None
    curve, source = _scores(run)
    percent = run.accuracy
    traces = [
        *chart.band(curve.steps, curve.low, curve.high),
        chart.line("after adaptation, 95 % interval", curve.steps, curve.mean, legendrank=1),
    ]
    traces += _beside(run, [curve.steps[0], max(curve.steps[-1], 1)])
    title = f"validation {_named(run)}"
    if percent:
        layout = chart.axes("outer step", title, percent=True, zero=False)
    else:
        layout = chart.fitted_axes("outer step", title, [curve.mean, list(baselines(run).values())])
    better = "Higher is better" if percent else "Lower is better"
    return Chart(
        f"Validation {_named(run)} over training",
        f"{better}. The line should leave the baselines behind and then level off; {source}.",
        traces,
        layout,
        ("outer step", _named(run), "95 % interval"),
        [
            (s, number(m, percent=percent), f"± {number(h, percent=percent)}")
            for s, m, h in zip(curve.steps, curve.mean.tolist(), curve.half.tolist(), strict=True)
        ],
        wide=True,
        height=340,
    )


def loss(run: RunRecords) -> Chart:
    """The probe loss that the verdict is about, with the window it rests on and where it leads."""
    history = run.history
    post = mean_curve(task_losses(history, "post"))
    traces: list[Trace] = []
    columns: dict[str, Curve] = {"after adaptation": post}
    for name, label, style in _LOSSES:
        if history.has(name, split="val"):
            columns[label] = found = mean_curve(task_losses(history, name))
            traces.append(chart.line(label, found.steps, found.mean, style))
    end = post.steps[-1]
    if history.has("trivial", split="val"):
        level = float(history.series("trivial", split="val").last.mean())
        traces.append(
            chart.line("trivial predictor", [0, max(end, 1)], [level, level], TRIVIAL, marked=False)
        )
        columns["trivial predictor"] = Curve([post.steps[0]], np.array([level]), np.array([math.nan]))
    if run.score_is_loss:
        traces += _beside(run, [0, max(end, 1)], but=("no_adaptation", "support_mean"))
    traces += _fan(run)
    traces += chart.band(post.steps, post.low, post.high)
    traces.append(chart.line("after adaptation, 95 % interval", post.steps, post.mean, legendrank=1))
    window = run.diagnosis.verdict.window
    named = [t["y"] for t in traces if t.get("name")]
    layout = chart.fitted_axes("outer step", f"loss ({history.setup.get('loss', 'probe tasks')})", named)
    if window is not None:
        layout["shapes"] = [_shade(*window)]
    _strip(run, traces, layout)
    return Chart(
        "Loss on the probe tasks over training",
        "Adaptation should bring the loss well below the trivial predictor and below the loss before it, "
        "and the support of another task should serve far worse. The verdict rests on the shaded window; "
        "the dotted fan is the power law through all looks, a second opinion on what twice the steps would "
        "give. The band is the interval over tasks; differences between looks, on the same tasks, are "
        f"known better than that. A task counts as at most {CAP:g} times its trivial loss.",
        traces,
        layout,
        ("outer step", *columns),
        _rows(columns),
        wide=True,
        height=460 if "yaxis2" in layout else 380,
    )


def training(run: RunRecords) -> Chart:
    """The loss of the tasks that were trained on."""
    rows = [row for row in run.history.metrics if row.get("kind") == "train"]
    known = [(row["step"], row["loss"]) for row in rows if isinstance(row.get("loss"), (int, float))]
    if not known:
        raise NotEvaluated("no training losses in metrics.jsonl")
    size = math.ceil(len(known) / _MOST_LOSSES)
    bins = [known[i : i + size] for i in range(0, len(known), size)]
    steps = [part[-1][0] for part in bins]
    means = [sum(value for _, value in part) / len(part) for part in bins]
    failed = sum(row.get("failed_tasks", 0) for row in rows)
    told = f" {failed} tasks were not finite and left out." if failed else ""
    layout = chart.fitted_axes("outer step", "training loss", [means])
    return Chart(
        "Training loss",
        "Other tasks at every step, so its noise is that of tasks: it cannot tell whether a run "
        f"converged.{told}",
        [chart.line("training loss", steps, means, FAINT, marked=False)],
        layout,
        ("outer step", "mean loss of the tasks since the line before"),
        [(s, number(m)) for s, m in zip(steps, means, strict=True)],
        wide=True,
        height=220,
    )


def baselines(run: RunRecords) -> dict[str, float]:
    """Mean scores of the baselines, as the probe or the first look at validation tasks has them."""
    found = run.history.setup.get("baselines") or {}
    for row in run.looks:
        found = found or row.get("baselines") or {}
    return {n: float(v) for n, v in found.items() if isinstance(v, (int, float)) and math.isfinite(v)}


def _scores(run: RunRecords) -> tuple[Curve, str]:
    if run.history.has("score", split="val"):
        return mean_curve(
            on_same_tasks(run.history.series("score", split="val"))
        ), "the same tasks at every look"
    looks = [row for row in run.looks if row.get("mean") is not None]
    if not looks:
        raise NotEvaluated("no look at validation tasks in metrics.jsonl")
    means, halves = (np.array([row.get(n) for row in looks], float) for n in ("mean", "ci95"))
    return Curve([row["step"] for row in looks], means, halves), "the looks that training takes by itself"


def _beside(run: RunRecords, span: list[int], *, but: tuple[str, ...] = ()) -> list[Trace]:
    """A line for each baseline, but for those that other lines stand for."""
    known = [(name, mean) for name, mean in baselines(run).items() if name not in but]
    lines = []
    for i, (name, mean) in enumerate(known):
        style = FAINT if but else (BEFORE, TRIVIAL, WRONG, AVERAGED)[i % 4]
        told = f"{name.replace('_', ' ')} ({number(mean, percent=run.accuracy)})"
        made = chart.line(told, span, [mean, mean], style, marked=False)
        made["line"] = made["line"] | ({"dash": _DASHES[i % len(_DASHES)]} if but else {})
        lines.append(made)
    return lines


def _fan(run: RunRecords) -> list[Trace]:
    found = outlook(run.history) if run.history.has("trivial", split="val") else None
    if found is None:
        return []
    middle = chart.line("power law: twice the steps", found.steps, found.middle, OURS, marked=False)
    middle["line"] = middle["line"] | {"dash": "dot", "width": 1.5}
    return [*chart.band(found.steps, found.low, found.high, FAINT), middle]


def _strip(run: RunRecords, traces: list[Trace], layout: dict[str, Any]) -> None:
    """The outer learning rate in a strip below, on the same outer steps."""
    if not run.history.has("lr"):
        return
    steps, rates = scalars(run.history, "lr")
    strip = chart.line("outer learning rate", steps, rates, FAINT, marked=False, yaxis="y2", showlegend=False)
    traces.append(strip)
    layout["yaxis"]["domain"] = [0.3, 1]
    layout["yaxis2"] = {"domain": [0, 0.16], "title": {"text": "rate"}, "rangemode": "tozero", "nticks": 3}
    layout["xaxis"]["anchor"] = "y2"


def _shade(start: int, end: int) -> dict[str, Any]:
    whole = {"type": "rect", "yref": "y domain", "y0": 0, "y1": 1, "layer": "below", "line": {"width": 0}}
    return whole | {"x0": start, "x1": end, "fillcolor": chart.colour("window")}


def _rows(columns: dict[str, Curve]) -> list[tuple[Any, ...]]:
    """A line for each outer step of the first column; the others where they have one."""
    at = [dict(zip(c.steps, c.mean.tolist(), strict=True)) for c in columns.values()]
    return [(step, *(number(c[step]) if step in c else "" for c in at)) for step in at[0]]


def _named(run: RunRecords) -> str:
    return run.metric if run.metric in ("accuracy", "score") else run.metric.upper()


SECTION = Section(
    "convergence",
    "Convergence",
    "Has it levelled off, and well below what needs no learning?",
    of_each_run(("score", score), ("probe loss", loss), ("training loss", training)),
)
