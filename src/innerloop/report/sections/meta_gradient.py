"""Whether the meta-gradient still carries a signal, and whether every layer hears it."""

from __future__ import annotations

import numpy as np

from innerloop.diagnose.finding import NotEvaluated
from innerloop.report import chart
from innerloop.report.chart import FAINT, OURS, SERIES, TRIVIAL, WRONG, Chart
from innerloop.report.curves import running_mean, running_ratio, scalars
from innerloop.report.markup import number
from innerloop.report.records import RunRecords
from innerloop.report.section import Section, of_each_run


def norms(run: RunRecords) -> Chart:
    """The debiased squared norm beside the raw one."""
    steps, signal = scalars(run.history, "signal")
    traces = []
    raw: dict[int, float] = {}
    if run.history.has("norm"):
        at, found = scalars(run.history, "norm")
        raw = dict(zip(at, (found**2).tolist(), strict=True))
        traces.append(chart.line("raw, mostly noise", list(raw), list(raw.values()), FAINT))
    traces.append(chart.line("debiased", steps, signal))
    layout = chart.axes("outer step", "squared norm", chart.level(0.0, "", TRIVIAL))
    beyond = chart.cut(layout, traces)
    told = f" {beyond} values lie beyond this axis; the table has them." if beyond else ""
    return Chart(
        "Squared norm of the meta-gradient",
        "Read the debiased line: it falls to zero as a run converges, and may dip below zero there by "
        "chance. The raw norm, greyed, is mostly the noise of the choice of tasks, and stays where it is "
        "in healthy runs." + told,
        traces,
        layout,
        ("outer step", "debiased", "raw"),
        [(s, number(v), number(raw.get(s))) for s, v in zip(steps, signal.tolist(), strict=True)],
    )


def signal_to_noise(run: RunRecords) -> Chart:
    """The debiased squared norm against the variance of a meta-batch's mean."""
    steps, signal = scalars(run.history, "signal")
    at, noise = scalars(run.history, "noise")
    if at != steps:
        raise NotEvaluated("signal and noise were not measured at the same looks")
    with np.errstate(divide="ignore", invalid="ignore"):
        each = np.where(noise > 0, signal / noise, np.nan)
    smooth = running_ratio(signal, noise)
    traces = [
        chart.line("each look", steps, each, FAINT, mode="markers"),
        chart.line("over five looks", steps, smooth, OURS, marked=False),
    ]
    layout = chart.axes("outer step", "signal / noise", chart.level(1.0, "1: clearly not zero", WRONG))
    beyond = chart.cut(layout, traces)
    told = f" {beyond} values lie beyond this axis; the table has them." if beyond else ""
    return Chart(
        "Signal against noise of a meta-batch",
        "Above 1 the meta-gradient is clearly not zero: a flat loss there is a stall, not convergence. "
        "Small values alone do not mean that the run converged; more tasks per step raise them." + told,
        traces,
        layout,
        ("outer step", "this look", "over five looks"),
        [(s, number(e), number(m)) for s, e, m in zip(steps, each.tolist(), smooth.tolist(), strict=True)],
    )


def updates(run: RunRecords) -> Chart:
    """The relative size of outer updates by layer."""
    layers = run.history.places("update", "layer")
    if not layers:
        run.history.series("update")
        raise NotEvaluated("no record of update by layer")
    found = {layer: dict(zip(*_scalars(run, "update", layer=layer), strict=True)) for layer in layers}
    steps = sorted({step for by_step in found.values() for step in by_step})
    values = np.array([[found[layer].get(step, np.nan) for step in steps] for layer in layers])
    traces, layout = chart.heat_map(steps, layers, values, "update / weight", x_title="outer step")
    return Chart(
        "Size of outer updates against weights, by layer",
        "Rows should be of similar brightness, about 1e-4 to 1e-2: a dark row is a layer that hardly learns, "
        "a bright one may break the run; where there is no colour, it did not move at all.",
        traces,
        layout,
        ("layer", *(f"step {steps[i]}" for i in _few(len(steps)))),
        [(name, *(number(values[k, i]) for i in _few(len(steps)))) for k, name in enumerate(layers)],
        wide=True,
        height=150 + 22 * min(len(layers), 24),
    )


