"""Whether the model uses its support set at all, and whether what it learned carries over to unseen tasks."""

from __future__ import annotations

from innerloop.diagnose.finding import NotEvaluated
from innerloop.report import chart
from innerloop.report.chart import BEFORE, OURS, TRIVIAL, WRONG, Chart
from innerloop.report.curves import dependence, mean_curve, task_losses, val_over_train
from innerloop.report.markup import number, with_interval
from innerloop.report.records import RunRecords
from innerloop.report.section import Section, of_each_run

_SPLITS = (("val", "validation tasks", OURS), ("train", "training tasks", BEFORE))


def support_dependence(run: RunRecords) -> Chart:
    """How much of what was learned another task's support takes away."""
    traces, columns, reason = [], {}, ""
    for split, label, style in _SPLITS:
        try:
            found = dependence(run.history, split)
        except NotEvaluated as error:
            reason = str(error)
            continue
        traces += [*chart.band(found.steps, found.low, found.high, style)]
        traces.append(chart.line(label, found.steps, found.mean, style))
        told = [with_interval(m, h) for m, h in zip(found.mean.tolist(), found.half.tolist(), strict=True)]
        columns[label] = dict(zip(found.steps, told, strict=True))
    if not traces:
        raise NotEvaluated(reason)
    limit = run.threshold("MEMORISATION")
    marks = [chart.level(0.0, "0: the support is ignored", WRONG)]
    marks += [] if not limit else [chart.level(limit, f"{number(limit)}: memorisation", TRIVIAL)]
    steps = sorted({step for by_step in columns.values() for step in by_step})
    return Chart(
        "Support dependence (wrong − post) / (trivial − post)",
        "How much of what is gained over a constant guess is lost with the support of another task. At 1 the "
        "model learns all of it from the support; near 0 it answers alike whatever it is shown, so it has "
        "memorised tasks or does not adapt.",
        traces,
        chart.axes("outer step", "share of the gain", *marks),
        ("outer step", *columns),
        [(s, *(by_step.get(s, "") for by_step in columns.values())) for s in steps],
    )


def gap(run: RunRecords) -> Chart:
    """Loss on unseen against loss on seen tasks, as a ratio."""
    found = val_over_train(run.history)
    limit = run.threshold("META_OVERFIT")
    marks = [chart.level(1.0, "1: no gap", TRIVIAL, above=False)]
    marks += [] if limit is None else [chart.level(limit, f"{number(limit)}: overfit", WRONG)]
    return Chart(
        "Validation loss over training loss",
        "Near 1 what is learned carries over to unseen tasks. A ratio that climbs is meta-overfitting: "
        "more tasks, augmentation or regularisation help.",
        [
            *chart.band(found.steps, found.low, found.high),
            chart.line("validation / training, 95 % interval", found.steps, found.mean),
        ],
        chart.axes("outer step", "ratio", *marks),
        ("outer step", "validation / training"),
        [
            (s, with_interval(m, h))
            for s, m, h in zip(found.steps, found.mean.tolist(), found.half.tolist(), strict=True)
        ],
    )


def both(run: RunRecords) -> Chart:
    """Losses after adaptation on seen and unseen tasks."""
    curves = {
        label: (mean_curve(task_losses(run.history, "post", split=split)), style)
        for split, label, style in _SPLITS
    }
    traces = []
    for label, (found, style) in curves.items():
        traces += [*chart.band(found.steps, found.low, found.high, style)]
        traces.append(chart.line(label, found.steps, found.mean, style))
    train = dict(
        zip(curves["training tasks"][0].steps, curves["training tasks"][0].mean.tolist(), strict=True)
    )
    val = dict(
        zip(curves["validation tasks"][0].steps, curves["validation tasks"][0].mean.tolist(), strict=True)
    )
    return Chart(
        "Loss after adaptation on seen and unseen tasks",
        "The two lines should fall together. Where only the one of training tasks falls, the gap is "
        "overfitting.",
        traces,
        chart.fitted_axes("outer step", "loss", [found.mean for found, _ in curves.values()]),
        ("outer step", "validation tasks", "training tasks"),
        [(s, number(val.get(s)), number(v)) for s, v in train.items()],
    )


SECTION = Section(
    "memorisation",
    "Memorisation and overfit",
    "Does it learn from the support set, and does that carry over to unseen tasks?",
    of_each_run(
        ("support dependence", support_dependence),
        ("validation over training loss", gap),
        ("losses on seen and unseen tasks", both),
    ),
)