def backward(run: RunRecords) -> Chart:
    """Gradients on their way back through the inner steps."""
    layers = run.history.places("backward", "layer")
    places = sorted(run.history.places("backward", "inner_step"))
    if not layers or not places:
        run.history.series("backward")
        raise NotEvaluated("no record of backward by layer")
    look = max(
        run.history.series("backward", layer=layer, inner_step=j).steps[-1]
        for layer in layers
        for j in places
        if run.history.has("backward", layer=layer, inner_step=j)
    )
    values = np.full((len(layers), len(places)), np.nan)
    for k, layer in enumerate(layers):
        for i, j in enumerate(places):
            if run.history.has("backward", layer=layer, inner_step=j):
                by_step = dict(zip(*_scalars(run, "backward", layer=layer, inner_step=j), strict=True))
                values[k, i] = by_step.get(look, np.nan)
    traces, layout = chart.heat_map(places, layers, values, "norm", x_title="inner step")
    return Chart(
        f"Gradients flowing back through the inner loop, at outer step {look}",
        "The query loss's derivative after each inner step. Rows should keep their brightness from right "
        "to left: one that goes dark vanishes on its way back, one that lights up explodes.",
        traces,
        layout,
        ("layer", *(f"after {j}" for j in places)),
        [(name, *(number(v) for v in values[k].tolist())) for k, name in enumerate(layers)],
        wide=True,
        height=150 + 22 * min(len(layers), 24),
    )


def first_order(run: RunRecords) -> Chart:
    """What the second derivatives are worth."""
    steps, cosine = scalars(run.history, "first_order")
    traces = [chart.line("cosine", steps, cosine)]
    errors: dict[int, float] = {}
    if run.history.has("first_order_error"):
        at, found = scalars(run.history, "first_order_error")
        errors = dict(zip(at, found.tolist(), strict=True))
        traces.append(chart.line("relative error", at, found, WRONG))
    return Chart(
        "First-order beside the exact meta-gradient",
        "A cosine near 1 says that the cheaper first-order gradient points the same way here; the relative "
        "error says what it misses. Both usually drift apart as training goes on.",
        traces,
        chart.axes("outer step", "", chart.level(1.0, "", TRIVIAL)),
        ("outer step", "cosine", "relative error"),
        [(s, number(c), number(errors.get(s))) for s, c in zip(steps, cosine.tolist(), strict=True)],
    )


def clipping(run: RunRecords) -> Chart:
    """How often the bound on the meta-gradient acts."""
    rows = [row for row in run.history.metrics if isinstance(row.get("clipped"), (int, float))]
    if not rows:
        raise NotEvaluated("the meta-gradient has no bound")
    steps = [row["step"] for row in rows]
    shares = running_mean(np.array([float(row["clipped"]) for row in rows])).tolist()
    return Chart(
        "Share of outer steps whose meta-gradient was clipped",
        "Averaged over five lines of metrics. A bound that acts now and then holds off single tasks; one "
        "that always acts sets the size of every step, as a smaller learning rate would.",
        [chart.line("clipped", steps, shares, marked=False)],
        chart.axes("outer step", "share"),
        ("outer step", "share clipped"),
        [(s, number(v)) for s, v in zip(steps, shares, strict=True)],
    )


def families(run: RunRecords) -> Chart:
    """Whether the gradients of two families of tasks point apart."""
    pairs = run.history.places("conflict", "layer")
    if not pairs:
        raise NotEvaluated("the tasks are of one family, as far as they tell")
    traces, columns = [], {}
    for i, pair in enumerate(pairs):
        found = run.history.series("conflict", layer=pair)
        across, one, other = np.stack(found.values).T[:3]
        within = np.sqrt(np.maximum(running_mean(one), 0.0) * np.maximum(running_mean(other), 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine = np.where(within > 0, running_mean(across) / within, np.nan)
        traces.append(chart.line(str(pair), found.steps, cosine, SERIES[i % len(SERIES)]))
        columns[str(pair)] = dict(zip(found.steps, cosine.tolist(), strict=True))
    limit = run.threshold("TASK_CONFLICT")
    marks = [chart.level(0.0, "", TRIVIAL)]
    marks += (
        [] if limit is None else [chart.level(limit, f"{number(limit)}: they pull apart", WRONG, above=False)]
    )
    steps = sorted({step for by_step in columns.values() for step in by_step})
    return Chart(
        "Cosine of the meta-gradients of two families",
        "Averaged over five looks, and free of the noise of tasks. Clearly below zero, what helps one family "
        "harms the other. There is no point where a family's own gradient is not clearly above zero.",
        traces,
        chart.axes("outer step", "cosine", *marks),
        ("outer step", *columns),
        [(s, *(number(by_step.get(s)) for by_step in columns.values())) for s in steps],
    )


def _scalars(run: RunRecords, name: str, **place: str | int) -> tuple[list[int], list[float]]:
    steps, values = scalars(run.history, name, **place)
    return steps, values.tolist()


def _few(count: int, most: int = 8) -> list[int]:
    """Places of the columns that a table of a heat map shows."""
    return (
        sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
        if count > most
        else list(range(count))
    )


SECTION = Section(
    "meta-gradient",
    "Meta-gradient",
    "Is there still a signal to follow, and does every layer get it?",
    of_each_run(
        ("norms", norms),
        ("signal against noise", signal_to_noise),
        ("update ratios by layer", updates),
        ("gradients through the inner loop", backward),
        ("clipped steps", clipping),
        ("first-order gap", first_order),
        ("families of tasks", families),
    ),
)
